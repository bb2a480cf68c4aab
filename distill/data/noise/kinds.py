"""Sounds without words, and voices that are nobody's to write down: as long as they are asked for.

    noises = Noises.embedded(Path("recipes/noise"))
    sound = noises.make("pub", key="clip-000012/pub", size=48_000)

A sound is a function of its kind, key and size, and of the recordings. Their draws are counted
(`distill.data.views.augment.philox`), so all models hear the same.

| kind | what it is |
|---|---|
| white, pink, brown | Gaussian noise |
| fan | a fan: pink noise, and a hum of 100 Hz and its multiples |
| pub | six voices at a time in other languages, music 6 dB below them, glasses and doors |
| babble | six voices at a time |
| music | pieces, one after the other |
| breathing | noise that comes and goes as breath does |
| applause | many hands that clap |
| silence | digital zeros |
| folder | recordings of a folder of the user's, one after the other |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, audio_info, load_audio
from distill.data.find_files import find_audio
from distill.data.manifest import Row, read_manifest
from distill.data.noise.mixing import active_power
from distill.data.views.augment import NOISES, make_noise, philox, uniforms

KINDS = (*NOISES, "fan", "pub")  # that lie under speech; and `folder`
NO_SPEECH = "<no speech>"  # the answer of a model that writes down, where nobody speaks
WITHOUT_SPEECH = ("silence", "noise", "music", "breathing", "applause")

_VOICES = 6  # in a pub, at a time
_MUSIC_DB = -6.0  # below all voices together
_GLASSES = 0.7  # a second
_CLAPS = 80  # a second
_BREATH_SECONDS = 4.0
_BLOCK = 30 * SAMPLE_RATE  # samples of long sounds that are made at once
_WHOLE_SECONDS = 10.0  # of recordings that are read whole, and of parts of longer ones
_QUIET = 0.01  # RMS of sounds without speech: 40 dB below full scale


@dataclass(frozen=True)
class Noises:
    """Recordings that noises are made of."""

    voices: Sequence[Row] = ()
    music: Sequence[Row] = ()
    glasses: Sequence[Row] = ()
    folder: Sequence[Row] = ()

    @classmethod
    def embedded(cls, place: Path, folder: str | None = None) -> Noises:
        """Recordings of the repository, and those of a folder.

        Args:
            place: the folder recipes/noise.

        Raises:
            ValueError: there is no such folder, or no audio in it.
            AudioError: a file of it cannot be read.
        """
        rows = {name: read_manifest(place / f"{name}.jsonl")[0] for name in ("voices", "glasses")}
        music, _ = read_manifest(place.parent / "demo-tagger" / "music" / "music.jsonl")
        return cls(**rows, music=music, folder=rows_of(folder) if folder else ())

    def make(self, kind: str, key: str, size: int) -> np.ndarray:
        """float (size,) at 16 kHz; its level says nothing, but for those without speech.

        Raises:
            AudioError: a recording cannot be read.
        """
        if kind == "silence":
            return np.zeros(size, np.float32)
        blocks = []
        for number, first in enumerate(range(0, size, _BLOCK)):
            bits = philox(0, key, number)
            blocks.append(self.draw(kind, bits, min(_BLOCK, size - first)))
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def draw(self, kind: str, bits: np.random.Philox, size: int) -> np.ndarray:
        """A sound of at most 30 s, see `make`."""
        if kind in NOISES:
            return _coloured(kind, bits, size)
        match kind:
            case "fan":
                return _fan(bits, size)
            case "pub":
                return self._pub(bits, size)
            case "babble":
                return self._babble(bits, size)
            case "folder":
                return _sequence(bits, self.folder, size)
            case "music":
                return _sequence(bits, self.music, size)
            case "noise":
                return _QUIET * _unit(_coloured("pink", bits, size))
            case "breathing":
                return _QUIET * _unit(_breathing(bits, size))
            case "applause":
                return 10 * _QUIET * _unit(_applause(bits, size))
        raise ValueError(f"there is no noise of kind {kind!r}")

    def _babble(self, bits: np.random.Philox, size: int) -> np.ndarray:
        gains = 10 ** (-6 * uniforms(bits, _VOICES) / 20)
        return sum(gain * _unit(_sequence(bits, self.voices, size)) for gain in gains)

    def _pub(self, bits: np.random.Philox, size: int) -> np.ndarray:
        talk = _unit(self._babble(bits, size))
        sound = talk + 10 ** (_MUSIC_DB / 20) * _unit(_sequence(bits, self.music, size))
        for _ in range(max(1, round(_GLASSES * size / SAMPLE_RATE))):
            which, at, level = uniforms(bits, 3)
            hit = _part(self.glasses[int(which * len(self.glasses))], 0.0)
            first = int(at * size)
            part = hit[: size - first]
            sound[first : first + len(part)] += part / np.abs(hit).max() * (0.5 + 2 * level)
        return sound


def rows_of(folder: str | Path, key: str = "robustness.folder") -> list[Row]:
    """Rows of the audio files of a folder, in the order of their names.

    Args:
        key: of a recipe, that names the folder.

    Raises:
        ValueError: there is no such folder, or no audio in it.
        AudioError: a file cannot be read.
    """
    paths = find_audio(Path(folder))
    if not paths:
        raise ValueError(f"{key}: no audio in {folder}")
    return [Row(path.name, str(path), audio_info(path)[0]) for path in paths]


@lru_cache(maxsize=256)  # up to 160 MB
def _load(path: str, offset: float, seconds: float) -> np.ndarray:
    return load_audio(path, offset, seconds)


def _part(row: Row, at: float) -> np.ndarray:
    """From a share of a recording on: files of hours are not read whole."""
    if row.duration <= _WHOLE_SECONDS:
        sound = _load(row.audio_filepath, row.offset, row.duration)
        return sound[int(at * len(sound)) :]
    start = at * (row.duration - _WHOLE_SECONDS)
    return load_audio(row.audio_filepath, row.offset + start, _WHOLE_SECONDS)


def _sequence(bits: np.random.Philox, rows: Sequence[Row], size: int) -> np.ndarray:
    """Drawn recordings one after the other; the first one is entered somewhere in its course."""
    parts: list[np.ndarray] = []
    have = 0
    while have < size:
        which, at = uniforms(bits, 2)
        row = rows[int(which * len(rows))]
        parts.append(_part(row, 0.0 if parts and row.duration <= _WHOLE_SECONDS else at))
        have += len(parts[-1])
    return np.concatenate(parts)[:size]


def _unit(sound: np.ndarray) -> np.ndarray:
    """With an active power of 1; silence stays as it is."""
    power = active_power(sound)
    return sound / np.sqrt(power) if power else sound


def _coloured(kind: str, bits: np.random.Philox, size: int) -> np.ndarray:
    points = 1 << (size - 1).bit_length()  # other lengths may take a hundred times as long
    return make_noise(kind, int(bits.random_raw()), points)[:size]


def _fan(bits: np.random.Philox, size: int) -> np.ndarray:
    time = np.arange(size) / SAMPLE_RATE
    hum = np.zeros(size)
    for number, phase in enumerate(uniforms(bits, 8), 1):
        hum += np.sin(2 * np.pi * (100 * number * time + phase)) / number
    return _unit(hum) + _unit(_coloured("pink", bits, size))


def _breathing(bits: np.random.Philox, size: int) -> np.ndarray:
    """In and out within four seconds or so, with a rest."""
    hiss = _coloured("pink", bits, size)
    hiss -= np.concatenate([[0.0], hiss[:-1]]) * 0.9  # breath has little below 300 Hz
    speed = _BREATH_SECONDS * (0.8 + 0.4 * uniforms(bits, 1)[0])
    phase = (np.arange(size) / SAMPLE_RATE / speed + uniforms(bits, 1)[0]) % 1
    inward = np.where(phase < 0.35, np.sin(np.pi * phase / 0.35), 0.0)
    outward = np.where((phase > 0.4) & (phase < 0.85), np.sin(np.pi * (phase - 0.4) / 0.45), 0.0)
    return hiss * (inward**2 + 0.6 * outward**2)


def _applause(bits: np.random.Philox, size: int) -> np.ndarray:
    """Claps at random times, of eight sorts: short bursts of noise around 700 to 2,000 Hz."""
    points = 1 << (size + 1024 - 1).bit_length()
    spectrum = np.zeros(points // 2 + 1, complex)
    time, frequencies = np.arange(1024) / SAMPLE_RATE, np.fft.rfftfreq(points, 1 / SAMPLE_RATE)
    for _ in range(8):
        pitch, decay = uniforms(bits, 2)
        count = max(1, round(_CLAPS * size / SAMPLE_RATE / 8))
        train = np.zeros(size)
        np.add.at(train, (uniforms(bits, count) * size).astype(int),
                  0.2 + uniforms(bits, count))
        burst = make_noise("white", int(bits.random_raw()), 1024)
        burst *= np.exp(-time / (0.002 + 0.006 * decay))
        band = 0.1 + np.exp(-np.square((frequencies - 700 - 1300 * pitch) / 600))
        spectrum += np.fft.rfft(train, points) * np.fft.rfft(burst, points) * band
    return np.fft.irfft(spectrum, points)[:size]
