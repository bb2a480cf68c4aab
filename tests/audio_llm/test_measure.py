"""Evaluation of a tiny model: keys of results.json, the prompt of the cascade."""

import json

from distill.audio_llm.data.sequences import AUDIO
from eval.__main__ import main as evaluate
from eval.audio_llm.cascade import _prompt, shown_pairs
from eval.audio_llm.parts import load_model, load_split
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


def test_the_cascade_reads_text_alone(trained, recipe):  # noqa: F811
    split = load_split(load(recipe, trained), "validation")
    model = load_model(trained / "student", split.encoder)
    shown = shown_pairs(split.examples)[:1]
    prompt = _prompt(model, "translation", "hola", shown)
    assert AUDIO not in prompt.ids
    assert model.tokenizer.decode(prompt.ids) == (
        "<|im_start|>user\nTranslate the spoken text to English.\n"
        f"{shown[0].spoken}<|im_end|>\n<|im_start|>assistant\n{shown[0].answer}<|im_end|>\n"
        "<|im_start|>user\nhola<|im_end|>\n<|im_start|>assistant\n")
