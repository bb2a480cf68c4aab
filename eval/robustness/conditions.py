"""The ways in which a test clip is heard: as it is, through a channel, or with noise under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.formats.places import fingerprints
from distill.data.noise.channels import CHANNELS
from distill.data.noise.kinds import Noises
from distill.data.noise.mixing import mix
from distill.whisper.recipe_sections import RobustnessConfig

CLEAN = "clean"
FOLDER = "folder"  # the user's own recordings


@dataclass(frozen=True)
class Condition:
    """A way of hearing a clip.

    Attributes:
        kind: clean, one of `distill.data.noise.channels.CHANNELS`, or a noise.
        snr_db: of a noise; None for all others.
    """

    kind: str
    snr_db: float | None = None

    @property
    def name(self) -> str:
        return self.kind if self.snr_db is None else f"{self.kind} {self.snr_db:g} dB"

    def hear(self, speech: np.ndarray, clip_id: str, noises: Noises) -> np.ndarray:
        """float32 (samples,) of a clip (samples,) at 16 kHz; a clip's noise is the same at all
        SNRs, but for its level.

        Raises:
            AudioError: a recording of noise cannot be read.
        """
        if self.snr_db is not None:
            noise = noises.make(self.kind, f"{clip_id}/{self.kind}", len(speech))
            return mix(speech, noise, self.snr_db)
        return speech if self.kind == CLEAN else CHANNELS[self.kind](speech, clip_id)


def conditions_of(config: RobustnessConfig) -> list[Condition]:
    """Clean first, then what the recipe names, in its order."""
    found = [Condition(CLEAN)]
    for kind in [*config.kinds, *[FOLDER] * (config.folder is not None)]:
        found += [Condition(kind)] if kind in CHANNELS else [
            Condition(kind, float(snr)) for snr in config.snrs]
    return found


def recordings_key(rows: Sequence) -> list:
    """What results of a folder depend on."""
    files = fingerprints(row.audio_filepath for row in rows)
    return [[Path(row.audio_filepath).name, files[row.audio_filepath]] for row in rows]
