"""Noise under clips, the same for every way that a clip is encoded.

    noise = Noise("white", snr_db=10.0)
    noise = Noise("recipes/demo-tagger/music/music.jsonl", snr_db=10.0)
    audio = noise.under(audio, "clip-000012")

Sound ends where the clip ends: what Whisper pads is digital silence, as it is for every clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distill.data.audio import load_audio
from distill.data.manifest import Row, read_manifest
from distill.data.noise.mixing import mix
from distill.data.views.augment import NOISES, make_noise, philox


@dataclass(frozen=True)
class Noise:
    """What is mixed under clips: a kind of noise, or recordings, such as music.

    Attributes:
        source: white, pink, brown, or a manifest; each clip gets a recording of it by its id.
        snr_db: power of the speech, without its pauses, over that of the noise.
    """

    source: str
    snr_db: float

    def check(self) -> None:
        """Raises a ValueError: it is neither a kind of noise nor a manifest of recordings."""
        if not math.isfinite(self.snr_db):
            raise ValueError(f"--snr must be a number of decibels, got {self.snr_db}")
        if self.source not in NOISES:
            _ = self.recordings

    def under(self, speech: np.ndarray, clip_id: str) -> np.ndarray:
        """float32 (samples,) of speech (samples,) at 16 kHz with noise under all of it.

        Raises:
            AudioError: a recording cannot be read.
        """
        return mix(speech, self._noise(len(speech), clip_id), self.snr_db)

    def _noise(self, size: int, clip_id: str) -> np.ndarray:
        drawn = philox(0, clip_id, 0).random_raw(2).tolist()
        if self.source in NOISES:
            return make_noise(self.source, drawn[0], size)
        row = self.recordings[drawn[0] % len(self.recordings)]
        sound = load_audio(row.audio_filepath, row.offset, row.duration)
        return np.resize(np.roll(sound, -(drawn[1] % len(sound))), size)  # once more from the start

    @cached_property
    def recordings(self) -> Sequence[Row]:
        """Of the manifest."""
        if not Path(self.source).is_file():
            raise ValueError(f"--noise {self.source}: expected {', '.join(NOISES)}, or a manifest")
        rows, _ = read_manifest(self.source)
        if not rows:
            raise ValueError(f"--noise {self.source}: no recording in it")
        return rows
