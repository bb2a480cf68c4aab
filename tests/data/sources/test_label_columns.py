"""Classes of sounds from a table's or a dataset's column."""

import csv
import json

import numpy as np
import pytest
import soundfile

from distill.data.hub_dataset import build, parse_options
from distill.data.manifest import read_manifest
from distill.data.sources.clips import Columns


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("dog", ("dog",)),
        ("dog;cat", ("dog", "cat")),
        ("dog,cat,dog", ("dog", "cat")),
        ("Rain, heavy;Wind", ("Rain, heavy", "Wind")),
        (["Male speech, man speaking"], ("Male speech, man speaking",)),
        ("", ()),
        ([], ()),
        (None, None),
        (1, ("1",)),
    ],
)
def test_values(value, labels):
    assert Columns(labels="label").labels_of(value) == labels


def test_numbers_stand_for_names():
    columns = Columns(labels="label", label_names=("cat", "dog"))
    assert columns.labels_of(1) == ("dog",) and columns.labels_of([1, 0]) == ("dog", "cat")


def write(folder, names):
    folder.mkdir()
    for name in names:
        soundfile.write(folder / name, np.full(4000, 0.1, np.float32), 16_000)


def rows(path):
    return {row.id: row.labels for row in read_manifest(path)[0]}


def test_a_table(tmp_path):
    write(tmp_path / "sounds", ["a.wav", "b.wav"])
    with open(tmp_path / "sounds" / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "labels"], ["a.wav", "dog,cat"], ["b.wav", ""]])
    path = build(str(tmp_path / "sounds"), tmp_path / "out", parse_options(["label_column=labels"]))
    assert rows(path) == {"a": ["dog", "cat"], "b": []}
    with pytest.raises(ValueError, match="no column classes .label_column."):
        build(str(tmp_path / "sounds"), tmp_path / "x", parse_options(["label_column=classes"]))


def test_a_table_of_json_lines_with_texts_too(tmp_path):
    write(tmp_path / "sounds", ["a.wav"])
    (tmp_path / "sounds" / "train.jsonl").write_text(
        json.dumps({"file_name": "a.wav", "labels": ["x, y"], "text": "hello"}) + "\n")
    options = parse_options(["label_column=labels", "text_column=text"])
    row, = read_manifest(build(str(tmp_path / "sounds"), tmp_path / "out", options))[0]
    assert row.labels == ["x, y"] and row.text == "hello"


def test_a_dataset_whose_classes_are_numbers(tmp_path):
    from datasets import Audio, ClassLabel, Dataset, List

    write(tmp_path / "sounds", ["a.wav", "b.wav"])
    data = [(tmp_path / "sounds" / name).read_bytes() for name in ("a.wav", "b.wav")]
    names = ClassLabel(names=["cat", "dog"])
    for column, values, kind in (("one", [1, 0], names), ("many", [[1, 0], []], List(names))):
        # declared as audio after it is made of bytes: encoding would need torchcodec
        dataset = Dataset.from_dict({
            "id": ["a", "b"], "audio": [{"bytes": each, "path": None} for each in data],
            column: values,
        }).cast_column("audio", Audio(decode=False)).cast_column(column, kind)
        folder = tmp_path / column
        folder.mkdir()
        dataset.to_parquet(folder / "train.parquet")
        path = build(str(folder), tmp_path / f"out-{column}",
                     parse_options([f"label_column={column}"]))
        expected = {"one": {"a": ["dog"], "b": ["cat"]}, "many": {"a": ["dog", "cat"], "b": []}}
        assert rows(path) == expected[column]


def test_a_table_of_scenes_without_a_head(tmp_path):
    """DCASE's meta.txt: the folder `audio` is no class."""
    write(tmp_path / "audio", ["1.wav", "2.wav"])
    (tmp_path / "meta.txt").write_text("audio/1.wav\tpark\naudio/2.wav\tbus\n", encoding="utf-8")
    with pytest.raises(ValueError, match="meta.txt: no column label .*there are file_name, text"):
        build(str(tmp_path), tmp_path.parent / "x", parse_options(["label_column=label"]))
    path = build(str(tmp_path), tmp_path.parent / "y", parse_options(["label_column=text"]))
    assert sorted(rows(path).values()) == [["bus"], ["park"]]
