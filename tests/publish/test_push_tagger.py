"""A tagger: its card, its push with the code of its architecture, and loading it back."""

import contextlib
import io
import re

import numpy as np
import pytest
import torch

from distill.data.files import write_json
from distill.methods import evaluation_settings
from distill.metrics.tagging import evaluate_tags
from eval.plots import write_plots
from tests.publish.conftest import load

REPO = "somebody/tiny-student"
CLASSES = ["bell", "cat", "dog", "rain"]
RECIPE = """\
method: ced
data: {{train: [data/train.jsonl], test: [data/test.jsonl], clip_seconds: 3.0}}
teacher: {{members: [{{model: "some.module:function"}}, {{model: mispeech/ced-base}}]}}
hub: {{data_name: kitchen sounds}}
output_dir: {run}
"""


def system(seed: int, **more) -> dict:
    generator = np.random.default_rng(seed)
    targets = generator.random((40, len(CLASSES))) < 0.3
    targets[:, 3] = False  # no rain in the test split
    scores = np.clip(0.3 * targets + generator.random(targets.shape) * 0.7, 0, 1)
    return evaluate_tags(scores, targets, CLASSES, num_bootstrap=30) | more


@pytest.fixture
def tagger(tmp_path, monkeypatch):
    from distill.ced.model.extractor import CedFeatureExtractor
    from distill.ced.model.modeling import new_model
    from distill.ced.teachers import ensemble as teachers

    run = tmp_path / "runs" / "tiny"
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(run=run))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    new_model("tiny", CLASSES, **shape).save_pretrained(run / "student")
    CedFeatureExtractor().save_pretrained(run / "student")
    # nothing is downloaded to see what a member is
    monkeypatch.setattr(teachers, "content_of", lambda member: member.model)
    recipe, trained = load(tmp_path), {"settings": "x", "steps": 70, "best_step": 60,
                                       "best_score": -0.71,
                                       "data": {"count": 1234, "hours": 3.4217,
                                                "drops": {"duplicate_id": 2, "empty": 1}}}
    write_json(run / "student.json", trained)
    models = {"student": system(1, parameters=5_480_000, clips_per_second=231.7, bytes=21_900_000,
                                ms_per_10_s=9.13),
              "teacher": system(2, parameters=85_900_000, clips_per_second=17.3, bytes=None,
                                ms_per_10_s=88.4)}
    write_json(run / "eval" / "results.json", {
        "split": "test", "num_recordings": 40, "num_clips": 43, "hours": 0.0345, "drops": {},
        "clip_seconds": 3.0, "batch_size": 16, "device": "cpu", "threads": 2, "systems": models,
        "paired": {"map_difference": -0.0312, "map_difference_ci": [-0.07, 0.01], "p_value": 0.12},
        "settings": evaluation_settings(recipe, trained),
    })
    write_plots(run)
    return tmp_path, models


def test_a_tagger_is_pushed_and_loaded_back(tagger, hub, push, modules_folder):
    from transformers import AutoFeatureExtractor

    from distill.ced.model.modeling import CedForAudioClassification

    folder, _ = tagger
    push(folder)
    sent = set(hub.repos["model", REPO].files)
    assert {"model.safetensors", "preprocessor_config.json", "modeling_ced.py", "results.json",
            "configuration_ced.py", "feature_extraction_ced.py", "ced_frontend.py",
            "plots/1-quality.svg", "plots/2-speed.svg"} <= sent
    assert "Nothing to do" in push(folder)
    student = folder / "runs/tiny/student"
    samples = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    inputs = AutoFeatureExtractor.from_pretrained(student)(
        samples, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        wanted = CedForAudioClassification.from_pretrained(student).eval()(**inputs).logits
    student.rename(folder / "elsewhere")
    card = hub.repos["model", REPO].files["README.md"].content.decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.S)
    scope = {"samples": samples}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(snippet, scope)
    torch.testing.assert_close(scope["scores"], wanted.sigmoid()[0])
    assert [line.split(":")[0] for line in out.getvalue().splitlines()] == [
        CLASSES[index] for index in wanted[0].argsort(descending=True)]


def test_the_card_of_a_tagger(tagger, push):
    from huggingface_hub import ModelCard

    folder, models = tagger
    push(folder, "hub.dry_run=true")
    card = (folder / "runs/tiny/student/README.md").read_text()
    rows = {}
    for line in card.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[3].startswith("`"):
            rows[cells[3].strip("`")] = cells[1:3]
    scales = {"mean_average_precision": 100, "auc": 100, "lwlrap": 100, "ece": 100,
              "parameters": 1e-6, "bytes": 1e-6}
    assert set(rows) >= {*scales, "d_prime_of_mean_auc", "brier", "clips_per_second", "ms_per_10_s"}
    for key, cells in rows.items():
        for role, cell in zip(("teacher", "student"), cells, strict=True):
            value, ends = models[role][key], models[role].get(f"{key}_ci") or []
            wanted = [] if value is None else [scales.get(key, 1) * x for x in (value, *ends)]
            shown = [float(text) for text in re.findall(r"\d+(?:\.\d+)?", cell)]
            assert shown == pytest.approx(wanted, abs=0.051), key
    assert "-3.12 points of mAP [-7.0, +1.0], paired bootstrap, p = 0.120" in card
    assert "40 recordings, 2.1 minutes" in card and "3 of 4 classes have positives" in card
    assert "Not in the test split, so that nothing is known of them: 1 of 4 classes." in card
    assert "| learned from | 1,234 clips, 3.42 h |" in card
    assert "1,234 clips of training audio (3.42 h); left out: 2 duplicate_id, 1 empty." in card
    assert "70 steps" in card and "weights of step 60" in card and "kitchen sounds" in card
    data = ModelCard(card).data
    assert data.pipeline_tag == "audio-classification" and data.base_model == "mispeech/ced-base"
    value = round(100 * models["student"]["mean_average_precision"], 2)
    assert ("mean_average_precision", value) in [
        (r.metric_type, r.metric_value) for r in data.eval_results]


@pytest.mark.parametrize(("overrides", "said"), [
    ((), "step 60, the last one."),
    (("data.validation=[v.jsonl]",), "step 60, which was the best on the validation split."),
    (("data.validation=[v.jsonl]", "train.keep_best=false"), "step 60, the last one."),
])
def test_a_card_says_why_these_weights(tmp_path, overrides, said):
    from types import SimpleNamespace

    from distill.ced.recipe import load_recipe
    from distill.publish.tags import making

    (tmp_path / "recipe.yaml").write_text(RECIPE.format(run=tmp_path))
    facts = SimpleNamespace(trained={"steps": 60, "best_step": 60})
    assert said in making(facts, load_recipe(tmp_path, list(overrides)))
