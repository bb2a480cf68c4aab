"""Which labels are learned from: every reason, thresholds, prompts, unfinished folders."""

import math

import pytest

from distill.data.files import read_json, read_jsonl, write_json, write_jsonl
from distill.whisper.recipe import PseudoLabelConfig
from pseudo_label.filter import describe, drop_reason, filter_rows, read_labels, run_filter


def row(name="w0", **changes) -> dict:
    return {
        "id": name, "previous": None, "reference": "hello there", "label": "Hello there.",
        "tokens": [1, 2], "wer": 0.0, "cer": 0.0, "unit": "word", "truncated": False,
        "duration": 36.0,
    } | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"truncated": True}, "truncated"),
        ({"truncated": True, "label": "", "wer": 1.0}, "truncated"),
        ({"label": ""}, "empty_label"),
        ({"label": "", "reference": None, "wer": None}, "empty_label"),
        ({"reference": "...", "wer": None}, "empty_reference"),
        ({"reference": None, "wer": None}, None),
        ({"wer": 0.11}, "wer"),
        ({"wer": 3.0}, "wer"),
        ({"cer": 3.0}, None),
        ({"unit": "char", "cer": 0.05, "wer": 1.0}, None),  # a sentence is one "word"
        ({"unit": "char", "cer": 0.11, "wer": 0.0}, "cer"),
        ({"unit": "char", "cer": None, "wer": None}, "empty_reference"),
    ],
)
def test_reasons(changes, reason):
    assert drop_reason(row(**changes), PseudoLabelConfig(max_wer=0.1)) == reason


def test_the_threshold_is_inclusive():
    """The reference script drops what is exactly at the threshold."""
    for limit in (0.0, 0.1, 1 / 3):
        config = PseudoLabelConfig(max_wer=limit)
        assert drop_reason(row(wer=limit), config) is None
        assert drop_reason(row(wer=math.nextafter(limit, 1)), config) == "wer"


def test_no_threshold_keeps_every_wer():
    assert drop_reason(row(wer=9.0), PseudoLabelConfig(max_wer=None)) is None
    assert drop_reason(row(truncated=True), PseudoLabelConfig(max_wer=None)) == "truncated"


def test_unreferenced():
    config = PseudoLabelConfig(keep_unreferenced=False)
    assert drop_reason(row(reference=None, wer=None), config) == "no_reference"
    assert drop_reason(row(), config) is None


def test_caseless_scripts_are_kept():
    """The reference script drops every label that equals its own upper case (fault 12)."""
    assert drop_reason(row(label="你好", reference="你好"), PseudoLabelConfig()) is None


def test_prompts_come_from_kept_windows_only():
    rows = [
        row("w0", tokens=[10]),
        row("w1", previous="w0", tokens=[11], wer=0.9),
        row("w2", previous="w1", tokens=[12]),
        row("w3", previous="w2", tokens=[13]),
        row("w4", previous="elsewhere", tokens=[14]),
    ]
    kept, drops = filter_rows(rows[::-1], PseudoLabelConfig())  # shards are sorted by length
    assert {r["id"]: r["prompt"] for r in kept} == {"w0": [], "w2": [], "w3": [12], "w4": []}
    assert drops == {"wer": 1}
    kept, _ = filter_rows(rows, PseudoLabelConfig(max_wer=None))
    assert {r["id"]: r["prompt"] for r in kept} == {
        "w0": [], "w1": [10], "w2": [11], "w3": [12], "w4": []}


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "settings.json", {"num_shards": 2})
    write_jsonl(tmp_path / "part-00000.jsonl", [row("w0"), row("w1", wer=0.2)])
    write_jsonl(tmp_path / "part-00001.jsonl", [row("w2", previous="w0"), row("w3", label="")])
    return tmp_path


def test_read_labels(folder):
    assert [r["id"] for r in read_labels(folder)] == ["w0", "w1", "w2", "w3"]
    (folder / "part-00001.safetensors").touch()  # encoder states: not labels
    (folder / ".part-00002.jsonl.77.tmp").write_text("half")
    assert len(read_labels(folder)) == 4


def test_read_labels_of_unfinished_runs(folder, tmp_path):
    (folder / "part-00001.jsonl").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 shards are labelled; run `make NAME\.label`"):
        read_labels(folder)
    (folder / "settings.json").unlink()
    with pytest.raises(ValueError, match="no labels in .*: run `make NAME.label` first"):
        read_labels(folder)


def test_run_filter_writes_what_was_kept_and_why(folder):
    report = run_filter(folder, PseudoLabelConfig(max_wer=0.1))
    assert report == read_json(folder / "filter.json") == {
        "max_wer": 0.1, "keep_unreferenced": True, "kept": 2, "kept_hours": 0.02, "total": 4,
        "total_hours": 0.04, "drops": {"empty_label": 1, "wer": 1},
    }
    kept = read_jsonl(folder / "kept.jsonl")
    assert [(r["id"], r["prompt"]) for r in kept] == [("w0", []), ("w2", [1, 2])]
    sentence = describe(report)
    assert "Kept 2 of 4 windows (1.2 of 2.4 minutes; WER <= 10%)" in sentence
    assert "dropped: 1 empty_label, 1 wer" in sentence


def test_thresholds_are_swept_without_labelling(folder):
    kept = [run_filter(folder, PseudoLabelConfig(max_wer=w))["kept"] for w in (0.0, 0.2, None, 0.0)]
    assert kept == [2, 3, 3, 2]
    assert "any WER" in describe(run_filter(folder, PseudoLabelConfig(max_wer=None)))
