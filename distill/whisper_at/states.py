"""States of clips from a frozen encoder: each clip is encoded once, its states are kept on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill.data.formats.errors import AudioError
from distill.data.formats.places import fingerprint
from distill.data.manifest import Row, counts_text
from distill.data.unreadable import Unreadable
from distill.data.views.kept_arrays import kept_arrays
from distill.losses.matmul import fast_linears
from distill.progress import progress
from distill.whisper_at.model import WhisperTagger, WhisperTaggerExtractor, num_steps


class StatesAlone:
    """What the layers give of clips by themselves: at their own length, with nothing behind them.

    Args:
        tagger: with the encoder, on the device where it runs.
    """

    def __init__(self, tagger: WhisperTagger, extractor: WhisperTaggerExtractor):
        self.tagger, self.extractor = tagger, extractor

    def __call__(self, waves: Sequence[np.ndarray]) -> list[Tensor]:
        """(layers, steps, width) of each."""
        inputs = [self.extractor(wave, sampling_rate=16_000, return_tensors="pt")["input_features"]
                  for wave in waves]
        found = [torch.empty(0)] * len(inputs)
        for length in sorted({each.shape[2] for each in inputs}):  # nothing is padded
            alike = [number for number, each in enumerate(inputs) if each.shape[2] == length]
            batch = torch.cat([inputs[number] for number in alike]).to(self.tagger.device)
            with fast_linears():
                states = self.tagger.states(batch)
            for number, each in zip(alike, states, strict=True):
                found[number] = each[:, : num_steps(length)]
        return found


class EncoderStates:
    """Encodes clips, or reads their states where they are there.

    Args:
        listen: gives states (layers, steps, width) of waves, on the device where it runs.
        settings: of all that they depend on besides the clips: the encoder's revision, layers ...
        folder: where states are kept.
        batch_size: clips encoded together, and kept in a file.
    """

    def __init__(self, listen: Callable[[Sequence[np.ndarray]], list[Tensor]], settings: list,
                 folder: Path, batch_size: int, show_progress: bool):
        self.listen, self.settings = listen, settings
        self.folder, self.batch_size, self.show_progress = folder, batch_size, show_progress

    def __call__(
        self, split: str, rows: list[Row], faults: Unreadable, drops: Counter
    ) -> tuple[list[Row], list[np.ndarray]]:
        """Rows that can be read, and float16 (layers, steps, width) of each, from disk where they
        are there. The others are printed and counted.

        Raises:
            ValueError: none of the rows can be read, or too many cannot, or some cannot now.
        """
        size = self.batch_size
        parts = [rows[at : at + size] for at in range(0, len(rows), size)]
        shown = progress(parts, len(parts), f"encoder, {split}", "batches",
                         self.show_progress)
        kept, states = [], []
        for part in shown:
            for row, found in zip(part, self._read(part), strict=True):
                if found.ndim == 0:  # the reason why there are none
                    faults.add(row.id, AudioError(*str(found).split(": ", 1)))
                else:
                    kept.append(row)
                    states.append(found)
            faults.check()
        drops.update(faults.counts)
        if rows and not kept:
            raise ValueError(f"data.{split}: none of {len(rows)} rows can be read "
                             f"({counts_text(drops)})")
        return kept, states

    def _read(self, rows: list[Row]) -> list[np.ndarray]:
        identity = [[[row.id, row.audio_filepath, row.offset, row.duration,
                      fingerprint(row.audio_filepath)] for row in rows], *self.settings]
        return kept_arrays(self.folder, identity, rows, self._encode)

    def _encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        return [each.cpu().numpy().astype(np.float16) for each in self.listen(waves)]


def content_of(module: nn.Module) -> str:
    """Hash of a module's parameters."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
