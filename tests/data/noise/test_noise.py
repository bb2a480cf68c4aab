"""Noises and channels: that they are what their names say, and always the same."""

import numpy as np
import pytest
import soundfile

from distill.data.audio import load_audio
from distill.data.noise.channels import CHANNELS
from distill.data.noise.kinds import KINDS, WITHOUT_SPEECH, Noises, rows_of
from distill.data.noise.mixing import active_power, mix

RATE = 16_000


@pytest.fixture(scope="module")
def noises(demo_data) -> Noises:
    return Noises.embedded(demo_data.parents[1] / "noise")


@pytest.fixture(scope="module")
def speech(demo_data) -> np.ndarray:
    return load_audio(demo_data / "audio" / "added.ogg")


def band(samples: np.ndarray, low: float, high: float) -> float:
    """Share of the power between two frequencies."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(power[(frequencies >= low) & (frequencies < high)].sum() / power.sum())


@pytest.mark.parametrize("kind", [*KINDS, *WITHOUT_SPEECH])
def test_a_key_always_has_the_same_noise(noises, kind):
    first, again, other = (noises.make(kind, key, RATE) for key in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert len(first) == RATE and np.isfinite(first).all()
    assert (np.abs(first - other).max() > 1e-4) == (kind != "silence")


def test_what_noises_sound_like(noises):
    fan = noises.make("fan", "a", 4 * RATE)
    assert band(fan, 98, 102) > 0.2 and band(fan, 148, 152) < 0.01  # hum, and nothing between
    assert band(noises.make("white", "a", RATE), 4000, 8000) == pytest.approx(0.5, abs=0.05)
    claps = noises.make("applause", "a", 2 * RATE)
    assert band(claps, 500, 3000) > 0.6
    breath = np.square(noises.make("breathing", "a", 8 * RATE)).reshape(-1, RATE // 10).mean(1)
    assert breath.min() < 0.01 * breath.max()  # it rests


def test_a_pub_needs_all_its_recordings(noises):
    from dataclasses import replace

    whole = noises.make("pub", "a", RATE)
    for name in ("voices", "music", "glasses"):
        rows = getattr(noises, name)
        other = replace(noises, **{name: rows[: len(rows) // 2]}).make("pub", "a", RATE)
        assert np.abs(whole - other).max() > 1e-3, name


def test_blocks_of_long_sounds_differ(noises):
    sound = noises.make("white", "a", 31 * RATE)
    assert len(sound) == 31 * RATE
    assert np.abs(sound[:RATE] - sound[30 * RATE :]).max() > 1


def test_a_folder_of_ones_own(noises, tmp_path):
    with pytest.raises(ValueError, match="no audio"):
        rows_of(tmp_path)
    for name, level, seconds in (("short", 0.1, 0.2), ("long", 0.5, 31.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(int(seconds * RATE), level), RATE)
    from dataclasses import replace

    own = replace(noises, folder=rows_of(tmp_path))
    found = {round(float(own.make("folder", f"clip-{n}", 3 * RATE)[at]), 1)
             for n in range(6) for at in (0, -1)}
    assert found == {0.1, 0.5} and len(own.make("folder", "a", 3 * RATE)) == 3 * RATE


def test_mixing_leaves_silence_alone():
    assert not mix(np.zeros(RATE, "f4"), np.ones(RATE), 10.0).any()
    assert len(mix(np.zeros(0, "f4"), np.zeros(0), 10.0)) == 0


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_keep_what_they_should(speech, name):
    heard = CHANNELS[name](speech, "a")
    np.testing.assert_allclose(heard, CHANNELS[name](speech, "a"), rtol=0, atol=1e-6)
    times = {"slow": 0.9, "fast": 1.1}.get(name, 1.0)
    assert len(heard) == pytest.approx(len(speech) / times, abs=1) and heard.dtype == np.float32
    assert np.abs(heard).max() > 0.01
    assert len(heard) != len(speech) or np.abs(heard - speech).max() > 1e-3


def test_what_channels_do(speech, noises):
    hiss = (0.1 * noises.make("white", "a", 2 * RATE)).astype("f4")
    for name in ("telephone", "gsm", "mulaw"):
        assert band(CHANNELS[name](hiss, "a"), 4100, 8000) < 0.01
    telephone = CHANNELS["telephone"](hiss, "a")
    assert band(telephone, 0, 200) < 0.01 and band(telephone, 300, 3400) > 0.95
    clipped, peak = CHANNELS["clipping"](speech, "a"), np.abs(speech).max()
    assert np.abs(clipped).max() == pytest.approx(peak / 4)
    hit = np.zeros(RATE, "f4")
    hit[100] = 1
    room = CHANNELS["echo"](hit, "a")
    assert np.square(room[101:]).sum() == pytest.approx(1, rel=0.05)  # as strong as the hit
    assert active_power(room[9000:]) < 1e-4 * active_power(room[180:1000])
    assert np.abs(room - CHANNELS["echo"](hit, "b")).max() > 0.001
