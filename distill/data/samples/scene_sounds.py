"""Sounds for scenes: a recording that is changed, two that are crossed, or one that is made up.

Everything is drawn by Philox and depends on nothing but the stream that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.views.augment import NOISES, make_noise, philox, uniforms

_KNOTS = 7  # of a random filter's curve, equally far apart in octaves
_LOWEST_HZ = 60.0
_REVERB_SECONDS = (0.1, 0.8)


class Draws:
    """Numbers of one Philox stream, one after the other."""

    def __init__(self, seed: int, key: str):
        self._bits = philox(seed, key, 0)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + float(uniforms(self._bits, 1)[0]) * (high - low)

    def geometric(self, low: float, high: float) -> float:
        """As likely to be in any octave as in any other."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """low..high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def key(self) -> int:
        return int(self._bits.random_raw())


@dataclass
class ChangeConfig:
    """How the sounds of a scene differ from their recordings; all zero: not at all."""

    speed: float = 1.0  # tempo and pitch, drawn from 1/speed to speed
    filter_db: float = 0.0  # random equalizer, up to so much louder or softer
    reverb: float = 0.0  # this one and those below are probabilities: sounds of a room
    reverse: float = 0.0  # played backwards
    cross: float = 0.0  # crossed with another recording: such a sound has the labels of both
    made_up: float = 0.0  # tones, chirps and noises of no recording; without a label


def change(sound: np.ndarray, config: ChangeConfig, draws: Draws) -> np.ndarray:
    """float32 (samples,) -> float32, of another length if the speed changes."""
    if config.speed != 1:
        import soxr

        factor = draws.geometric(1 / config.speed, config.speed)
        sound = soxr.resample(sound, SAMPLE_RATE * factor, SAMPLE_RATE, quality="MQ")
    if draws.chance(config.reverse):
        sound = sound[::-1]
    if config.filter_db:
        sound = equalize(sound, config.filter_db, draws)
    if draws.chance(config.reverb):
        sound = reverberate(sound, draws)
    return np.ascontiguousarray(sound, dtype=np.float32)


def equalize(sound: np.ndarray, most_db: float, draws: Draws) -> np.ndarray:
    """A filter whose gain goes from knot to knot, each within +-most_db; zero phase."""
    points = 1 << (len(sound) - 1).bit_length()  # other lengths may take a hundred times as long
    spectrum = np.fft.rfft(sound, points)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(points, 1 / SAMPLE_RATE), _LOWEST_HZ))
    knots = np.linspace(math.log2(_LOWEST_HZ), math.log2(SAMPLE_RATE / 2), _KNOTS)
    gains = [draws.uniform(-most_db, most_db) for _ in knots]
    return np.fft.irfft(spectrum * 10 ** (np.interp(octaves, knots, gains) / 20))[: len(sound)]


def reverberate(sound: np.ndarray, draws: Draws) -> np.ndarray:
    """A room of noise that dies away by 60 dB within its reverberation time."""
    seconds, wet = draws.geometric(*_REVERB_SECONDS), draws.uniform(0.2, 1.0)
    size = int(seconds * SAMPLE_RATE)
    room = make_noise("white", draws.key(), size) * 10 ** (-3 * np.arange(size) / size)
    room *= wet / np.sqrt(np.square(room).sum())
    room[0] += 1.0
    length = len(sound) + size - 1
    points = 1 << (length - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(sound, points) * np.fft.rfft(room, points), points)[:length]


def cross(first: np.ndarray, second: np.ndarray, draws: Draws) -> np.ndarray:
    """A sound between two: the lows of one and the highs of the other, or the spectrum of one with
    the loudness of the other. Its length is that of the first."""
    second = np.resize(second, len(first)) if len(second) else np.zeros_like(first)
    if draws.chance(0.5):
        points = 1 << (len(first) - 1).bit_length()
        spectra = np.fft.rfft(first, points), np.fft.rfft(second, points)
        low = np.fft.rfftfreq(points, 1 / SAMPLE_RATE) < draws.geometric(200.0, 4000.0)
        return np.fft.irfft(np.where(low, *spectra))[: len(first)].astype(np.float32)
    size = int(0.02 * SAMPLE_RATE)
    window = np.ones(size) / size

    def loudness(sound: np.ndarray) -> np.ndarray:
        return np.sqrt(np.convolve(np.square(sound), window, "same")[: len(first)] + 1e-8)

    return (first / loudness(first) * loudness(second)).astype(np.float32)


def make_up(draws: Draws) -> np.ndarray:
    """A struck or held sound: frequency-modulated partials, a chirp or coloured noise."""
    seconds = draws.geometric(0.05, 3.0)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = draws.geometric(40.0, 3000.0)
    glide = draws.uniform(-1.5, 1.5) if draws.chance(0.5) else 0.0  # octaves over the sound
    phase = 2 * np.pi * pitch * np.cumsum(2 ** (glide * time / seconds)) / SAMPLE_RATE
    ratio, index = draws.geometric(0.25, 8.0), draws.uniform(0, 6) * draws.integer(0, 1)
    sound = np.zeros(len(time))
    for partial in range(1, draws.integer(1, 8) + 1):
        stretch = partial ** (1 + draws.uniform(0, 0.15))
        if stretch * pitch * 3 < SAMPLE_RATE / 2:
            sound += np.sin(stretch * phase + index * np.sin(ratio * phase)) / partial
    kind = list(NOISES)[draws.integer(0, len(NOISES) - 1)]
    noise = make_noise(kind, draws.key(), len(time))
    noise *= 10 ** (draws.uniform(-40, 10) / 20) / (np.sqrt(np.mean(np.square(noise))) + 1e-9)
    attack, decay = draws.geometric(0.001, 0.3), draws.geometric(0.02, 2.0)
    envelope = np.minimum(time / attack, 1) * np.exp(-time / decay)
    return equalize((sound + noise) * envelope, 12.0, draws).astype(np.float32)
