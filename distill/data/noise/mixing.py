"""Noise under speech at a signal-to-noise ratio: the one place where it is mixed.

    audio = mix(speech, noise, snr_db=10.0)

The level of speech is that of its active part: the mean power of its frames of 20 ms, but for those
more than 30 dB below the loudest one. That is simpler than ITU-T P.56, and like it leaves pauses
out, so that a clip with long ones does not get less noise.
"""

from __future__ import annotations

import math

import numpy as np

from distill.data.audio import SAMPLE_RATE

_FRAME = SAMPLE_RATE // 50  # samples of the frames whose power tells speech from pauses: 20 ms
_PAUSE_DB = 30.0  # frames that are so much weaker than the loudest one are pauses


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """float32 (samples,): speech with noise under all of it; nothing is clipped.

    Args:
        speech, noise: (samples,) at 16 kHz.
        snr_db: power of the active part of the speech over the mean power of the noise.
    """
    power = float(np.mean(np.square(noise, dtype=np.float64))) if len(noise) else 0.0
    if power == 0:
        return speech
    scale = math.sqrt(active_power(speech) / power / 10 ** (snr_db / 10))
    return (speech + scale * noise).astype(np.float32)


def active_power(samples: np.ndarray) -> float:
    """Mean power of the frames that are no pauses.

    Args:
        samples: (samples,) at 16 kHz.
    """
    size = min(_FRAME, len(samples))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    powers = np.square(frames, dtype=np.float64).mean(axis=1)
    return float(powers[powers >= powers.max() * 10 ** (-_PAUSE_DB / 10)].mean())
