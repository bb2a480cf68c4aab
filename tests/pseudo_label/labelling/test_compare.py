"""Labels against transcripts."""

import pytest

from distill.data.files import read_json, read_jsonl, write_json, write_jsonl
from pseudo_label.labelling.compare import compare, disagreement, recount


@pytest.mark.parametrize(("label", "second", "expected"), [
    ("one two three four", "one two three for", 0.25),
    ("...", "[Music]", 0.0), ("...", "word", 1.0), ("", "", 0.0), ("one", "", 1.0),
])
def test_disagreement(label, second, expected):
    assert disagreement(label, second, "basic", "en") == expected


def test_disagreement_in_characters():
    assert disagreement("今日は晴", "今日も晴", "auto", "ja") == 0.25


def row(reference, label, **fields) -> dict:
    return {"id": label, "language": None, "reference": reference, "label": label,
            **compare(reference, label, "basic", "es"), **fields, "settings": "old"}


@pytest.fixture
def recipe(tmp_path):
    from distill.whisper.recipe import WhisperRecipe

    found = WhisperRecipe(language="es", labels_dir=str(tmp_path))
    found.evaluation.normalizer = "unaccented"
    write_json(tmp_path / "settings.json", {"normalizer": "basic", "num_shards": 1})
    return found


def test_counting_again(recipe, tmp_path, capsys):
    rows = [row("numero uno", "número uno", second_label="numero uno", disagreement=0.5),
            row(None, "número")]
    assert rows[0]["wer"] == 0.5
    write_jsonl(tmp_path / "part-00000.jsonl", rows)
    recount(recipe)
    first, second = read_jsonl(tmp_path / "part-00000.jsonl")
    assert (first["wer"], first["substitutions"], first["disagreement"]) == (0.0, 0, 0.0)
    assert list(first) == list(rows[0]) and first["settings"] == second["settings"] != "old"
    assert second["wer"] is None
    assert read_json(tmp_path / "settings.json")["normalizer"] == "unaccented"
    assert "was basic, is unaccented" in capsys.readouterr().out
    recount(recipe)
    assert not capsys.readouterr().out, "once is enough"


def test_killed_while_counting(recipe, tmp_path, monkeypatch):
    for part in (0, 1):
        write_jsonl(tmp_path / f"part-0000{part}.jsonl", [row("numero", "número")])
    calls = []

    def killed(path, rows):
        if calls:
            raise KeyboardInterrupt
        calls.append(path)
        write_jsonl(path, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pseudo_label.labelling.compare.write_jsonl", killed)
        recount(recipe)
    recount(recipe)
    rates = [read_jsonl(path)[0]["wer"] for path in sorted(tmp_path.glob("part-*"))]
    assert rates == [0.0, 0.0]
