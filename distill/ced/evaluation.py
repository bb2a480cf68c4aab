"""Clips of a split, scored without augmentation; what belongs to one recording is put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.ced.data.clips import Clip, ClipError, load_clips, load_sound, targets_of
from distill.ced.data.view_source import pad_features
from distill.ced.model.frontend import log_mel
from distill.data.unreadable import Unreadable
from distill.losses.matmul import fast_linears
from distill.progress import progress

_MANY_CLIPS = 2000  # from here on, reading them takes long enough for a line about it


class EvaluationClips:
    """Clips of some manifests.

    Every clip is read once before a model runs: a recording of which a part cannot be read is left
    out, and printed.

    Attributes:
        clips: no longer than `clip_seconds`, so that every model gets the same.
        drops: what is no clip, by reason, and recordings that cannot be read.
        rows: id of each recording.

    Args:
        where: key of the manifests, for sentences.

    Raises:
        UnreadableError: a file cannot be opened now.
        ValueError: there is no clip.
    """

    def __init__(self, manifests: Sequence[str], clip_seconds: float, where: str = "data.test"):
        clips, drops = load_clips(manifests, clip_seconds)
        unread = _unreadable(clips, where)
        self.clips = [clip for clip in clips if clip.row not in unread]
        self.drops = drops + Counter(unread.values())
        if not self.clips:
            raise ValueError(f"{where}: no clip in {', '.join(manifests)}; dropped: "
                             f"{dict(self.drops) or 'nothing'}")
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


def _unreadable(clips: Sequence[Clip], where: str) -> dict[str, str]:
    """{recording: reason} of those that cannot be read, the first ten of each reason printed.

    Raises:
        UnreadableError: some cannot be opened now: nothing is measured on the others alone.
    """
    faults = Unreadable(len({clip.row for clip in clips}), 1.0, f"measuring on {where}")
    faults.stat((clip.row, clip.path) for clip in clips)
    faults.begin(where)
    for clip in progress(clips, len(clips), f"reading {where}", "clips", len(clips) > _MANY_CLIPS):
        try:
            load_sound(clip)
        except ClipError as error:
            faults.add(clip.row, error.error)
    faults.begin(where)
    return faults.reasons
