"""What else is heard in a recording: stretches of sounds, and their cues for subtitles.

    track = SoundTrack(sounds, states)              # a head, and what encodes the gaps
    transcribe_long(..., on_heard=track.take)       # windows with speech are encoded once
    found = track.finish(audio)                     # [Sound(12.4, 20.0, "music", 0.93), ...]

A class counts as heard in a step of 0.4 s where its own probability and that of the four seconds
around it are at least its threshold, which was chosen on validation clips. Where several are, the
one that is furthest above its own is it: a cue has one label. Speech has its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from distill.data.audio import SAMPLE_RATE, WINDOW_SECONDS
from distill.whisper.recognition.sequential import LongAudio
from distill.whisper_at.joint import SoundHead
from eval.speech.cues import GAP, MAX_SECONDS, MIN_SECONDS, Cue

STEP = 0.4  # seconds
_AROUND = 5  # steps on both sides, that a clip of 4 s would have
_JOIN = 0.8  # seconds between two stretches of the same sound that are none
_SHORTEST = 0.8  # seconds
_DEFAULT_THRESHOLD = 0.5  # of heads that come without


@dataclass(frozen=True)
class Sound:
    """A stretch of a recording, seconds, and the highest probability in it."""

    start: float
    end: float
    label: str
    score: float


class SoundTrack:
    """Probabilities of recordings, step by step, as their windows are encoded.

    Args:
        sounds: the head of the model that transcribes.
        states: (layers, steps, width) of waves, for what no window has: gaps without speech.
    """

    def __init__(self, sounds: SoundHead, states: Callable[[Sequence[np.ndarray]], list[Tensor]]):
        self.sounds, self.states = sounds, states
        self._heard: dict[int, np.ndarray] = {}

    def take(self, audio: LongAudio, start: float, length: float, means: Tensor) -> None:
        """The layers of a window of `length` seconds that begins at `start`; what an earlier window
        had of it stays."""
        found = self._of(audio)
        frames = self.sounds(means, length)[0].double().cpu().numpy()
        first = round(start / STEP)
        last = min(first + len(frames), len(found))
        part = found[first:last]
        part[:] = np.where(np.isnan(part), frames[: len(part)], part)

    def finish(self, audio: LongAudio) -> list[Sound]:
        """All sounds of a recording, whose gaps are heard now.

        Raises:
            AudioError: it cannot be read there.
        """
        found = self._of(audio)
        for first, last in _stretches(np.isnan(found[:, 0])):
            for at in range(first, last, round(WINDOW_SECONDS / STEP)):
                start = at * STEP
                length = min(WINDOW_SECONDS, audio.seconds - start, (last - at) * STEP)
                wave = audio.window(start, length)
                self.take(audio, start, len(wave) / SAMPLE_RATE, self.states([wave])[0])
        return stretches_of(np.nan_to_num(self._heard.pop(id(audio))), self.sounds.classes,
                            self.sounds.settings.thresholds, audio.seconds)

    def _of(self, audio: LongAudio) -> np.ndarray:
        steps = max(1, int(np.ceil(audio.seconds / STEP - 1e-9)))
        return self._heard.setdefault(
            id(audio), np.full((steps, len(self.sounds.classes)), np.nan))


def stretches_of(
    probabilities: np.ndarray, classes: Sequence[str], thresholds: dict[str, float], seconds: float
) -> list[Sound]:
    """Sounds of a recording, by their beginning.

    Args:
        probabilities: (steps, classes).
        thresholds: by class.
        seconds: length of the recording.
    """
    wanted = np.array([thresholds.get(name, _DEFAULT_THRESHOLD) for name in classes])
    wanted[[is_speech(name) for name in classes]] = np.inf
    around = _around(probabilities)
    is_heard = (probabilities >= wanted) & (around >= wanted)
    margin = np.where(is_heard, around / wanted, 0.0)
    best = np.where(is_heard.any(1), margin.argmax(1), -1)
    found: list[Sound] = []
    for label in sorted(set(best.tolist()) - {-1}):
        joined: list[Sound] = []
        for first, last in _stretches(best == label):
            score = float(probabilities[first:last, label].max())
            each = Sound(first * STEP, min(last * STEP, seconds), classes[label], score)
            if joined and each.start - joined[-1].end <= _JOIN + 1e-6:
                each = replace(each, start=joined[-1].start, score=max(score, joined[-1].score))
                joined.pop()
            joined.append(each)
        least = min(_SHORTEST, seconds) - 1e-6
        found += [each for each in joined if each.end - each.start >= least]
    return sorted(found, key=lambda each: (each.start, each.label))


def is_speech(label: str) -> bool:
    """Whether a class is what the text says."""
    return "speech" in label.lower()


def sound_cues(sounds: Sequence[Sound], spoken: Sequence[Cue], only_gaps: bool) -> list[Cue]:
    """[music] and the like; a long sound is shown when it begins.

    Args:
        spoken: cues of the text, by their beginning.
        only_gaps: nothing is shown beside text: what is left of a sound between two cues of text,
            if that can be read.
    """
    found = []
    for sound in sounds:
        parts = [(sound.start, sound.end)]
        for cue in spoken if only_gaps else ():
            parts = [piece for start, end in parts for piece in
                     ((start, min(end, cue.start - GAP)), (max(start, cue.end + GAP), end))
                     if piece[1] - piece[0] > 0]
        parts = [(start, end) for start, end in parts if end - start >= MIN_SECONDS - 1e-9]
        if parts:
            start, end = parts[0]
            found.append(Cue(start, min(end, start + MAX_SECONDS), (f"[{sound.label.lower()}]",)))
    return found


def _around(probabilities: np.ndarray) -> np.ndarray:
    """Mean odds of each step and its neighbours, as a probability: how a clip of them would be
    scored."""
    kept = np.clip(probabilities, 1e-9, 1 - 1e-9)
    sums = np.cumsum(np.concatenate([np.zeros((1, kept.shape[1])), kept / (1 - kept)]), 0)
    at = np.arange(len(kept))
    first, last = np.maximum(at - _AROUND, 0), np.minimum(at + _AROUND, len(kept))
    odds = (sums[last] - sums[first]) / (last - first)[:, None]
    return odds / (1 + odds)


def _stretches(there: np.ndarray) -> list[tuple[int, int]]:
    """(first, behind the last) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
