"""States of clips from the frozen encoder: each clip is encoded once, its states are kept on disk.

    store = EncoderStates(recipe.encoder, folder, device, show_progress=True)
    rows, states = store("train", rows, faults, drops)     # float16 (frames, width) of each

A clip's states end where the clip does: what stands behind it is silence. The encoder is loaded
when a clip is met whose states are not there, and never where all are.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from distill.audio_llm.data.encoders import load_encoder
from distill.audio_llm.recipe import AdapterConfig, EncoderConfig
from distill.data.audio import SAMPLE_RATE
from distill.data.files import hash_of
from distill.data.formats.errors import AudioError
from distill.data.formats.places import fingerprint
from distill.data.manifest import Row, counts_text
from distill.data.unreadable import Unreadable
from distill.data.views.kept_arrays import kept_arrays, load_arrays, save_arrays
from distill.progress import progress
from distill.whisper.teacher import Teacher

MAX_SECONDS = 30.0  # of the encoder's window; what is longer is cut by who makes the manifest


class EncoderStates:
    """Encodes clips, or reads their states where they are there.

    Args:
        folder: where states are kept.

    Attributes:
        source: one sentence saying where the encoder came from.
        revision: of the encoder's model.
    """

    def __init__(self, config: EncoderConfig, adapter: AdapterConfig, folder: Path, device: Any,
                 show_progress: bool):
        self.config, self.folder, self.device = config, folder, device
        self.show_progress = show_progress
        self.encoder = load_encoder(config, adapter, device)
        self.source, self.revision = self.encoder.source, self.encoder.revision
        self.layers, self.frame_ms = self.encoder.layers, self.encoder.frame_ms

    @property
    def teacher(self) -> Teacher | None:
        """The whole Whisper, loaded when it is asked for; None where the encoder is none of one."""
        return getattr(self.encoder, "teacher", None)

    def encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """float16 (frames, width) of 16 kHz audio of up to 30 s each."""
        return self.encoder.encode(waves)

    def silence(self, seconds: float = 10.0) -> np.ndarray:
        """float16 (frames, width) of digital silence, kept like a clip."""
        path = self.folder / f"silence-{hash_of([seconds, *self._settings])}.npz"
        if not path.is_file():
            save_arrays(path, self.encode([np.zeros(round(seconds * SAMPLE_RATE), np.float32)]))
        return load_arrays(path)[0]

    def __call__(
        self, split: str, rows: list[Row], faults: Unreadable, drops: Counter
    ) -> dict[str, np.ndarray]:
        """States by the id of each row that can be read; rows of one clip share them. The others
        are printed and counted.

        Raises:
            ValueError: none of the rows can be read, or too many cannot, or some cannot now.
        """
        size = self.config.batch_size
        clips = {_clip(row): row for row in rows}
        order = sorted(clips.values(), key=lambda row: (row.duration, row.id))
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        by_clip: dict[tuple, np.ndarray] = {}
        for part in progress(parts, len(parts), f"encoder, {split}", "batches",
                             self.show_progress):
            for row, found in zip(part, self._read(part), strict=True):
                if found.ndim == 0:  # the reason why there are none
                    faults.add(row.id, AudioError(*str(found).split(": ", 1)))
                else:
                    by_clip[_clip(row)] = found
            faults.check()
        drops.update(faults.counts)
        if rows and not by_clip:
            raise ValueError(f"data.{split}: none of {len(rows)} rows can be read "
                             f"({counts_text(drops)})")
        return {row.id: by_clip[_clip(row)] for row in rows if _clip(row) in by_clip}

    @property
    def _settings(self) -> list:
        """All that states depend on besides their clip."""
        return [self.revision, *self.encoder.depends_on]

    def _read(self, rows: list[Row]) -> list[np.ndarray]:
        identity = [[[row.audio_filepath, row.offset, row.duration,
                      fingerprint(row.audio_filepath)] for row in rows], *self._settings]
        return kept_arrays(self.folder, identity, rows, self.encode, window)


def window(wave: np.ndarray) -> np.ndarray:
    """
    Raises:
        AudioError: it is too long for the encoder.
    """
    most = round(MAX_SECONDS * SAMPLE_RATE)
    if len(wave) > most:
        raise AudioError("too_long", f"{len(wave) / SAMPLE_RATE:.1f} s; the encoder hears "
                         f"{MAX_SECONDS:g} s")
    return wave


def _clip(row: Row) -> tuple:
    return row.audio_filepath, row.offset, row.duration
