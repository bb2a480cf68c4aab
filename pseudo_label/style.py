"""How something is said, in five levels: pitch, rate and volume, as in LTU-AS (arXiv:2309.14405).

    measured = [measure(row) for row in rows]             # None where too little is voiced
    levels = fit_levels([each for each in measured if each])
    levels.of(measured[0])                                # {"pitch": "low", "rate": "fast", ...}

Levels are fifths of the clips they were fitted on. Volume depends on how a corpus was recorded: it
means something within one. Nothing is said about who speaks: pitch tells no gender.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import numpy as np

from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.manifest import Row

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0  # of a voice
SMALLEST_VOICED_SECONDS = 0.4
_FRAME, _HOP = 1024, 320  # samples
_RESOLUTION = 0.2  # of a semitone: F0 is searched in such steps
_ACTIVE_DB = 25.0  # under the loudest frame
WORDS = {
    "pitch": ("very low", "low", "medium", "high", "very high"),
    "rate": ("very slow", "slow", "medium", "fast", "very fast"),
    "volume": ("very quiet", "quiet", "medium", "loud", "very loud"),
}


@dataclass(frozen=True)
class Style:
    """Of one clip: `pitch` is its median F0 in Hz, `rate` words a second while somebody speaks,
    `volume` the level then, in dB to full scale."""

    pitch: float
    rate: float
    volume: float


@dataclass(frozen=True)
class Levels:
    """Four edges for each of WORDS; what is at or above an edge is in the next level."""

    edges: dict[str, list[float]]

    def of(self, style: Style) -> dict[str, str]:
        return {name: WORDS[name][int(np.searchsorted(self.edges[name], value, side="right"))]
                for name, value in asdict(style).items()}


def measure(row: Row) -> Style | None:
    """Of a clip with a text; None where too little of it is voiced, or nothing is said.

    Raises:
        AudioError: it cannot be read.
    """
    words = len((row.text or "").split())
    wave = load_audio(row.audio_filepath, row.offset, row.duration)
    return style_of(wave, words) if words else None


def style_of(wave: np.ndarray, words: int) -> Style | None:
    """Of float32 (samples,) at 16 kHz in which so many words are said."""
    if len(wave) < _FRAME or not wave.any():
        return None
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME)[::_HOP]
    power = np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12
    active = power > power.max() * 10 ** (-_ACTIVE_DB / 10)
    pitch, voiced = pitch_of(wave)
    voiced = voiced & active
    if voiced.sum() * _HOP / SAMPLE_RATE < SMALLEST_VOICED_SECONDS:
        return None
    seconds = active.sum() * _HOP / SAMPLE_RATE
    return Style(float(np.median(pitch[voiced])), words / seconds,
                 10 * float(np.log10(power[active].mean())))


def pitch_of(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 in Hz of each whole frame, and whether it is voiced: pYIN (Mauch and Dixon, ICASSP 2014),
    as librosa has it.

    Raises:
        ValueError: librosa is not installed.
    """
    if find_spec("librosa") is None:
        raise ValueError("levels of style need librosa: pip install 'audio-distill[style]'")
    import librosa  # costs seconds

    pitch, voiced, _ = librosa.pyin(
        wave, fmin=LOWEST_HZ, fmax=HIGHEST_HZ, sr=SAMPLE_RATE, frame_length=_FRAME,
        hop_length=_HOP, resolution=_RESOLUTION, center=False)
    return pitch, voiced


def fit_levels(styles: Sequence[Style]) -> Levels:
    """Fifths of these clips.

    Raises:
        ValueError: there are fewer than five.
    """
    if len(styles) < 5:
        raise ValueError(f"levels of style are fitted on at least 5 clips, got {len(styles)}")
    return Levels({name: [float(each) for each in np.quantile(
        [getattr(style, name) for style in styles], [0.2, 0.4, 0.6, 0.8])] for name in WORDS})
