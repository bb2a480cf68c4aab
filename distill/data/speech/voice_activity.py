"""Where people speak in a recording, and how it is cut into parts that fit a window.

    parts = speech_parts("hour.mp3", offset=0.0, duration=3600.0, window_seconds=30.0)

The network that tells speech from other sounds is `distill.data.speech.silero`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, audio_blocks, load_audio
from distill.data.speech.windows import quiet_places

FRAME = 512  # samples: 32 ms, which have one probability
_FRAME_SECONDS = FRAME / SAMPLE_RATE
_LOUD, _MAX_GAIN = 0.2, 300.0  # what 1 % of the samples of loud speech are above; 50 dB
_SILENCE = 2.0**-15
_CERTAIN = 0.5  # loses none of 501 prompts, and takes a tenth of 834 pieces of music for speech
_STAYS = 0.5  # speech goes on while the probability is at least half of what it begins with


@dataclass(frozen=True)
class SpeechSettings:
    """What counts as speech. Chosen to lose none of it; a teacher copes with a little noise.

    Attributes:
        probability: speech has a frame of this probability.
        pause_seconds: shorter pauses are part of the speech, and nothing is cut there.
        padding_seconds: kept before and after speech, or half of a pause that is shorter.
        shortest_seconds: shorter sounds are no speech.
    """

    probability: float = 0.2
    pause_seconds: float = 0.3
    padding_seconds: float = 0.3
    shortest_seconds: float = 0.1


def speech_parts(
    path: str | Path,
    offset: float,
    duration: float,
    window_seconds: float,
    settings: SpeechSettings | None = None,
) -> list[tuple[float, float]]:
    """Regions of speech; those longer than a window are cut at their quietest places.

    Returns:
        (start, end) in seconds from the start of the file, in order; [] where nobody speaks.

    Raises:
        AudioError: as `load_audio`.
    """
    parts = []
    for start, end in speech_regions(path, offset, duration, settings):
        while end - start > window_seconds:
            # sound of just over a window and a limit of just under one: there is always a cut
            samples = load_audio(path, start, min(end - start, window_seconds + 1))
            cut = quiet_places(samples, int((window_seconds - 0.01) * SAMPLE_RATE))[0]
            parts.append((start, round(start + cut / SAMPLE_RATE, 6)))
            start = parts[-1][1]
        parts.append((start, end))
    return parts


def speech_regions(
    path: str | Path, offset: float, duration: float, settings: SpeechSettings | None = None
) -> list[tuple[float, float]]:
    """Speech without a pause, with its padding. The file is read a minute at a time.

    Returns, Raises:
        as `speech_parts`; neighbours may touch.
    """
    settings = settings or SpeechSettings()
    probabilities = frame_probabilities(audio_blocks(path, offset, duration))
    runs = _runs_of_speech(probabilities, settings)
    if len(runs) == 0:
        return []
    bounds = offset + runs * _FRAME_SECONDS
    gaps = bounds[1:, 0] - bounds[:-1, 1]
    padding = np.minimum(settings.padding_seconds, gaps / 2)
    bounds[:, 0] -= [settings.padding_seconds, *padding]
    bounds[:, 1] += [*padding, settings.padding_seconds]
    bounds = bounds.clip(offset, offset + duration).round(6)
    return [(start, end) for start, end in bounds.tolist()]


def speech_in(
    blocks: Iterable[np.ndarray], settings: SpeechSettings | None = None
) -> list[tuple[float, float]]:
    """Where somebody speaks in a recording, however quietly: (start, end) in seconds, in order,
    without padding.

    Args:
        blocks: as `frame_probabilities`; each is made as loud as speech usually is before it is
            heard, since the network takes a whisper into a distant microphone for noise.
    """
    probabilities = frame_probabilities(loud(block) for block in blocks)
    runs = _runs_of_speech(probabilities, settings or SpeechSettings(_CERTAIN))
    return [(start, end) for start, end in (runs * _FRAME_SECONDS).tolist()]


def loud(samples: np.ndarray) -> np.ndarray:
    """Samples (float32) amplified so that what is loud in them is as loud as usual speech. Silence
    stays as it is: digital zeros, and what is below the last bit of 16."""
    level = float(np.quantile(np.abs(samples), 0.99)) if len(samples) else 0.0
    if level <= _SILENCE or level >= _LOUD:
        return samples
    return samples * np.float32(min(_LOUD / level, _MAX_GAIN))


def _runs_of_speech(probabilities: np.ndarray, settings: SpeechSettings) -> np.ndarray:
    """First frame and the frame after the last of each run of speech: int (runs, 2)."""
    active = np.flatnonzero(probabilities >= settings.probability * _STAYS)
    if len(active) == 0:
        return np.zeros((0, 2), int)
    pauses = (np.diff(active) - 1) * _FRAME_SECONDS
    at = np.flatnonzero(pauses >= settings.pause_seconds)
    runs = np.stack([active[[0, *(at + 1)]], active[[*at, -1]] + 1], axis=1)
    certain = [probabilities[a:b].max() >= settings.probability for a, b in runs]
    long = (runs[:, 1] - runs[:, 0]) * _FRAME_SECONDS >= settings.shortest_seconds
    return runs[np.array(certain) & long]


def frame_probabilities(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Probability of speech for each frame of 512 samples, float32 (frames,).

    Args:
        blocks: of one recording, in order: float32 (samples,) at 16 kHz.
    """
    from distill.data.speech.silero import Silero  # here: it imports torch

    network = Silero()
    return np.concatenate([network(frames) for frames in _whole_frames(blocks)])


def _whole_frames(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in blocks of (frames, 512); the end is filled with silence."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block])
        size = len(samples) // FRAME * FRAME
        rest = samples[size:]
        if size:
            yield samples[:size].reshape(-1, FRAME)
    if len(rest):
        yield np.pad(rest, (0, FRAME - len(rest))).reshape(1, FRAME)
