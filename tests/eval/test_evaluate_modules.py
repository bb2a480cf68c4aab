"""The metric modules, loaded as a user would: by path, offline, from another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill.metrics.error_rates import error_counts, error_rate

MODULES = Path(__file__).parents[2] / "eval" / "modules"
PREDICTIONS = ["hello word", "thank you", "", "one two three"]
REFERENCES = ["hello world", "", "gone", "one  two\nthree"]
SCRIPT = """
import sys

sys.modules["transformers"] = None  # evaluate would import it, which takes 5 s
import evaluate
del sys.modules["transformers"]
import json

results = {}
for name in ("wer", "cer"):
    metric = evaluate.load(f"{sys.argv[1]}/{name}")
    predictions, references = json.loads(sys.argv[2])
    results[name] = metric.compute(predictions=predictions, references=references)
    results[name + "_empty"] = metric.compute(predictions=["a"], references=[""])
    results[name + "_about"] = metric.inputs_description
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("evaluate")
    folder = tmp_path_factory.mktemp("elsewhere")
    inputs = json.dumps([PREDICTIONS, REFERENCES])
    offline = {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | offline
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(MODULES), inputs],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "unit"), [("wer", "word"), ("cer", "char")])
def test_module_agrees_with_our_metrics(results, name, unit):
    pairs = zip(REFERENCES, PREDICTIONS, strict=True)
    assert results[name] == pytest.approx(error_rate(error_counts(r, p, unit) for r, p in pairs))
    assert results[f"{name}_empty"] is None
    assert "references" in results[f"{name}_about"]


def test_module_by_hand(results):
    assert results["wer"] == pytest.approx((1 + 2 + 1) / 6)
    assert results["cer"] == pytest.approx((1 + 9 + 4) / (11 + 4 + 13))
