"""The model card holds what was measured, and the real Hub client sends it to a Hub in a thread."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from distill.data.files import read_json, write_json
from distill.hub import FILES, push, write_card
from distill.methods import load_recipe
from distill.testing import write_tiny_corpus

ROOT = Path(__file__).resolve().parents[1]
REPO = "somebody/tiny-student"
RECIPE = """\
method: whisper
language: en
data: {{train: [{train}], test: [{test}]}}
teacher: {{model: openai/whisper-base}}
pseudo_label: {{timestamps: false}}
views: {{timestamp_probability: 0, previous_text_probability: 0}}
evaluation: {{num_bootstrap: 50}}
output_dir: {run}
"""


def model_entry(**changes) -> dict:
    return {
        "model": "m", "dtype": "float32", "device": "cpu", "parameters": 72_593_920,
        "decoder_parameters": 52_000_000, "file_bytes": 290_400_000, "wer": 0.07123,
        "wer_ci": [0.0512, 0.0934], "cer": 0.0345, "cer_ci": None, "wer_orthographic": 0.2468,
        "wer_orthographic_ci": [0.2, 0.3], "insertions_per_1000_words": 3.27,
        "repeated_5grams_per_1000_words": 0.0, "looping_units": 1, "rtfx": 41.27, **changes,
    }


RESULTS = {
    "split": "test", "normalizer": "english", "num_units": 17, "num_words": 913, "hours": 0.0938,
    "drops": {}, "decoding": "greedy, batch 16, no timestamps", "threads": 2,
    "teacher": model_entry(),
    "student": model_entry(parameters=55_781_888, decoder_parameters=35_190_784, wer=0.08351,
                           file_bytes=223_100_000, rtfx=97.31, cer=None),
    "student_against_teacher": {"wer": 0.04},
    "paired": {"wer_difference": 0.01222, "wer_difference_ci": [-0.005, 0.031], "p_value": 0.172},
}
LABELS = {"filter": {"max_wer": 0.1, "keep_unreferenced": True, "check_script": False,
                     "max_repeated_ngrams": None},
          "kept": 131, "kept_hours": 0.2912,
          "total": 144, "total_hours": 0.3213, "drops": {"truncated": 2, "wer": 11}}
TRAINED = {"settings": "abc", "steps": 500, "best_step": 400, "best_score": 0.0712}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_teacher) -> Path:
    """A recipe whose run has a student and an evaluation."""
    from eval import __main__ as evaluation

    folder = tmp_path_factory.mktemp("hub")
    run = folder / "runs" / "tiny"
    shutil.copytree(tiny_teacher, run / "student")
    manifests = write_tiny_corpus(folder / "corpus", {"train": 2, "test": 2})
    (folder / "recipe.yaml").write_text(RECIPE.format(run=run, **manifests))
    write_json(run / "student.json", TRAINED)
    write_json(run / "pseudo_labels" / "filter.json", LABELS)
    (run / "student" / "notes.txt").write_text("not for others")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_measure_both", lambda recipe, run: (RESULTS, []))
        evaluation.evaluate(load(folder), run)  # so that `settings` are those evaluation writes
    return folder


def load(folder: Path, *overrides: str):
    return load_recipe(str(folder), list(overrides))


def card_of(folder: Path, *overrides: str) -> str:
    recipe = load(folder, *overrides)
    return write_card(Path(recipe.output_dir), recipe).read_text(encoding="utf-8")


def test_metadata(trained):
    from huggingface_hub import ModelCard

    data = ModelCard(card_of(trained)).data
    assert data.base_model == "openai/whisper-base" and data.language == "en"
    assert data.tags == ["automatic-speech-recognition", "whisper", "audio-distill"]
    assert data.metrics == ["wer"] and data.license is None  # the CER was not measured
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("wer", 8.35)  # 100 * 0.08351, rounded
    assert result.dataset_name == "corpus/test" and data.model_name == "tiny"


def test_numbers_are_those_of_the_files(trained):
    card = card_of(trained)
    results = read_json(trained / "runs/tiny/eval/results.json")
    table = {}
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[3].startswith("`"):
            table[cells[3].strip("`")] = cells[1:3]
    scales = {"wer": 100, "cer": 100, "wer_orthographic": 100, "parameters": 1e-6,
              "decoder_parameters": 1e-6, "file_bytes": 1e-6}
    for key, cells in table.items():
        for role, cell in zip(("teacher", "student"), cells, strict=True):
            value = results[role][key]
            if value is None:
                assert cell == "-"
                continue
            shown = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", cell)]
            wanted = [value * scales.get(key, 1)]
            if f"{key}_ci" in results[role] and results[role][f"{key}_ci"]:
                wanted += [100 * end for end in results[role][f"{key}_ci"]]
                shown = [number for number in shown if number != 95]
            assert shown == pytest.approx(wanted, abs=0.51 if key == "file_bytes" else 0.051)
    assert set(table) >= {"wer", "cer", "wer_orthographic", "rtfx", "parameters", "file_bytes"}
    assert "+1.22 points of WER [-0.5, +3.1], paired bootstrap, p = 0.172" in card
    assert "17 units, 913 words, 5.6 minutes" in card
    assert "labels with a WER of at most 10% against the transcript, where there is one, were " \
        "kept: 131 of 144 windows, 0.2912 of 0.3213 h (dropped: 2 truncated, 11 wer)" in card
    assert "0.8 x cross-entropy to the labels + 1 x KL divergence" in card
    assert "squared error" not in card and "squared error" in card_of(
        trained, "loss.hidden_weight=1")
    assert "1 x total variation distance to the teacher" in card_of(
        trained, "loss.divergence=total_variation", "scores.method=decoder_state")
    assert "500 steps of 32 windows" in card and "weights of step 400" in card
    assert "do not ask for `return_timestamps=True`" in card


def test_every_filter_is_told(trained):
    path = trained / "runs" / "tiny" / "pseudo_labels" / "filter.json"
    more = {"max_wer": None, "check_script": True, "max_repeated_ngrams": 0.0}
    write_json(path, LABELS | {"filter": LABELS["filter"] | more})
    try:
        assert "labels with any WER against the transcript, where there is one, were kept if " \
            "they pass `check_script`, `max_repeated_ngrams=0` too: 131 of" in card_of(trained)
    finally:
        write_json(path, LABELS)


def test_a_local_teacher_is_not_told(trained):
    card = card_of(trained, "teacher.model=/data/secret/my-teacher")
    assert "my-teacher" in card and "secret" not in card and "base_model" not in card


def test_usage_runs(trained):
    import numpy as np

    card = card_of(trained, f"hub.repo_id={trained / 'runs/tiny/student'}")
    snippet = card.split("```python\n")[2].split("```")[0]
    said = {"samples": np.zeros(16_000, np.float32)}
    exec(snippet.replace("input_features", "input_features, max_new_tokens=3", 1), said)
    assert said["tokens"].shape[0] == 1


def test_errors(trained, tmp_path):
    with pytest.raises(ValueError, match="hub.repo_id is not set"):
        push(load(trained))
    repo = f"hub.repo_id={REPO}"
    with pytest.raises(ValueError, match=r"no student in .*make empty.train"):
        push(load(trained, repo, f"output_dir={tmp_path}/empty"))
    run = tmp_path / "unmeasured"
    write_json(run / "student.json", TRAINED)
    write_json(run / "student" / "config.json", {})
    with pytest.raises(ValueError, match=r"no evaluation in .*make unmeasured.eval"):
        push(load(trained, repo, f"output_dir={run}"))
    with pytest.raises(ValueError, match="another student or other settings"):
        push(load(trained, repo, "evaluation.num_bootstrap=51"))


class FakeHub(BaseHTTPRequestHandler):
    """Just what HfApi asks for when it creates a repository and commits small files."""

    def do_GET(self):
        if self.path == f"/api/models/{REPO}":
            self.answer({"id": REPO, "private": self.server.private, "tags": [], "siblings": []})
        else:
            self.send_error(404, self.path)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        if self.path == "/api/repos/create":
            self.answer({"url": f"{self.server.address}/{REPO}", "name": REPO})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False}
                                   for name in names]})
        elif self.path.endswith("/commit/main"):
            url = f"{self.server.address}/{REPO}/commit/{'0' * 40}"
            self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self.send_error(404, self.path)

    def answer(self, value: dict):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.requests, server.private = [], True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run_push(folder: Path, hub, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own: the client reads its address when it is imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in
             k.lower()}
    return subprocess.run(
        [sys.executable, "-m", "distill.hub", str(folder), f"hub.repo_id={REPO}"],
        cwd=ROOT, capture_output=True, text=True,
        env=clean | {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), **environment},
    )


def test_push_with_the_real_client(trained, hub):
    ran = run_push(trained, hub, HF_TOKEN="hf_test")
    assert ran.returncode == 0, ran.stderr
    assert f"Published: {hub.address}/{REPO}/commit/" in ran.stdout
    assert all(token == "Bearer hf_test" for _, token, _ in hub.requests)
    bodies = {}
    for path, _, body in hub.requests:
        bodies.setdefault(path.rpartition("/api/")[2], []).append(body)
    (created,) = bodies["repos/create"]
    created = json.loads(created)
    assert (created["organization"], created["name"]) == tuple(REPO.split("/"))
    assert created["visibility"] == "private"  # how the client says private=True since 2.0
    (commit,) = bodies[f"models/{REPO}/commit/main"]  # one commit
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines if line["key"] == "file"}
    student = trained / "runs/tiny/student"
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors",
            "tokenizer.json"} <= set(sent)
    assert "notes.txt" not in sent and all("/" not in name for name in sent)
    for name, data in sent.items():
        assert data == (student / name).read_bytes()
    assert b"8.35 %" in sent["README.md"]


def test_a_public_repository_is_not_taken_for_a_private_one(trained, hub):
    hub.private = False
    ran = run_push(trained, hub, HF_TOKEN="hf_test")
    assert ran.returncode == 1 and "hub.private=false" in ran.stderr
    assert not any("commit" in path for path, _, _ in hub.requests)


def test_no_login_and_no_hub(trained, hub):
    ran = run_push(trained, hub)
    assert ran.returncode == 1 and "hf auth login" in ran.stderr and not hub.requests
    ran = run_push(trained, hub, HF_TOKEN="hf_test", HF_ENDPOINT="http://127.0.0.1:9")
    assert ran.returncode == 1 and ran.stderr.startswith(f"error: hub.repo_id={REPO}: ")


def test_everything_a_student_consists_of_is_sent(trained):
    from fnmatch import fnmatch

    names = {path.name for path in (trained / "runs/tiny/student").iterdir()} - {"notes.txt"}
    assert all(any(fnmatch(name, pattern) for pattern in FILES) for name in names)
