"""Stretches of sounds, and their cues beside those of the text."""

import numpy as np
import pytest

from distill.whisper.recognition.sequential import Segment
from eval.speech.cues import Cue
from eval.speech.sounds import Sound, sound_cues, stretches_of
from eval.speech.subtitles import Heard, as_json, srt, vtt

CLASSES = ["Speech", "music", "applause"]


def track(*stretches: tuple[int, int, str, float], steps: int = 100) -> np.ndarray:
    found = np.full((steps, 3), 0.01)
    for first, last, name, probability in stretches:
        found[first:last, CLASSES.index(name)] = probability
    return found


def labels(sounds: list[Sound]) -> list[tuple[float, float, str]]:
    return [(round(each.start, 2), round(each.end, 2), each.label) for each in sounds]


def test_a_sound_is_where_it_is_heard():
    probabilities = track((10, 30, "music", 0.9), (60, 65, "applause", 0.95))
    found = stretches_of(probabilities, CLASSES, {"music": 0.6, "applause": 0.7}, 40.0)
    assert labels(found) == [(4.0, 12.0, "music"), (24.0, 26.0, "applause")]
    assert found[0].score == pytest.approx(0.9)


def test_of_one_step_there_is_no_cue_and_speech_has_its_text():
    probabilities = track((10, 11, "music", 0.99), (30, 60, "Speech", 0.99))
    assert stretches_of(probabilities, CLASSES, {"music": 0.1}, 40.0) == []


def test_a_short_pause_is_none_and_one_label_wins():
    probabilities = track((10, 20, "music", 0.8), (22, 30, "music", 0.8), (14, 18, "applause", 0.9))
    found = stretches_of(probabilities, CLASSES, {"music": 0.2, "applause": 0.8}, 40.0)
    assert labels(found) == [(4.0, 12.0, "music")], "further above its threshold"
    found = stretches_of(probabilities, CLASSES, {"music": 0.2, "applause": 1.0}, 40.0)
    assert labels(found) == [(4.0, 12.0, "music")], "a class that is never heard"


def test_the_last_step_ends_with_the_recording():
    found = stretches_of(track((95, 100, "music", 0.9)), CLASSES, {"music": 0.5}, 39.8)
    assert labels(found) == [(38.0, 39.8, "music")]


def test_cues_in_gaps_leave_text_alone():
    spoken = [Cue(2.0, 4.0, ("Hello.",)), Cue(10.0, 12.0, ("Bye.",))]
    music = [Sound(1.5, 30.0, "Music", 0.9)]
    (cue,) = sound_cues(music, spoken, only_gaps=True)
    assert cue.lines == ("[music]",)
    assert (cue.start, cue.end) == pytest.approx((4.0 + 2 / 24, 10.0 - 2 / 24))
    assert sound_cues([Sound(2.5, 4.5, "music", 0.9)], spoken, only_gaps=True) == [], "too short"
    (cue,) = sound_cues(music, spoken, only_gaps=False)
    assert (cue.start, cue.end) == (1.5, 8.5), "shown when it begins"
    (cue,) = sound_cues([Sound(0.5, 3.0, "music", 0.9)], [], only_gaps=True)
    assert (cue.start, cue.end) == (0.5, 3.0)


def test_files_with_both():
    segments = [Segment(2.0, 4.0, "Hello there.", [1], "en", -0.1, 0.0, 0.0)]
    heard = Heard([Sound(6.0, 9.0, "music", 0.91234)])
    assert srt(segments, 20.0, heard).endswith("2\n00:00:06,000 --> 00:00:09,000\n[music]\n")
    assert "00:00:06.000 --> 00:00:09.000\n[music]" in vtt(segments, 20.0, heard)
    assert '"sounds": [' in (text := as_json(segments, {}, heard)) and '"score": 0.9123' in text
    assert '"sounds"' not in as_json(segments, {})
    assert srt(segments, 20.0) in srt(segments, 20.0, heard)
