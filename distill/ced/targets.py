"""What a tagger learns from: stored scores of its teachers, and labels; mixed as the sounds are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.ced.data.view_source import ViewSource
from distill.ced.data.views import TagView
from distill.ced.recipe import CedRecipe
from distill.ced.teachers.frames import num_steps
from distill.ced.teachers.recorded import RecordedScores
from distill.ced.teachers.scores import UNREADABLE, confidence, decode_frames, decode_scores
from distill.training.task import Batch


class Targets:
    """Targets of samples, which are (index of a clip, epoch).

    Args:
        recorded: stored scores; None where teachers are asked at every step, or there are none.
        labels: float32 (clips, classes), where they are learned from.
    """

    def __init__(self, recipe: CedRecipe, source: ViewSource, recorded: RecordedScores | None,
                 labels: np.ndarray | None, num_classes: int):
        self.recipe, self.source, self.recorded = recipe, source, recorded
        self.labels, self.num_classes = labels, num_classes

    def views(self, samples: Sequence[tuple[int, int]]) -> tuple[list[TagView], Batch]:
        """Views that the student gets, and batch entries of what the teachers scored."""
        if self.recorded is None:
            return [self.source.scored_view(*sample) for sample in samples], {}
        views, columns = self.recorded(samples)
        targets = self._decode(columns)
        if not self.recipe.teacher.consistent:
            views = [self.source.student_view(*sample) for sample in samples]
            partners = [(v.partner, epoch) for v, (_, epoch) in zip(views, samples, strict=True)]
            partner_targets = self._decode(self.recorded(partners)[1])
            targets = _mixed(targets, partner_targets, views)
        readable = columns["disagreement"] != UNREADABLE
        batch = {"targets": torch.from_numpy(targets),
                 "confidence": torch.from_numpy(confidence(columns)),
                 "weight": torch.from_numpy(readable.astype(np.float32))}
        if self.recipe.loss.frame_weight:
            frames = torch.from_numpy(decode_frames(columns, self.num_classes))
            counts = [num_steps(self.source.clips[index].length) for index, _ in samples]
            batch["frame_targets"] = frames[:, : max(counts)]
            batch["frame_counts"] = torch.tensor(counts)
        return views, batch

    def _decode(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        return decode_scores(columns, self.num_classes, self.recipe.loss.fill)

    def labels_of(self, samples: Sequence[tuple[int, int]], views: Sequence[TagView]) -> Tensor:
        """(samples, classes) labels; of mixed clips those of both."""
        labels = self.labels[[index for index, _ in samples]]
        partner_labels = self.labels[[view.partner for view in views]]
        if self.recipe.loss.mixed_labels == "weighted":
            return torch.from_numpy(_mixed(labels, partner_labels, views))
        mixed = np.array([view.weight > 0 for view in views])[:, None]
        return torch.from_numpy(np.where(mixed, np.maximum(labels, partner_labels), labels))


def _mixed(
    targets: np.ndarray, partner_targets: np.ndarray, views: Sequence[TagView]
) -> np.ndarray:
    """Targets of mixed clips: means by the sounds' weights in the mixture."""
    weights = np.array([view.partner_weight for view in views], np.float32)[:, None]
    return (1 - weights) * targets + weights * partner_targets
