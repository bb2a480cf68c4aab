"""Evaluation of a tiny model: keys of results.json, the prompt of the cascade."""

import json

import numpy as np
import pytest

from distill.audio_llm.data.sequences import AUDIO
from distill.audio_llm.data.teacher import shown_pairs
from distill.data.files import read_jsonl
from eval.__main__ import main as evaluate
from eval.audio_llm.cascade import _prompt
from eval.audio_llm.closed import of_task
from eval.audio_llm.parts import load_model, load_split, spread
from eval.report.write import write_report
from tests.audio_llm.test_training import load, recipe, trained  # noqa: F401, fixtures


def test_results(trained, recipe, capsys, monkeypatch):  # noqa: F811
    manifest = str(recipe.parent / "train.jsonl")
    arguments = [str(recipe), f"output_dir={trained}", f"data.test=[{manifest}]",
                 "evaluation.num_bootstrap=20"]
    evaluate(arguments)
    results = json.loads((trained / "eval/results.json").read_text())
    assert {"wer", "wer_ci", "cascade_wer", "nll_gap", "nll_gap_ci"} <= set(results)
    assert results["tasks"]["kind"]["num_examples"] == 8
    lines = (trained / "eval/predictions.jsonl").read_text().splitlines()
    assert len(lines) == 16
    assert {"answer", "cascade", "whisper", "reference"} <= set(json.loads(lines[0]))
    assert "say: WER" in capsys.readouterr().out
    monkeypatch.setattr("eval.audio_llm.measure.load_model", None)
    evaluate(arguments)  # nothing has changed: it is read
    monkeypatch.undo()
    choice = "tasks=[{name: say, prompt: Say it., kind: recognition}, " \
        "{name: kind, prompt: Which?, kind: choice}]"
    evaluate([*arguments, choice])
    found = json.loads((trained / "eval/results.json").read_text())
    assert found["wer"] == results["wer"] and list(found["accuracy"]) == ["kind"]
    entry = found["accuracy"]["kind"]
    assert entry["chance"] == 1 / 3 and entry["num_questions"] == 8
    assert entry["joint"] == entry["audio_only"], "no transcript is told by this recipe"
    assert "  kind      " in capsys.readouterr().out
    rows = [row for row in read_jsonl(trained / "eval/predictions.jsonl") if row["task"] == "kind"]
    assert len(rows) == 8 and {row["answer"] for row in rows} <= {"low", "high", "none"}
    assert sum(r["answer"] == r["reference"] for r in rows) / 8 == pytest.approx(entry["joint"])
    check_report(trained)


def test_some_of_each_task(trained, recipe):  # noqa: F811
    split = load_split(load(recipe, trained), "validation")
    few = spread(split, 3)
    assert [e.id for e in few.examples] == ["say0", "kind0", "say2", "kind2", "say5", "kind5"]
    assert all(s is split.states[split.examples.index(e)]
               for e, s in zip(few.examples, few.states, strict=True))
    assert spread(split, None) is split and len(spread(split, 100).examples) == 16


def check_report(trained):  # noqa: F811
    """Of a run that was measured: what it answers, and the sound to it."""
    page = (trained / "report/index.html").read_text(encoding="utf-8")
    for part in ("Answers", "Is it listening?", "Examples", "Training: warm", "Training: listen"):
        assert f"<h2>{part}</h2>" in page
    assert page.count('<audio controls preload="metadata" src="data:audio/ogg;base64,') == 12
    assert "Answer to the audio alone" in page and "<dt>Options</dt><dd" in page
    rows = read_jsonl(trained / "eval/predictions.jsonl")
    assert rows[0]["reference"] in page and "broken" not in page
    results = trained / "eval/results.json"
    kept = results.read_text()
    results.unlink()
    assert "There are no results yet." in write_report(trained).read_text(encoding="utf-8")
    results.write_text(kept, encoding="utf-8")


def test_what_both_inputs_are_worth():
    right = {"joint": np.ones(40, bool), "audio_only": np.arange(40) < 10,
             "text_only": np.arange(40) < 20}
    found = of_task(right, 200, 0)
    assert (found["joint"], found["best_single"]) == (1.0, "text_only")
    assert found["joint_minus_best_single"] == 0.5
    low, high = found["joint_minus_best_single_ci"]
    assert 0.3 < low < 0.5 < high < 0.7


def test_the_cascade_reads_text_alone(trained, recipe):  # noqa: F811
    split = load_split(load(recipe, trained), "validation")
    model = load_model(trained / "student", split.encoder)
    shown = shown_pairs(split.examples, 1)
    prompt = _prompt(model, "translation", "hola", shown)
    assert AUDIO not in prompt.ids
    assert model.tokenizer.decode(prompt.ids) == (
        "<|im_start|>user\nTranslate the spoken text to English.\n"
        f"{shown[0].spoken}<|im_end|>\n<|im_start|>assistant\n{shown[0].answer}<|im_end|>\n"
        "<|im_start|>user\nhola<|im_end|>\n<|im_start|>assistant\n")
