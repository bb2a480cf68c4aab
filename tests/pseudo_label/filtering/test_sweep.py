"""The sweep says what the filter would do, and how well a filter finds bad labels."""

import time
from collections import Counter

import numpy as np
import pytest

from distill.data.files import read_json, write_json, write_jsonl
from distill.metrics.error_rates import error_counts
from distill.metrics.normalize import error_unit, normalizer
from distill.testing import TINY_RECIPE
from distill.whisper.recipe import DataConfig, FilterConfig, WhisperRecipe
from pseudo_label.filter import filter_rows
from pseudo_label.filtering.filters import MEASURES
from pseudo_label.filtering.sweep_text import page, table
from pseudo_label.sweep import Labels, auc, main, read_table, sweep, thresholds

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
CHINESE = "今天天气很好我们去公园散步吧"


def row(index: int, label: str, reference: str | None, **changes) -> dict:
    language = changes.get("language", "en")
    return {
        "id": f"w{index}", "previous": None, "language": language, "reference": reference,
        "label": label, "tokens": [1], "truncated": False, "duration": 20.0 + index % 7,
        "avg_logprob": -0.1, "no_speech_prob": 0.01 * (index % 90), "compression_ratio": 1.5,
        "unit": error_unit(language), **errors_of(reference, label, language),
    } | changes


def errors_of(reference: str | None, label: str, language: str) -> dict:
    keys = ("wer", "cer", "substitutions", "deletions", "insertions", "num_words")
    if reference is None:
        return dict.fromkeys(keys)
    clean = normalizer("basic", language)
    words, chars = (error_counts(clean(reference), clean(label), u) for u in ("word", "char"))
    numbers = (words.substitutions, words.deletions, words.insertions, words.num_reference)
    return dict(zip(keys, (words.rate, chars.rate, *numbers), strict=True))


def noisy_rows(count: int, referenced: float = 1.0) -> list[dict]:
    """Labels with 0 to 10 wrong words; the worse, the less sure the teacher, nearly."""
    draw = np.random.default_rng(3)
    rows = []
    for index in range(count):
        wrong = max(0, int(draw.integers(-8, 11)))
        reference = " ".join(draw.permutation(WORDS))
        label = " ".join(["oops"] * wrong + reference.split()[wrong:])
        sure = round(-0.05 - 0.04 * wrong - float(draw.uniform(0, 0.15)), 6)
        said = reference if draw.uniform() < referenced else None
        rows.append(row(index, label, said, avg_logprob=sure))
    return rows


@pytest.fixture
def write(tmp_path):
    """`write(rows)` makes a label folder and the recipe that reads it."""

    def write(rows: list[dict], **filters) -> WhisperRecipe:
        write_json(tmp_path / "settings.json", {"num_shards": 2})
        write_jsonl(tmp_path / "part-00000.jsonl", rows[::2])
        write_jsonl(tmp_path / "part-00001.jsonl", rows[1::2])
        return WhisperRecipe(language="en", labels_dir=str(tmp_path), output_dir="runs/mine",
                             data=DataConfig(train=[]), filter=FilterConfig(**filters))

    return write


def sweep_of(recipe: WhisperRecipe) -> dict:
    return sweep(read_table(recipe), recipe.filter)


@pytest.mark.parametrize("referenced", [1.0, 0.6])
def test_every_point_is_what_the_filter_does(write, referenced):
    rows = noisy_rows(60, referenced)
    rows[5]["truncated"], rows[6]["label"] = True, ""
    result = sweep_of(write(rows, max_wer=None))
    assert result["left_out"] == {"empty_label": 1, "truncated": 1}
    swept = [key for key, found in result["filters"].items() if "points" in found]
    assert set(MEASURES) - set(swept) == {"max_disagreement"}
    for key in swept:
        points = result["filters"][key]["points"]
        for point in points[:: max(1, len(points) // 4)]:
            config = FilterConfig(**{"max_wer": None, key: point["threshold"]})
            kept, _ = filter_rows(rows, config, "en")
            assert len(kept) == point["labels"]
            hours = sum(row["duration"] for row in kept) / 3600
            assert point["hours"] == pytest.approx(hours, abs=1e-4)
        kept = {point["labels"] for point in points}
        assert result["labels"] in kept, "the most lenient threshold keeps all"


def test_error_rates_are_pooled_over_words(write):
    rows = [
        row(0, "one two", "one two", avg_logprob=-0.1),
        row(1, "oops", "one two three four five six seven eight", avg_logprob=-0.5),
        row(2, "anything", None, avg_logprob=-0.9),
    ]
    result = sweep_of(write(rows))
    assert result["error_rate"] == 0.8 and result["referenced"] == 2 and result["bad"] == 1
    by_threshold = {p["threshold"]: p for p in result["filters"]["min_avg_logprob"]["points"]}
    assert by_threshold == {
        -0.9: {"threshold": -0.9, "labels": 3, "hours": 0.0175, "error_rate_kept": 0.8,
               "error_rate_dropped": None},
        -0.5: {"threshold": -0.5, "labels": 2, "hours": 0.0114, "error_rate_kept": 0.8,
               "error_rate_dropped": None},  # what is dropped has no reference
        -0.1: {"threshold": -0.1, "labels": 1, "hours": 0.0056, "error_rate_kept": 0.0,
               "error_rate_dropped": 1.0},
    }
    assert result["filters"]["min_avg_logprob"]["auc"] == 1.0
    assert result["filters"]["max_wer"]["auc"] is None
    kept = [(p["threshold"], p["labels"]) for p in result["filters"]["max_wer"]["points"]]
    assert kept == [(0.0, 2), (0.1, 2), (1.0, 3)]  # labels without a reference pass
    unreferenced = sweep_of(write(rows, keep_unreferenced=False))
    assert unreferenced["labels"] == 2 and unreferenced["left_out"] == {"no_reference": 1}


def test_characters_where_words_are_not_spaced(write):
    wrong = CHINESE[:4] + "不" + CHINESE[5:-2]
    rows = [row(0, CHINESE + "。", CHINESE, language="zh"),
            row(1, wrong, CHINESE + "！ ", language="zh")]
    result = sweep_of(write(rows))
    assert result["units"] == {"char": 2}
    clean = normalizer("auto", "zh")
    errors = error_counts(clean(CHINESE), clean(wrong), "char").errors
    assert result["error_rate"] == pytest.approx(errors / (2 * len(CHINESE)), abs=1e-6)
    assert errors == 3 and result["bad"] == 1
    assert "CER 10.7 %" in table(result) and "CER kept" in table(result)
    mixed = sweep_of(write([*rows, row(2, "one", "one")]))
    assert mixed["units"] == {"char": 2, "word": 1} and "WER/CER kept" in table(mixed)


def test_area_under_the_roc_curve():
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 20, 300).astype(float)  # many ties
    bad = draw.uniform(size=300) < scores / 20
    pairs = scores[bad][:, None] - scores[~bad][None]
    by_hand = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    assert auc(scores, bad) == pytest.approx(by_hand, abs=1e-4)
    assert auc(-scores, bad) == pytest.approx(1 - by_hand, abs=1e-4)
    assert auc(np.ones(4), np.array([True, False, True, False])) == 0.5
    assert auc(scores, np.zeros(300, bool)) is None and auc(scores, scores >= 0) is None


@pytest.mark.parametrize("key", ["min_avg_logprob", "max_wer"])
def test_thresholds_are_short_and_keep_their_quantile(key):
    values = np.random.default_rng(1).uniform(0.01234567, 7654.321, 1000) ** 2
    values = -values if key.startswith("min") else values
    found = thresholds(values, key, chosen=None)
    assert found == sorted(found) and 40 < len(found) <= 55
    assert all(float(f"{value:.3g}") == value for value in found)
    ends = (found[0] <= values.min()) if key.startswith("min") else (found[-1] >= values.max())
    assert ends and thresholds(values, key, chosen=0.05) == sorted([*found, 0.05])
    assert thresholds(np.zeros(9), key, chosen=None) == [0.0]
    # 0.07 * 1000 is a little more than 70
    assert thresholds(np.full(9, 0.07), key, chosen=None) == [0.07]


def test_the_recipes_own_threshold_is_marked(write):
    result = sweep_of(write(noisy_rows(40), min_avg_logprob=-0.2345))
    assert -0.2345 in [p["threshold"] for p in result["filters"]["min_avg_logprob"]["points"]]
    assert "-0.2345*" in table(result) and "0.1*" in table(result)
    assert "Now -0.2345 in the recipe" in page(result, "mine")


def test_bad_is_above_max_wer(write):
    rows = noisy_rows(40)
    assert sweep_of(write(rows, max_wer=0.5))["bad"] == sum(r["wer"] > 0.5 for r in rows)
    assert sweep_of(write(rows, max_wer=None))["bad"] == sum(r["wer"] > 0.1 for r in rows)


def test_without_references_there_are_hours(write):
    result = sweep_of(write(noisy_rows(30, referenced=0.0)))
    assert result["referenced"] == 0 and result["error_rate"] is None
    assert result["filters"]["max_wer"]["lacks"] == "no label has a reference text"
    found = result["filters"]["min_avg_logprob"]
    assert found["auc"] is None and found["points"][0]["labels"] == 30
    text = table(result)
    assert "only hours are shown" in text and "WER" not in text.replace("max_wer", "")
    assert "Which filter finds bad labels" not in page(result, "x")


def test_what_labels_lack_is_said(write):
    rows = noisy_rows(10)
    rows[3]["disagreement"] = 0.2
    result = sweep_of(write(rows))
    lacks = result["filters"]["max_disagreement"]["lacks"]
    assert lacks == "9 of 10 labels lack it: set pseudo_label.second_decoding and label again"
    assert f"max_disagreement: {lacks}." in table(result) and lacks in page(result, "x")
    result = sweep_of(write([r | {"disagreement": r["wer"]} for r in rows]))
    assert result["filters"]["max_disagreement"]["auc"] == 1.0


def test_nothing_left_to_sweep(write):
    with pytest.raises(ValueError, match=r"no label in .* is left to sweep over \(2 truncated\)"):
        sweep_of(write([row(i, "a", "a", truncated=True) for i in range(2)]))


def test_one_label_and_equal_ones(write):
    for rows in ([row(0, "one", "one")], [row(0, "one", "one"), row(7, "one", "one")]):
        result = sweep_of(write(rows))
        assert result["error_rate"] == 0 and "early) all labels" in page(result, "x")
        assert table(result)


def test_command(write, tmp_path, capsys):
    write(noisy_rows(60))
    text = TINY_RECIPE.format(teacher="t", train="a", validation="b", test="c")
    (tmp_path / "recipe.yaml").write_text(text)
    before = (tmp_path / "part-00000.jsonl").read_bytes()
    main([str(tmp_path), f"labels_dir={tmp_path}", "output_dir=runs/<mine>", "filter.max_wer=0.2"])
    assert read_json(tmp_path / "sweep.json")["bad_above"] == 0.2
    html = (tmp_path / "sweep.html").read_text()
    assert "&lt;mine&gt;: filters of the labels" in html and "<mine>" not in html
    assert html.count('<svg class="chart"') >= 5 and "<script" not in html
    printed = capsys.readouterr().out
    assert "min_avg_logprob" in printed and "sweep.html" in printed
    assert before == (tmp_path / "part-00000.jsonl").read_bytes()
    assert not (tmp_path / "kept.jsonl").exists(), "it filters nothing"


def test_many_labels_take_no_time():
    draw = np.random.default_rng(0)
    count = 200_000
    tokens = draw.integers(20, 90, count).astype(float)
    errors = np.floor(tokens * draw.exponential(0.08, count))
    values = {key: draw.normal(size=count) for key in MEASURES} | {"max_wer": errors / tokens}
    labels = Labels(draw.uniform(5, 30, count), errors, tokens, errors / tokens, values,
                    Counter(word=count), Counter())
    started = time.process_time()
    result = sweep(labels, FilterConfig())
    assert time.process_time() - started < 3
    assert result["labels"] == count
    assert result["filters"]["min_avg_logprob"]["auc"] == pytest.approx(0.5, abs=0.02)
