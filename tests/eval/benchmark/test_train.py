"""What `make bench.train` concludes from what it measured."""

import pytest

from eval.benchmark.tables.train import page, table
from eval.benchmark.train import summarise


def curve(seconds_a_step: float, wers: list[float]) -> dict:
    return {"steps": [{"step": n + 1, "seconds": seconds_a_step * (n + 1), "loss": 2.0 / (n + 1)}
                      for n in range(10 * len(wers))],
            "validations": [{"step": 10 * (n + 1), "seconds": 10 * seconds_a_step * (n + 1),
                             "wer": wer} for n, wer in enumerate(wers)]}


def result(ours: list[float], usual: list[float]) -> dict:
    timing = [{"tokens": [90, 110], "seconds": {"usual": usual_seconds, "unpadded": 4.0,
                                                "ours": 0.5}} for usual_seconds in (9, 10, 50)]
    fill = {"windows": 100, "views": 100, "bytes": {"scores": 1, "states": 1},
            "seconds": {"encode": 60.0, "write": 1.0, "score": 9.0}}
    memory = {"usual": 8_000, "unpadded": 3_000, "ours": 2_000}
    curves = {"ours": curve(0.5, ours), "usual": curve(10.0, usual)}
    return summarise(fill, memory, timing, curves) | {
        "teacher": "t", "threads": 2, "dtype": "float32", "batch_windows": 4,
        "memory_batch_windows": 8, "device": "cpu"}


def test_figures():
    found = result([0.9, 0.6, 0.29], [0.8, 0.25])
    assert found["speedup_vs_usual"] == 20.0 and found["speedup_vs_unpadded"] == 8.0
    assert found["peak_memory_ratio"] == 0.25
    gain = (10 - 0.5) / 4  # seconds a window
    assert found["break_even_epochs"] == pytest.approx(0.7 / gain)
    assert found["break_even_epochs_beyond_labelling"] == pytest.approx(0.1 / gain)
    assert found["target_wer"] == 0.3
    assert found["seconds_to_wer"] == {"ours": 15.0, "usual": 200.0}
    assert found["time_to_wer_ratio"] == 200 / (15 + 10)
    assert found["time_to_wer_ratio_with_encoding"] == 200 / (15 + 70)
    assert found["batch_tokens"] == 200
    assert "8.0x" in table(found) and "WER of 30.0%: 200 s" in table(found)
    assert "<svg" in page(found)


@pytest.mark.parametrize(("ours", "usual", "target", "seconds"), [
    ([0.9, 0.5, 0.4], [0.8, 0.45, 0.6], 0.45, {"ours": 15.0, "usual": 200.0}),
    ([0.9, 0.5, 0.6], [0.8, 0.28], 0.5, {"ours": 10.0, "usual": 200.0}),
])
def test_times_are_compared_where_both_have_been(ours, usual, target, seconds):
    found = result(ours, usual)
    assert found["target_wer"] == target and found["seconds_to_wer"] == seconds
