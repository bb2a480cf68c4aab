"""Noise under clips: its level, and that every way of encoding hears the same."""

import numpy as np
import pytest
import soundfile

from distill.data.manifest import Row, write_manifest
from distill.data.noise.mixing import active_power
from eval.speech.short_audio.noise import Noise

RATE = 16_000


def tone(seconds: float, level: float = 0.1) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 300 * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


@pytest.fixture
def music(tmp_path):
    """Two recordings of half a second, which are shorter than the clips."""
    rows = []
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", tone(0.5, 0.3 if name == "a" else 0.9), RATE)
        rows.append(Row(id=name, audio_filepath=f"{name}.wav", duration=0.5))
    write_manifest(tmp_path / "music.jsonl", rows)
    return str(tmp_path / "music.jsonl")


def test_pauses_do_not_count():
    speech = np.concatenate([tone(1.0), np.zeros(3 * RATE, "f4"), tone(0.005)])
    assert active_power(speech) == pytest.approx(0.1**2 / 2, rel=1e-3)
    assert active_power(tone(0.01)) == pytest.approx(0.1**2 / 2, rel=1e-2)  # less than a frame
    assert active_power(np.zeros(RATE, "f4")) == 0


@pytest.mark.parametrize("snr_db", [10.0, 0.0])
def test_its_level(music, snr_db):
    speech = np.concatenate([tone(1.0), np.zeros(RATE, "f4")])
    for source in ("white", music):
        added = Noise(source, snr_db).under(speech, "clip-1") - speech
        wanted = 0.1**2 / 2 / 10 ** (snr_db / 10)
        assert np.mean(added**2) == pytest.approx(wanted, rel=1e-3)
        assert np.abs(added[RATE:]).max() > 0  # also under pauses


def test_a_clip_always_gets_the_same(music):
    speech = tone(1.0)
    for source in ("white", music):
        first, again, other = (Noise(source, 10.0).under(speech, name)
                               for name in ("clip-1", "clip-1", "clip-2"))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).max() > 0.001


def test_silence_stays_silence():
    assert not Noise("white", 10.0).under(np.zeros(RATE, "f4"), "clip").any()


def test_what_is_refused(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for source, told in (("green", "green"), (str(empty), "empty")):
        with pytest.raises(ValueError, match=told):
            Noise(source, 10.0).check()
    with pytest.raises(ValueError, match="--snr"):
        Noise("white", float("nan")).check()
