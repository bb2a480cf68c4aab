"""Labels from a table: rows, tokens, filters, scores and training as with a teacher's labels."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

import pseudo_label.__main__ as command
from distill.data.files import read_json, read_jsonl
from distill.data.manifest import Row, read_manifest
from distill.data.speech.windows import Piece
from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from distill.whisper.recipe_sections import PseudoLabelConfig, TableConfig
from pseudo_label.filter import run_filter
from pseudo_label.labelling.shards import read_labels
from pseudo_label.outside.table import Said, texts_of
from pseudo_label.outside.table_backend import segment_of
from pseudo_label.sweep import main as sweep

TABLE = "pseudo_label.backend=table"


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("table"), small_teacher, train=8)


@pytest.fixture(scope="module")
def clips(recipe) -> list[Row]:
    return read_manifest(recipe.parent / "corpus" / "train.jsonl")[0]


def write_table(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def label(recipe: Path, run: Path, table: Path, *overrides: str) -> Path:
    command.main([str(recipe), f"output_dir={run}", TABLE, f"pseudo_label.table.path={table}",
                  *overrides])
    return run / "pseudo_labels"


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.jsonl"))}


def test_rows_scores_and_sweep(recipe, clips, tmp_path, capsys):
    texts = {clip.id: clip.text for clip in clips} | {clips[0].id: "<|0.00|>something else"}
    table = write_table(tmp_path / "labels.jsonl", [
        {"id": name, "text": text, "confidence": 0.5} for name, text in texts.items()])
    folder = label(recipe, tmp_path / "run", table)
    rows = read_labels(folder)
    assert sum(len(row["pieces"]) for row in rows) == len(clips)
    for row in rows:
        ids = [piece["id"] for piece in row["pieces"]]
        said = " ".join(texts[name] for name in ids).replace("<|0.00|>", "")
        assert row["label"] == said
        assert row["teacher"] == {"model": "another system", "revision": None}
        assert row["avg_logprob"] == pytest.approx(math.log(0.5), abs=1e-6)
        assert row["no_speech_prob"] is None and not row["truncated"]
        assert (row["wer"] == 0) == (clips[0].id not in ids)
        starts = [t for t in row["tokens"] if t >= 256]
        assert len(starts) == 2 * len(ids), "a beginning and an end of each clip"
        assert starts == sorted(starts)
    assert list((folder / "scores").rglob("shard-*")), "the teacher's scores of these texts"
    report = run_filter(load_recipe(str(recipe), [
        f"output_dir={tmp_path / 'run'}", TABLE, f"pseudo_label.table.path={table}",
        "filter.max_wer=0.1"]))
    assert report["drops"] == {"wer": 1}
    sweep([str(recipe), f"output_dir={tmp_path / 'run'}", TABLE,
           f"pseudo_label.table.path={table}"])
    assert "min_avg_logprob" in capsys.readouterr().out


def test_csv_says_the_same_as_json_lines(recipe, clips, tmp_path):
    rows = [{"id": clip.id, "text": clip.text, "confidence": 0.9,
             "words": json.dumps([{"word": clip.text, "start": 0.5, "end": 1.0}])}
            for clip in clips]
    from_csv = label(recipe, tmp_path / "csv", write_table(tmp_path / "labels.csv", rows),
                     "teacher.mode=live")
    lines = [row | {"words": json.loads(row["words"])} for row in rows]
    from_json = label(recipe, tmp_path / "json", write_table(tmp_path / "labels.jsonl", lines),
                      "teacher.mode=live")
    assert parts(from_csv) == parts(from_json) != {}


def test_what_cannot_be_labelled_is_counted(recipe, clips, tmp_path, capsys):
    rows = [{"id": clip.id, "text": clip.text, "file": "x"} for clip in clips[2:]]
    rows += [{"id": clips[1].id, "text": "  "}, {"id": "elsewhere", "text": "x"}, rows[0]]
    folder = label(recipe, tmp_path, write_table(tmp_path / "labels.jsonl", rows),
                   "teacher.mode=live")
    assert read_json(folder / "drops.json") == {"empty_text": 1, "no_label": 1}
    assert sum(len(row["pieces"]) for row in read_labels(folder)) == len(clips) - 2
    out = capsys.readouterr().out
    for note in ("columns that are not read: file", "1 rows are there twice",
                 "1 rows are of no clip"):
        assert note in out


def test_changed_rows_are_labelled_again_and_others_are_not(recipe, clips, tmp_path):
    rows = [{"id": clip.id, "text": clip.text} for clip in clips]
    table, options = tmp_path / "labels.jsonl", ("teacher.mode=live", "pseudo_label.packing=none",
                                                 "views.previous_text_probability=0")
    folder = label(recipe, tmp_path, write_table(table, rows[:-1]), *options)
    before = parts(folder)
    rows[0]["text"] = "corrected"
    label(recipe, tmp_path, write_table(table, rows), *options)
    after = parts(folder)
    assert {name: after[name] for name in before} == before
    labels = {row["pieces"][0]["id"]: row["label"] for row in read_labels(folder)}
    assert labels == {row["id"]: row["text"] for row in rows}
    new = [row["pieces"][0]["id"] for name in after.keys() - before.keys()
           for row in read_jsonl(folder / name)]
    assert sorted(new) == sorted([clips[0].id, clips[-1].id])


ONE = {"id": "train-0", "text": "x"}
BAD = [
    ([{"id": "train-0"}], "no column text; there are id: say pseudo_label.table.text_column="),
    ([{"text": "x"}], "no column id; there are text: say pseudo_label.table.id_column="),
    ([ONE | {"confidense": 1}], "unknown column confidense; did you mean confidence?"),
    ([ONE, {"id": "", "text": "x"}, {"id": None, "text": "y"}],
     "line 2: id must be the id of a clip, got ''; line 3: id must"),
    ([ONE, {"id": "train-0", "text": "y"}], "line 2: the id train-0 has another text in line 1"),
    ([ONE | {"confidence": 93}], "line 1: confidence must be a number from 0 to 1, got 93"),
    ([ONE | {"words": [{"word": "x"}]}, ONE], "line 1: words must be a list of {word, start, end}"),
    ([ONE | {"text": ["x"]}], "line 1: text must be a text"),
    ([{"id": "a", "text": "x"}], "no id in it is that of a clip"),
]


@pytest.mark.parametrize(("rows", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_a_bad_table_ends_with_a_sentence(clips, tmp_path, rows, message):
    table = write_table(tmp_path / "labels.jsonl", rows)
    config = PseudoLabelConfig(backend="table", table=TableConfig(str(table)))
    with pytest.raises(ValueError) as error:
        texts_of(config, clips)
    assert message in str(error.value) and "labels.jsonl" in str(error.value)


def test_ids_with_and_without_the_name_of_their_manifest(tmp_path):
    rows = [Row("a/train:1", "1.wav", 3.0), Row("b/train:1", "2.wav", 3.0)]
    config = PseudoLabelConfig(backend="table", table=TableConfig(str(tmp_path / "t.jsonl")))
    write_table(tmp_path / "t.jsonl", [{"id": "1", "text": "x"}])
    with pytest.raises(ValueError, match="the id 1 is that of several clips"):
        texts_of(config, rows)
    write_table(tmp_path / "t.jsonl", [{"id": "a/train:1", "text": "x"},
                                       {"id": "b/train:1", "text": "yy"}])
    assert {name: said.text for name, said in texts_of(config, rows).said.items()} == {
        "a/train:1": "x", "b/train:1": "yy"}


def test_long_clips_need_times_of_words(tmp_path):
    rows = [Row("long", "1.wav", 100.0, 7.0), Row("timed", "2.wav", 100.0)]
    words = [{"word": "x", "start": 1, "end": 2}]
    write_table(tmp_path / "t.jsonl", [{"id": "long", "text": "x"},
                                       {"id": "timed", "text": "x", "words": words}])
    config = PseudoLabelConfig(backend="table", table=TableConfig(str(tmp_path / "t.jsonl")))
    found = texts_of(config, rows)
    assert found.drops == {"no_word_times": 1} and list(found.said) == ["timed"]


def test_a_part_of_a_clip_has_the_words_whose_middle_lies_in_it():
    clip = Row("c", "c.wav", 60.0, offset=10.0)
    said = Said("One, two three.", None, (("One,", 1.0, 2.0), ("two", 29.0, 30.5),
                                          ("three.", 31.0, 32.0)))
    first = segment_of(Piece("c", "c.wav", 10.0, 30.0, 0.0, None), clip, said, "en")
    assert (first.text, first.start, first.end) == ("One, two", 1.0, 30.0)
    last = segment_of(Piece("c", "c.wav", 40.0, 30.0, 5.0, None), clip, said, "en")
    assert (last.text, last.start, last.end) == ("three.", 6.0, 7.0)
    whole = segment_of(Piece("c", "c.wav", 10.0, 60.0, 0.0, None), clip, said, "en")
    assert (whole.text, whole.start, whole.end) == ("One, two three.", 1.0, 32.0)


@pytest.mark.parametrize(("overrides", "message"), [
    ([TABLE], "pseudo_label.table.path must be the path of a table"),
    (["pseudo_label.table.path=x.csv"], "null unless pseudo_label.backend is table"),
    ([TABLE, "pseudo_label.table.path=x", "pseudo_label.detect_language=true"],
     "pseudo_label.detect_language must be false unless the teacher"),
    ([TABLE, "pseudo_label.table.path=x", "pseudo_label.long_audio=sequential"],
     "speech or quiet unless backend is transformers"),
])
def test_recipes_that_make_no_sense(recipe, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(str(recipe), overrides)


def test_the_plan_names_the_table(recipe, capsys):
    from distill.plan import main as plan

    plan([str(recipe), TABLE, "pseudo_label.table.path=texts.csv"])
    assert "the teacher gives its scores alone" in capsys.readouterr().out
