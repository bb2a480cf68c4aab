"""Speech of long recordings: found once, whatever is killed, changed or done by several ranks."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.audio import SAMPLE_RATE, AudioError
from distill.data.manifest import Row
from distill.whisper.data import recordings
from distill.whisper.data.recordings import find_speech, known_speech


@pytest.fixture
def rows(tmp_path) -> list[Row]:
    result = []
    for index in range(4):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, np.full(1600, 0.1), SAMPLE_RATE)
        result.append(Row(f"r{index}", str(path), duration=60.0 + index, offset=2.0 * index))
    return result


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """Names of the files that are listened to; the last of them has no speech in it."""
    names = []

    def speech_parts(path, offset, duration, window_seconds, settings):
        names.append(Path(path).name)
        if Path(path).stat().st_size < 100:
            raise AudioError("unreadable", path)
        if path.endswith("3.wav"):
            return []
        return [(offset + 0.1, offset + 8.123456), (offset + 20.0, offset + window_seconds)]

    monkeypatch.setattr(recordings, "speech_parts", speech_parts)
    return names


def reasons(unused: dict[str, AudioError]) -> dict[str, str]:
    return {name: error.reason for name, error in unused.items()}


def test_found_once(rows, heard, tmp_path):
    found, notes = find_speech(rows, tmp_path, 30.0)
    assert heard == [f"{i}.wav" for i in range(4)]
    assert [recording.row for recording in found] == rows[:3]
    assert found[1].parts == ((2.1, 10.123456), (22.0, 32.0))
    assert reasons(notes) == {"r3": "no_speech"}
    assert str(find_speech(rows, tmp_path, 30.0)) == str((found, notes))
    assert str(find_speech(rows, tmp_path, 30.0, rank=1, world=2)) == str((found, notes))
    assert len(heard) == 4, "nobody listens twice"


def test_killed_between_two(rows, heard, tmp_path, monkeypatch):
    whole = find_speech(rows, tmp_path / "whole", 30.0)
    speech_parts = recordings.speech_parts

    def killed(path, *arguments):
        if path.endswith("2.wav"):
            raise KeyboardInterrupt
        return speech_parts(path, *arguments)

    monkeypatch.setattr(recordings, "speech_parts", killed)
    with pytest.raises(KeyboardInterrupt):
        find_speech(rows, tmp_path, 30.0)
    monkeypatch.setattr(recordings, "speech_parts", speech_parts)
    heard.clear()
    assert str(find_speech(rows, tmp_path, 30.0)) == str(whole)
    assert heard == ["2.wav", "3.wav"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "speech").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "whole" / "speech").iterdir()
    }


def test_whatever_decides_is_asked_again(rows, heard, tmp_path, monkeypatch):
    find_speech(rows, tmp_path, 30.0)
    heard.clear()
    later = os.stat(rows[1].audio_filepath).st_mtime + 5
    os.utime(rows[1].audio_filepath, (later, later))
    soundfile.write(rows[2].audio_filepath, np.full(3200, 0.1), SAMPLE_RATE)
    find_speech(rows, tmp_path, 30.0)
    assert heard == ["1.wav", "2.wav"]
    heard.clear()
    find_speech([replace(rows[0], offset=1.0), replace(rows[1], duration=59.0)], tmp_path, 30.0)
    find_speech([rows[0]], tmp_path, 20.0)
    monkeypatch.setattr(recordings, "SETTINGS", replace(recordings.SETTINGS, probability=0.9))
    find_speech([rows[0]], tmp_path, 30.0)
    assert heard == ["0.wav", "1.wav", "0.wav", "0.wav"]


def test_unreadable_recordings_are_counted(rows, heard, tmp_path):
    Path(rows[0].audio_filepath).unlink()
    Path(rows[2].audio_filepath).write_text("no audio")
    found, notes = find_speech(rows, tmp_path, 30.0)
    assert [recording.row.id for recording in found] == ["r1"]
    assert reasons(notes) == {"r0": "missing_file", "r2": "unreadable", "r3": "no_speech"}
    assert notes["r0"].is_transient and not notes["r2"].is_transient
    soundfile.write(rows[2].audio_filepath, np.full(3200, 0.1), SAMPLE_RATE)
    found, notes = find_speech(rows, tmp_path, 30.0)
    assert [recording.row.id for recording in found] == ["r1", "r2"], "it was repaired"
    with pytest.raises(AudioError, match="missing_file"):
        known_speech(rows[0], tmp_path, 30.0)


def test_ranks_share_the_work(rows, heard, tmp_path, monkeypatch):
    """A rank that comes when another is at work starts elsewhere, and has the same in the end."""
    speech_parts, results = recordings.speech_parts, []

    def interrupted(path, *arguments):
        parts = speech_parts(path, *arguments)
        if len(heard) == 1:  # while rank 0 is at its first, rank 1 comes and finds the others
            results.append(find_speech(rows, tmp_path, 30.0, rank=1, world=2))
        return parts

    monkeypatch.setattr(recordings, "speech_parts", interrupted)
    results.append(find_speech(rows, tmp_path, 30.0, rank=0, world=2))
    assert str(results[0]) == str(results[1]) == str(find_speech(rows, tmp_path, 30.0))
    assert heard[:3] == ["0.wav", "2.wav", "3.wav"]
    assert Counter(heard) == {"0.wav": 2, "1.wav": 1, "2.wav": 1, "3.wav": 1}
