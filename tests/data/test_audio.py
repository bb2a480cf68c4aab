"""Audio as users have it: every format and every fault, made from one real clip."""

import pickle

import numpy as np
import pytest
import soundfile
import soxr

from distill.data import audio
from distill.data.audio import SAMPLE_RATE, AudioError, audio_blocks, audio_info, load_audio

CLIP = "agent-alreadyon.ogg"  # 5.5 s of speech at 16 kHz


@pytest.fixture(scope="module")
def speech(demo_data) -> np.ndarray:
    samples, rate = soundfile.read(demo_data / "audio" / CLIP, dtype="float32")
    assert rate == SAMPLE_RATE
    return samples


def likeness(one: np.ndarray, two: np.ndarray) -> float:
    """Correlation at the best shift of up to 100 ms (codecs add a delay)."""
    size = min(len(one), len(two))
    one, two = one[:size], two[:size]
    spectrum = np.fft.rfft(one, 2 * size) * np.conj(np.fft.rfft(two, 2 * size))
    shifts = np.fft.irfft(spectrum)
    near = np.concatenate([shifts[:1600], shifts[-1600:]])
    return float(near.max() / np.sqrt((one @ one) * (two @ two)))


def check_format(samples: np.ndarray) -> None:
    assert samples.dtype == np.float32 and samples.ndim == 1 and samples.flags.c_contiguous


def reason(source, *args) -> str:
    with pytest.raises(AudioError) as error:
        load_audio(source, *args)
    return error.value.reason


def test_reads_ogg_as_it_is(demo_data, speech):
    samples = load_audio(demo_data / "audio" / CLIP)
    check_format(samples)
    np.testing.assert_array_equal(samples, speech)


def test_stereo_at_44100_hz(tmp_path, speech):
    high = soxr.resample(speech, SAMPLE_RATE, 44_100)
    # one silent channel: only the mean of both is the speech at half its level
    soundfile.write(tmp_path / "a.wav", np.stack([high, 0 * high], 1), 44_100, subtype="FLOAT")
    samples = load_audio(tmp_path / "a.wav")
    check_format(samples)
    assert abs(len(samples) - len(speech)) <= 1
    assert likeness(samples, speech) > 0.999
    np.testing.assert_allclose(samples.std(), speech.std() / 2, rtol=0.01)


def test_telephone_audio_at_8000_hz(tmp_path, speech):
    soundfile.write(tmp_path / "a.wav", soxr.resample(speech, SAMPLE_RATE, 8000), 8000)
    samples = load_audio(tmp_path / "a.wav")
    check_format(samples)
    assert abs(len(samples) - len(speech)) <= 2
    narrow = soxr.resample(soxr.resample(speech, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
    assert likeness(samples, narrow) > 0.999


@pytest.mark.parametrize("suffix", ["mp3", "flac", "ogg", "wav"])
def test_formats(tmp_path, speech, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech, SAMPLE_RATE)
    samples = load_audio(path)
    check_format(samples)
    assert abs(len(samples) - len(speech)) < 0.1 * SAMPLE_RATE
    assert likeness(samples, speech) > 0.98


def test_float_wav_is_exact(tmp_path, speech):
    soundfile.write(tmp_path / "a.wav", speech, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav"), speech)


def test_bytes(demo_data, speech):
    data = (demo_data / "audio" / CLIP).read_bytes()
    np.testing.assert_array_equal(load_audio(data), speech)
    # an Opus decoder that starts in the middle differs by a few steps of 16 bits
    np.testing.assert_allclose(load_audio(data, 1.0, 2.0), speech[16_000:48_000], atol=0.005)


def test_offset_and_duration(tmp_path, speech):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path, 1.25, 2.0), speech[20_000:52_000])
    np.testing.assert_array_equal(load_audio(path, 1.25), speech[20_000:])
    high = soxr.resample(speech, SAMPLE_RATE, 44_100)
    soundfile.write(path, high, 44_100, subtype="FLOAT")
    part = load_audio(path, 1.25, 2.0)  # seconds, not samples, of the file's own rate
    assert len(part) == 32_000
    assert likeness(part, speech[20_000:52_000]) > 0.99


def test_zero_length_wav(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    assert reason(tmp_path / "a.wav") == "empty"
    with pytest.raises(AudioError, match="empty"):
        audio_info(tmp_path / "a.wav")


def test_offset_behind_the_end(demo_data):
    assert reason(demo_data / "audio" / CLIP, 6.0) == "empty"


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3"])
def test_file_cut_in_half(tmp_path, speech, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, speech, SAMPLE_RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    duration = len(speech) / SAMPLE_RATE
    # never shorter audio under a whole transcript
    assert reason(path, 0.0, duration) in ("truncated", "unreadable")
    if suffix == "wav":
        assert reason(path, 0.0, duration) == "truncated"
        half = load_audio(path, 0.0, 1.0)
        np.testing.assert_allclose(half, speech[:16_000], atol=1e-4)


def test_a_few_milliseconds_may_lack(tmp_path, speech):
    """Manifests round durations; codecs add or lose a frame."""
    soundfile.write(tmp_path / "a.wav", speech, SAMPLE_RATE)
    duration = len(speech) / SAMPLE_RATE
    assert len(load_audio(tmp_path / "a.wav", 0.0, duration + 0.04)) == len(speech)
    assert reason(tmp_path / "a.wav", 0.0, duration + 0.06) == "truncated"


def test_text_named_wav(tmp_path):
    (tmp_path / "a.wav").write_text("<html>404</html>")
    assert reason(tmp_path / "a.wav") == "unreadable"
    assert reason(b"<html>404</html>") == "unreadable"
    assert reason(b"") == "empty"
    with pytest.raises(AudioError, match="unreadable: .*a.wav"):
        audio_info(tmp_path / "a.wav")


def test_missing_file(tmp_path):
    assert reason(tmp_path / "no.wav") == "missing_file"
    assert reason(tmp_path) == "missing_file"  # a folder
    with pytest.raises(AudioError, match=r"missing_file: .*no\.wav"):
        audio_info(tmp_path / "no.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path, speech, value):
    broken = speech.copy()
    broken[40_000] = value
    soundfile.write(tmp_path / "a.wav", broken, SAMPLE_RATE, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "not_finite"
    assert len(load_audio(tmp_path / "a.wav", 0.0, 2.0)) == 32_000  # the good part is good


def test_info(demo_data, speech):
    duration, rate = audio_info(demo_data / "audio" / CLIP)
    assert rate == SAMPLE_RATE and duration == len(speech) / SAMPLE_RATE


def test_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(AudioError("empty", "a.wav: nothing")))
    assert (error.reason, error.detail) == ("empty", "a.wav: nothing")
    assert str(error) == "empty: a.wav: nothing"


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("block_seconds", [0.37, 60.0])
def test_blocks_are_the_whole(tmp_path, speech, rate, block_seconds, monkeypatch):
    """Resampled as if nobody had cut it: no click, nothing lost, nothing late."""
    monkeypatch.setattr(audio, "BLOCK_SECONDS", block_seconds)
    sound = soxr.resample(speech, SAMPLE_RATE, rate)
    soundfile.write(tmp_path / "a.wav", np.stack([sound, 0.5 * sound], 1), rate, subtype="FLOAT")
    blocks = list(audio_blocks(tmp_path / "a.wav", 1.0, 3.5))
    assert len(blocks) > 9 or block_seconds > 3.5
    whole = load_audio(tmp_path / "a.wav", 1.0, 3.5)
    joined = np.concatenate(blocks)
    assert joined.dtype == np.float32 and len(joined) == len(whole) == 3.5 * SAMPLE_RATE
    np.testing.assert_allclose(joined, whole, atol=1e-5)
