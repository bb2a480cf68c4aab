"""Where people speak: real prompts with silence and noise between them, in every kind of file."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr

from distill.data import audio
from distill.data.audio import SAMPLE_RATE, AudioError, load_audio
from distill.data.manifest import read_manifest
from distill.data.speech.voice_activity import (
    FRAME,
    SpeechSettings,
    frame_probabilities,
    speech_in,
    speech_parts,
    speech_regions,
)

PROMPTS = ("agent-alreadyon", "privacy-prompt", "agent-pass", "conf-usermenu")
PAUSES = (3.0, 0.5, 5.0, 2.5)  # seconds of silence before each
NOISE_SECONDS = 6.0  # at the end


def speech_of(samples: np.ndarray) -> tuple[int, int]:
    """First and last sample of what is audible, within 30 dB of the loud."""
    frames = np.sqrt(np.square(samples[: len(samples) // 160 * 160].reshape(-1, 160)).mean(axis=1))
    loud = np.flatnonzero(frames > np.quantile(frames, 0.95) * 10 ** (-30 / 20))
    return int(loud[0]) * 160, int(loud[-1] + 1) * 160


@pytest.fixture(scope="module")
def talk(demo_data) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Prompts over a faint hiss, and loud noise at the end; (start, end) of the speech, seconds."""
    parts, truth, at = [], [], 0
    for name, pause in zip(PROMPTS, PAUSES, strict=True):
        prompt = load_audio(demo_data / "audio" / f"{name}.ogg")
        at += round(pause * SAMPLE_RATE)
        parts += [np.zeros(round(pause * SAMPLE_RATE)), prompt]
        truth.append(tuple((at + place) / SAMPLE_RATE for place in speech_of(prompt)))
        at += len(prompt)
    generator = np.random.default_rng(0)
    noise = 0.03 * generator.standard_normal(round(NOISE_SECONDS * SAMPLE_RATE))
    samples = np.concatenate([*parts, noise])
    samples += 1e-4 * generator.standard_normal(len(samples))
    return samples.astype(np.float32), truth


@pytest.fixture(scope="module")
def talk_file(talk, tmp_path_factory):
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, talk[0], SAMPLE_RATE, subtype="FLOAT")
    return path


def seconds_of(path) -> float:
    return soundfile.info(path).duration


def check_talk(parts, truth, ends: float) -> None:
    """All speech is in, the long pauses and the noise are not."""
    assert parts == sorted(parts) and all(start < end for start, end in parts)
    assert all(before[1] <= after[0] for before, after in zip(parts, parts[1:], strict=False))
    for start, end in truth:
        covered = sum(min(end, b) - max(start, a) for a, b in parts if b > start and a < end)
        assert covered == pytest.approx(end - start, abs=0.35)  # pauses inside a prompt
        # and it begins where it begins, less the padding
        first = min(a for a, b in parts if b > start)
        assert start - 0.5 < first <= start + 0.03
    long = [truth[2][0] - 2.0, truth[0][0] - 1.0, ends - NOISE_SECONDS / 2]
    for place in long:
        assert not any(a <= place <= b for a, b in parts), f"nobody speaks at {place:.1f} s"


@pytest.mark.parametrize(
    ("rate", "channels"), [(SAMPLE_RATE, 1), (44_100, 2), (8_000, 1)], ids=str
)
def test_all_speech_is_found_and_nothing_else(talk, tmp_path, rate, channels):
    samples, truth = talk
    sound = soxr.resample(samples, SAMPLE_RATE, rate) if rate != SAMPLE_RATE else samples
    soundfile.write(tmp_path / "a.wav", np.stack([sound] * channels, axis=1), rate)
    seconds = seconds_of(tmp_path / "a.wav")
    check_talk(speech_parts(tmp_path / "a.wav", 0.0, seconds, 30.0), truth, seconds)


def test_times_count_from_the_start_of_the_file(talk, talk_file):
    """Also where a clip begins in the middle of it."""
    truth = talk[1]
    offset = truth[2][0] - 2.0
    duration = truth[2][1] + 1.0 - offset
    parts = speech_parts(talk_file, offset, duration, 30.0)
    assert parts and parts[0][0] == pytest.approx(truth[2][0], abs=0.5)
    assert parts[-1][1] == pytest.approx(truth[2][1], abs=0.5)
    # speech is cut at the ends of the clip, never outside of it
    start, end = truth[3]
    (part,) = speech_parts(talk_file, start + 1.0, 2.0, 30.0)
    assert part == (pytest.approx(start + 1.0, abs=0.04), pytest.approx(start + 3.0, abs=0.04))
    assert start + 1.0 <= part[0] and part[1] <= start + 3.0


def test_the_file_is_read_a_block_at_a_time(talk, talk_file, monkeypatch):
    seconds = seconds_of(talk_file)
    whole = speech_regions(talk_file, 0.0, seconds)
    sizes = []
    read = soundfile.SoundFile.read

    def spy(self, frames=-1, *args, **kwargs):
        sizes.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    monkeypatch.setattr(audio, "BLOCK_SECONDS", 0.7)
    assert speech_regions(talk_file, 0.0, seconds) == whole
    assert len(sizes) > 40 and 0 < max(sizes) <= 0.7 * SAMPLE_RATE


@pytest.mark.parametrize("sound", ["silence", "hiss", "hum"])
def test_no_speech(tmp_path, sound):
    generator, time = np.random.default_rng(0), np.arange(8 * SAMPLE_RATE) / SAMPLE_RATE
    samples = {
        "silence": np.zeros(len(time)),
        "hiss": 0.05 * generator.standard_normal(len(time)),
        "hum": 0.2 * np.sin(2 * np.pi * 50 * time) + 0.1 * np.sin(2 * np.pi * 150 * time),
    }[sound]
    soundfile.write(tmp_path / "a.wav", samples.astype(np.float32), SAMPLE_RATE)
    assert speech_parts(tmp_path / "a.wav", 0.0, 8.0, 30.0) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_network_is_that_of_the_package(talk):
    """Block by block and frame by frame, with what is remembered in between."""
    import torch

    threads = torch.get_num_threads()
    samples = talk[0][: 8 * SAMPLE_RATE + 100]
    blocks = np.split(samples, [700, 701, 5_000, 70_000])
    try:
        torch.set_num_threads(3)
        found = frame_probabilities(blocks)
        assert torch.get_num_threads() == 3
        from silero_vad import load_silero_vad  # leaves torch with one thread

        model = load_silero_vad()
    finally:
        torch.set_num_threads(threads)
    frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    with torch.no_grad():
        expected = [model(torch.from_numpy(frame), SAMPLE_RATE).item() for frame in frames]
    assert min(expected) < 0.05 and max(expected) > 0.95
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_unbroken_speech_is_cut_at_quiet_places(talk, talk_file):
    start, end = talk[1][3]
    steady = SpeechSettings(pause_seconds=3.0)  # no pause is long enough
    ((first, last),) = speech_parts(talk_file, start - 1.0, end - start + 2.0, 30.0, steady)
    parts = speech_parts(talk_file, start - 1.0, end - start + 2.0, 3.0, steady)
    assert len(parts) >= 5 and max(b - a for a, b in parts) <= 3.0
    assert (parts[0][0], parts[-1][1]) == (first, last)
    assert [b for _, b in parts[:-1]] == [a for a, _ in parts[1:]], "nothing lost, nothing twice"
    samples = talk[0]
    loud = np.sqrt(np.mean(samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] ** 2))
    for _, cut in parts[:-1]:
        at = round(cut * SAMPLE_RATE)
        assert np.sqrt(np.mean(samples[at - 400 : at + 400] ** 2)) < 0.5 * loud


@pytest.mark.parametrize("window_seconds", [30.0, 7.5, 1.0])
def test_no_part_is_longer_than_a_window(talk, talk_file, window_seconds):
    seconds = seconds_of(talk_file)
    parts = speech_parts(talk_file, 0.0, seconds, window_seconds)
    assert max(end - start for start, end in parts) <= window_seconds
    whole = speech_parts(talk_file, 0.0, seconds, 30.0)
    total = sum(end - start for start, end in whole)
    assert sum(end - start for start, end in parts) == pytest.approx(total, abs=1e-4)


def test_padding_and_short_sounds(talk, talk_file):
    seconds = seconds_of(talk_file)
    tight = replace(SpeechSettings(), padding_seconds=0.0)
    wide = replace(SpeechSettings(), padding_seconds=0.3)
    bare, padded = (speech_regions(talk_file, 0.0, seconds, each) for each in (tight, wide))
    assert len(bare) == len(padded)
    for (a, b), (c, d) in zip(bare, padded, strict=True):
        assert 0 < a - c <= 0.3 + 1e-6 and 0 < d - b <= 0.3 + 1e-6
    for nothing in (replace(tight, shortest_seconds=60.0), replace(tight, probability=1.0)):
        assert speech_regions(talk_file, 0.0, seconds, nothing) == []


def reason(*arguments) -> str:
    with pytest.raises(AudioError) as error:
        speech_parts(*arguments, 30.0)
    return error.value.reason


def test_faults(talk_file, tmp_path):
    assert reason(tmp_path / "nowhere.wav", 0.0, 1.0) == "missing_file"
    (tmp_path / "text.wav").write_text("this is not audio")
    assert reason(tmp_path / "text.wav", 0.0, 1.0) == "unreadable"
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), SAMPLE_RATE)
    assert reason(tmp_path / "empty.wav", 0.0, 1.0) == "empty"
    assert reason(talk_file, 0.0, seconds_of(talk_file) + 1) == "truncated"
    samples = np.zeros(SAMPLE_RATE)
    samples[9_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert reason(tmp_path / "nan.wav", 0.0, 1.0) == "not_finite"


def test_speech_however_quiet_and_nothing_else(demo_data):
    """Prompts at 0, -30 and -45 dB of 16 bits; silence, noise, hum and a melody of tones."""
    rows = read_manifest(demo_data / "test.jsonl")[0][1:9]
    for gain in (1.0, 10**-1.5, 10**-2.25):
        for row in rows:
            sound = load_audio(row.audio_filepath, row.offset, row.duration) * gain
            sound = (np.round(sound * 32768) / 32768).astype(np.float32)
            spoken = sum(end - start for start, end in speech_in([sound]))
            assert spoken > 0.5 * row.duration, (row.text, gain)
    draw, time = np.random.default_rng(0), np.arange(20 * 16000) / 16000
    sounds = {
        "zeros": 0 * time, "the last bit": draw.integers(-1, 2, len(time)) / 32768,
        "noise": draw.normal(0, 0.1, len(time)), "quiet noise": draw.normal(0, 3e-4, len(time)),
        "hum": 0.2 * np.sin(100 * np.pi * time),
        "melody": 0.2 * np.sin(2 * np.pi * (330 + 110 * (time // 0.5 % 4)) * time),
    }
    for name, sound in sounds.items():
        assert speech_in([sound.astype(np.float32)]) == [], name
