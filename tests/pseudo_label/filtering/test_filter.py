"""Which labels are learned from: thresholds, prompts, unfinished folders, what is written."""

import math
from dataclasses import asdict

import pytest

from distill.data.files import read_json, read_jsonl, write_json, write_jsonl
from distill.whisper.data.view_source import read_kept
from distill.whisper.recipe import DataConfig, FilterConfig, WhisperRecipe
from pseudo_label.filter import describe, filter_rows, run_filter
from pseudo_label.filtering.filters import drop_reason
from pseudo_label.labelling.shards import read_labels


def row(name="w0", **changes) -> dict:
    return {
        "id": name, "previous": None, "language": None, "reference": "hello there",
        "label": "Hello there.", "tokens": [1, 2], "wer": 0.0, "cer": 0.0, "unit": "word",
        "truncated": False, "duration": 36.0,
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
    assert drop_reason(row(**changes), FilterConfig(max_wer=0.1), "en") == reason


def test_the_threshold_is_inclusive():
    """The reference script drops what is exactly at the threshold."""
    for limit in (0.0, 0.1, 1 / 3):
        config = FilterConfig(max_wer=limit)
        assert drop_reason(row(wer=limit), config, "en") is None
        assert drop_reason(row(wer=math.nextafter(limit, 1)), config, "en") == "wer"


def test_no_threshold_keeps_every_wer():
    assert drop_reason(row(wer=9.0), FilterConfig(max_wer=None), "en") is None
    assert drop_reason(row(truncated=True), FilterConfig(max_wer=None), "en") == "truncated"


def test_unreferenced():
    config = FilterConfig(keep_unreferenced=False)
    assert drop_reason(row(reference=None, wer=None), config, "en") == "no_reference"
    assert drop_reason(row(), config, "en") is None


def test_prompts_come_from_kept_windows_only():
    rows = [
        row("w0", tokens=[10]),
        row("w1", previous="w0", tokens=[11], wer=0.9),
        row("w2", previous="w1", tokens=[12]),
        row("w3", previous="w2", tokens=[13]),
        row("w4", previous="elsewhere", tokens=[14]),
    ]
    kept, drops = filter_rows(rows[::-1], FilterConfig(), "en")  # shards are sorted by length
    assert {r["id"]: r["prompt"] for r in kept} == {"w0": [], "w2": [], "w3": [12], "w4": []}
    assert drops == {"wer": [rows[1]]}
    kept, _ = filter_rows(rows, FilterConfig(max_wer=None), "en")
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


def recipe_of(folder, language="en", **filters) -> WhisperRecipe:
    return WhisperRecipe(language=language, labels_dir=str(folder), data=DataConfig(train=[]),
                         filter=FilterConfig(**filters))


def test_run_filter_writes_what_was_kept_and_why(folder):
    report = run_filter(recipe_of(folder, max_wer=0.1, max_repeated_ngrams=0))
    assert report == read_json(folder / "filter.json")
    settings = report.pop("filter")
    assert settings == asdict(FilterConfig(max_wer=0.1, max_repeated_ngrams=0))
    assert report == {
        "kept": 2, "kept_hours": 0.02, "total": 4, "total_hours": 0.04,
        "drops": {"empty_label": 1, "wer": 1}, "drop_hours": {"empty_label": 0.01, "wer": 0.01},
    }
    kept = read_jsonl(folder / "kept.jsonl")
    assert [(r["id"], r["prompt"]) for r in kept] == [("w0", []), ("w2", [1, 2])]
    assert describe(report | {"filter": settings}) == (
        "Kept 2 of 4 windows (1.2 of 2.4 minutes; WER <= 10%, max_repeated_ngrams 0); "
        "dropped: 1 empty_label (0.6 minutes), 1 wer (0.6 minutes)."
    )
    assert "make NAME.sweep shows" in describe(report | {"filter": settings, "kept": 1})


def test_a_row_without_a_language_has_the_recipes(folder):
    write_jsonl(folder / "part-00001.jsonl", [
        row("ru", language="ru", label="Привет."), row("none", label="Привет.")])
    for language, kept in (("en", {"ru"}), ("ru", {"ru", "none"})):
        run_filter(recipe_of(folder, language, check_script=True, max_wer=None))
        names = {r["id"] for r in read_jsonl(folder / "kept.jsonl")}
        assert names & {"ru", "none"} == kept


def test_thresholds_are_swept_without_labelling(folder):
    kept = [run_filter(recipe_of(folder, max_wer=w))["kept"] for w in (0.0, 0.2, None, 0.0)]
    assert kept == [2, 3, 3, 2]
    unlimited = describe(run_filter(recipe_of(folder, max_wer=None, check_script=True)))
    assert "any WER, check_script)" in unlimited


def test_labels_of_another_filter_are_refused_and_the_keys_named(folder):
    run_filter(recipe_of(folder, max_wer=0.2, check_script=True))
    same = recipe_of(folder, max_wer=0.2, check_script=True)
    assert [r["id"] for r in read_kept(same)] == ["w0", "w1", "w2"]
    other = recipe_of(folder, max_wer=0.2, min_avg_logprob=-1.0)
    with pytest.raises(ValueError, match="filter.check_script=True, the recipe says False, "
                       r"filter.min_avg_logprob=None, the recipe says -1.0: run `python -m"):
        read_kept(other)
    run_filter(other := recipe_of(folder, max_wer=0.2, max_no_speech_prob=None))
    assert len(read_kept(other)) == 3
    write_json(folder / "filter.json", {"max_wer": 0.2, "kept": 3})  # of an older version
    with pytest.raises(ValueError, match="filter.max_wer=None, the recipe says 0.2"):
        read_kept(other)
