import csv

import numpy as np
import pytest

from distill.data import files
from distill.metrics.tagging import evaluate_tags
from eval.tagging.table import CLASS_COLUMNS, markdown_table, write_class_csv

NAMES = ["Speech", "Inside, small room", 'A "quoted" name', "Never"]


@pytest.fixture(scope="module")
def results() -> dict:
    generator = np.random.default_rng(0)
    targets = generator.random((60, 4)) < 0.3
    targets[:, 3] = False
    return evaluate_tags(generator.random((60, 4)) / 2 + targets / 3, targets, NAMES, 20)


def test_csv_gives_every_name_and_number_back(tmp_path, results):
    path = tmp_path / "eval" / "classes.csv"
    write_class_csv(path, results)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    assert list(rows[0]) == list(CLASS_COLUMNS) == list(results["classes"][0])
    for row, values in zip(rows, results["classes"], strict=True):
        for key in CLASS_COLUMNS[1:]:
            assert row[key] == ("" if values[key] is None else repr(values[key]))
    assert rows[3]["average_precision"] == "" and rows[3]["num_positives"] == "0"
    text = path.read_bytes()
    assert b"\r" not in text and b'"Inside, small room",' in text


def test_a_csv_that_fails_leaves_the_old_one(tmp_path, results, monkeypatch):
    path = tmp_path / "classes.csv"
    write_class_csv(path, results)
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_class_csv(path, {"classes": results["classes"][:1]})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def _cells(table: str) -> dict[str, list[str]]:
    lines = [[c.strip() for c in line.strip("|\n").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_table_has_models_as_columns_and_says_what_is_missing(results):
    values = {"mean_average_precision": 0.48137, "mean_average_precision_ci": [0.4702, 0.4925],
              "ece": 0.0123456, "brier": 0.0031239}
    teacher = {**results, **values, "parameters": 85_700_000}
    student = {**results, "auc": None, "auc_ci": None, "clips_per_second": 123.44}
    table = markdown_table({"CED base": teacher, "tiny": student})
    cells = _cells(table)
    assert cells[""] == ["CED base", "tiny"]
    assert cells["mAP, % [95 % CI]"][0] == "48.14 [47.02, 49.25]"
    assert cells["calibration error (ECE), %"][0] == "1.235"
    assert cells["Brier score"][0] == "0.00312"
    assert cells["AUC, % [95 % CI]"][1] == "-" != cells["AUC, % [95 % CI]"][0]
    assert cells["parameters, M"] == ["85.70", "-"]
    assert cells["clips per second"] == ["-", "123.4"]
    assert cells["recordings measured on"] == ["60", "60"]
    assert cells["classes with positives"] == ["3 of 4", "3 of 4"]
    assert {"d' of the mean AUC [95 % CI]", "mean d' of classes [95 % CI]",
            "lwlrap, % [95 % CI]"} < set(cells)
    assert len({len(line) for line in table.splitlines()}) == 1  # reads as plain text too
    assert set(table.splitlines()[1]) == set("|-: ")


def test_rows_that_no_model_has_are_not_shown(results):
    assert not {"parameters, M", "clips per second"} & set(_cells(markdown_table({"a": results})))
    unknown = {**results, "auc": None, "auc_ci": None}
    assert "AUC, % [95 % CI]" not in _cells(markdown_table({"a": unknown, "b": unknown}))
    assert _cells(markdown_table({"a": results, "b": unknown}))["AUC, % [95 % CI]"][1] == "-"


def test_a_bar_in_a_name_does_not_open_a_column(results):
    assert "a\\|b" in markdown_table({"a|b": results}).splitlines()[0]


def test_tables_that_would_mislead(results):
    with pytest.raises(ValueError, match=r"same confidence, got \[0.9, 0.95\]"):
        markdown_table({"a": results, "b": {**results, "confidence": 0.9}})
    with pytest.raises(ValueError, match="at least one model"):
        markdown_table({})
