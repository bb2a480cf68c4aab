"""The benchmark of short clips: its parts, its figures, and every way with a tiny model."""

from pathlib import Path

import numpy as np
import pytest

from distill.data.files import read_json, write_json
from distill.whisper.student import make_student
from eval.benchmark.latency import __main__ as latency
from eval.benchmark.latency.clips import Split, load_split
from eval.benchmark.latency.large import measure_large
from eval.benchmark.latency.measure import Measurer
from eval.benchmark.latency.sherpa import SHERPA_PADDED, SHERPA_SHORT, sherpa_ways
from eval.benchmark.latency.ways import PADDED, SHORT, STUDENT, TRANSFORMERS, Models
from eval.benchmark.tables.latency import figures, page, table

ROOT = Path(__file__).resolve().parents[3]


def text(words: str, reference: str = "a b c d") -> dict:
    wrong = sum(a != b for a, b in zip(words.split(), reference.split(), strict=True))
    return {"text": words, "substitutions": wrong, "deletions": 0, "insertions": 0,
            "hits": 4 - wrong, "num_reference": 4}


PARTS = {
    "time.float32.1.2.0": {TRANSFORMERS: 8.0, PADDED: 4.0, SHORT: 1.0, STUDENT: 0.5},
    "time.float32.1.2.1": {TRANSFORMERS: 9.0, PADDED: 4.0, SHORT: 2.0, STUDENT: 0.5},
    "time.float32.1.2.2": {TRANSFORMERS: 8.0, PADDED: 4.0, SHORT: 0.5, STUDENT: 0.5},
    "time.int8.1.2.0": {PADDED: 3.0, SHORT: 1.0, STUDENT: 0.5, "faster-whisper": 6.0,
                        SHERPA_PADDED: 5.0, SHERPA_SHORT: 2.0},
    "time.float32.8.10.0": {TRANSFORMERS: 8.0, PADDED: 6.0, SHORT: 3.0, STUDENT: 1.0},
    "text.float32.0.2": {PADDED: [text("a b c d"), text("a b c x")],
                         SHORT: [text("a b c d"), text("a b x x")]},
    "text.float32.2.3": {PADDED: [text("a b c d")], SHORT: [text("a b c d")]},
}


def test_figures_are_medians_over_rounds():
    found = figures(PARTS)
    assert found["milliseconds"]["1.2"][f"{SHORT}.float32"] == 1000
    assert found["speedup_vs_padded"]["teacher"] == {"float32": {"2": 4.0}, "int8": {"2": 3.0}}
    assert found["speedup_vs_padded"]["student"]["float32"] == {"2": 8.0}
    assert found["speedup_vs_transformers"]["teacher"]["float32"] == {"2": 8.0}
    assert found["speedup_vs_transformers"]["teacher"]["int8"] == {"2": 8.0}
    assert found["speedup_vs_faster_whisper"]["teacher"] == {"int8": {"2": 6.0}}
    assert found["batch_8"]["speedup_vs_padded"]["teacher"] == {"float32": {"10": 2.0}}
    assert found["wer"] == {PADDED: {"float32": 1 / 12}, SHORT: {"float32": 2 / 12}}
    assert found["wer_difference"]["teacher"]["float32"]["value"] == 1 / 12
    assert found["sherpa_onnx"] == {"teacher": {"int8": {"2": 2.5}}}
    assert found["same_text"] == {"teacher": {"float32": 2 / 3}}
    large = {"seconds": 2.0, "tokens": 2, "silence_bytes": 5e8,
             "batches": {"1": {"padded": 9.0, "short": 2.0}}}
    said = table(found | {"large_v3_shape": large})
    for words in ("4.5x", "2.5x at 2 s in int8", "500 MB", "+8.33 points", "66.7%"):
        assert words in said
    assert page(found).count("<polyline") == 4 + 7 + 4 and "0.0x" not in said
    assert table(figures({}))


def test_parts_are_measured_once():
    parts = list(latency.parts_of(25, ("float32", "int8")))
    assert len(set(parts)) == len(parts) == 2 * 3 * 2 * 7 + 2 * 3
    assert parts[0] == ("time", "float32", 1, 2, 0) and ("text", "int8", 20, 25) in parts


@pytest.fixture(scope="module")
def split():
    return load_split([str(ROOT / "recipes/demo/data/validation.jsonl")], "en")


def test_clips_are_cut_from_speech(split):
    assert len(split.audios) == len(split.references) == 50 and split.num_words > 200
    first, second = split.cut(2.0, 2), split.cut(2.0, 2, number=1)
    assert [len(clip) for clip in first] == [32000] * 2
    whole = np.concatenate(split.audios)
    np.testing.assert_array_equal(np.concatenate([*first, *second]), whole[:128000])
    short = Split([np.arange(16000, dtype=np.float32)], ["a"], str)
    assert short.cut(0.75, 2)[1][4000] == 0  # from the beginning again


@pytest.fixture
def models(tiny_model, tiny_processor):
    student = make_student(tiny_model, [0, 3], [0, 1]).eval()
    return Models(tiny_model, student, tiny_processor, False, None, 1.0, "en")


def test_every_way(models, split):
    few = Split(split.audios[:2], split.references[:2], split.normalise)
    measurer = Measurer(models, few, few)
    assert set(measurer(("time", "float32", 2, 1, 0))) == {TRANSFORMERS, PADDED, SHORT, STUDENT}
    found = measurer(("time", "int8", 1, 2, 0))
    assert set(found) == {PADDED, SHORT, STUDENT} and min(found.values()) > 0
    texts = measurer(("text", "int8", 1, 2))
    assert set(texts) == {PADDED, SHORT}  # nothing is said of words that nobody trained
    assert texts[PADDED][0]["num_reference"] == len(few.references[1].split())
    ways = measurer.ways("int8")
    ways[SHORT](few.audios)
    wanted = list(ways[SHORT].num_tokens)
    ways[STUDENT](few.audios)
    assert ways[STUDENT].num_tokens == [count + 1 for count in wanted]  # none was its end


@pytest.mark.slow
def test_exports_for_sherpa_onnx(models, split):
    ways = sherpa_ways(models, "int8")
    assert set(ways) == {SHERPA_PADDED, SHERPA_SHORT}
    for way in ways.values():
        assert all(isinstance(text, str) for text in way(split.cut(1.0, 2)))


def test_it_goes_on_with_the_same_settings_only(tmp_path):
    def options(*words: str):
        return latency._parser().parse_args(["--output", str(tmp_path / "x.json"), *words])

    kept = latency._kept(options()) | {"parts": {"time.int8.1.2.0": {SHORT: 1.0}}}
    write_json(tmp_path / "x.json", kept)
    assert latency._kept(options()) == kept
    with pytest.raises(ValueError, match=r"x\.json was measured with .* move it away"):
        latency._kept(options("--margin", "2"))
    latency._write(options(), kept)
    assert read_json(tmp_path / "x.json")["machine"]["threads"] == 1
    assert "<svg" in (tmp_path / "x.html").read_text()


def test_the_large_shape_when_it_is_small(monkeypatch):
    for name, value in {"LAYERS": 1, "WIDTH": 32, "HEADS": 2, "INNER": 32, "VOCABULARY": 60000,
                        "BANDS": 80}.items():
        monkeypatch.setattr(f"eval.benchmark.latency.large.{name}", value)
    found = measure_large((1, 2))
    assert found["silence_bytes"] == 4 * (2 * 750 + 1500) * 32
    assert set(found["batches"]) == {"1", "2"}
    assert all(each["short"] > 0 for each in found["batches"].values())
