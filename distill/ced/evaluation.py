"""Clips of a split, scored without augmentation; what belongs to one recording is put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.ced.clips import load_clips, load_sound, targets_of
from distill.ced.frontend import log_mel
from distill.ced.view_source import pad_features
from distill.products import fast_linears


class EvaluationClips:
    """Clips of some manifests.

    Attributes:
        clips: no longer than `clip_seconds`, so that every model hears the same.
        drops: what is no clip, by reason.
        rows: id of each recording.
    """

    def __init__(self, manifests: Sequence[str], clip_seconds: float):
        self.clips, self.drops = load_clips(manifests, clip_seconds)
        if not self.clips:
            raise ValueError(f"no clip in {', '.join(manifests)}; dropped: {dict(self.drops)}")
        self.rows = list(dict.fromkeys(clip.row for clip in self.clips))
        place = {row: number for number, row in enumerate(self.rows)}
        self._row_of = np.array([place[clip.row] for clip in self.clips])

    def __len__(self) -> int:
        return len(self.clips)

    def wave(self, index: int) -> np.ndarray:
        return load_sound(self.clips[index])

    def features(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Padded features of some clips."""
        return pad_features([log_mel(torch.from_numpy(self.wave(index))) for index in indices])

    def pool(self, probabilities: np.ndarray) -> np.ndarray:
        """(clips, classes) -> (recordings, classes): the mean over a recording, each clip with the
        weight of its length."""
        weights = np.array([clip.num_samples for clip in self.clips], np.float64)
        sums = np.zeros((len(self.rows), probabilities.shape[1]))
        np.add.at(sums, self._row_of, probabilities * weights[:, None])
        return sums / np.bincount(self._row_of, weights)[:, None]

    def targets(self, classes: Sequence[str]) -> np.ndarray:
        """(recordings, classes) labels, 0 or 1."""
        first = np.unique(self._row_of, return_index=True)[1]
        why = "validation and test splits need labels"
        return targets_of([self.clips[index] for index in first], classes, why)


@torch.no_grad()
def student_probabilities(student, features: dict[str, Tensor]) -> np.ndarray:
    """float64 (clips, classes)."""
    device = next(student.parameters()).device
    with fast_linears():
        logits = student(**{name: each.to(device) for name, each in features.items()}).logits
    return torch.sigmoid(logits.double()).cpu().numpy()
