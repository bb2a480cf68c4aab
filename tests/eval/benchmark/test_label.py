"""What is made of labelling's seconds; the run itself is `make bench.label`."""

import pytest

from distill.config import ConfigError
from eval.benchmark.label import BOTH, main, ratios, table


def setting(**seconds: list[float]) -> dict:
    return {"inputs": 5, "windows": 2, "audio_seconds": 100.0, "ways": {
        name.replace("_", ", ", 1): {"seconds": taken, "rtfx": 100 / taken[1], "wer": 0.05,
                                     "wer_interval": [0.01, 0.09]}
        for name, taken in seconds.items()}}


def test_single_clips_beside_packed_ones():
    slow, fast = [3.0, 4.0, 8.0], [1.0, 2.0, 2.0]
    found = setting(**{"ours_transformers": slow, "ours_ctranslate2 int8": fast,
                       "loose_transformers": fast, "loose_ctranslate2 int8": fast})
    result = ratios({"loose": found})
    assert result == {"speedup_loose_vs_packed": dict(zip(BOTH, (3.0, 1.0), strict=True))}
    printed = table({**result, "settings": {"loose": found}, "teacher": "base", "split": "train",
                     "batch": 12, "threads": 1, "int8_encoder_seconds_per_window": 0.3})
    assert "single clips faster than packed ones: transformers 3.00x" in printed


def test_a_setting_that_is_none():
    with pytest.raises(ConfigError, match="packed, clips, loose; got lose"):
        main(["demo", "lose"])
