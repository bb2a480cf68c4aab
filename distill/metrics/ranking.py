"""Clips by falling score, class after class: what average precision and ROC curves are made of.

Sorted once, then measured as often as a bootstrap asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class PerClass(NamedTuple):
    """(classes,) each; NaN where a value does not exist."""

    num_positives: np.ndarray
    num_negatives: np.ndarray
    average_precision: np.ndarray
    auc: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """Clips by falling score, class after class: sorted once, measured under any weights.

    Clips of equal score cannot be told apart by a threshold, so they form one group. Only groups
    with a positive clip are kept, for only they move the recall. `begin` and `end` are where a
    group lies in `order`, classes one behind the other.
    """

    num_clips: int
    num_classes: int
    order: np.ndarray  # (classes * clips,) clip
    clip_of_label: np.ndarray  # (labels,) the positives, in the order of `order`
    group_of_label: np.ndarray  # (labels,)
    class_of_group: np.ndarray  # (groups,)
    begin: np.ndarray  # (groups,)
    end: np.ndarray  # (groups,) one past the last clip

    @classmethod
    def of(cls, scores: np.ndarray, targets: np.ndarray) -> Ranking:
        """Sort. Shapes (clips, classes)."""
        scores, targets = checked(scores, targets)
        num_clips, num_classes = scores.shape
        columns = np.ascontiguousarray(scores.T)
        order = np.argsort(-columns, axis=1)
        ranked = np.take_along_axis(columns, order, axis=1)
        is_first = np.ones(ranked.shape, dtype=bool)
        is_first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
        begins = np.flatnonzero(is_first)
        ends = np.append(begins[1:], ranked.size)
        places = np.flatnonzero(np.take_along_axis(targets.T, order, axis=1))
        groups, group_of_label = np.unique(
            np.searchsorted(begins, places, side="right") - 1, return_inverse=True
        )
        return cls(
            num_clips, num_classes, order.ravel(), order.ravel()[places], group_of_label,
            begins[groups] // num_clips, begins[groups], ends[groups],
        )

    def counts(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Per group: positives in it; clips above it, clips down to it; positives down to it.

        Args:
            weights: (clips,) how often each clip counts, whole numbers; None is once. All counts
                are whole numbers far below 2**53: exact, whatever the order of the additions.
        """
        if weights is None:
            weights = np.ones(self.num_clips, dtype=np.int64)
            before = np.arange(self.order.size + 1)
        else:
            before = np.zeros(self.order.size + 1, dtype=np.int64)
            np.cumsum(weights[self.order], out=before[1:])
        base = self.class_of_group * weights.sum()
        inside = np.bincount(
            self.group_of_label, weights[self.clip_of_label], len(self.class_of_group)
        )
        of_class = np.bincount(self.class_of_group, inside, self.num_classes)
        earlier = np.cumsum(of_class) - of_class
        true = np.cumsum(inside) - earlier[self.class_of_group]
        return inside, before[self.begin] - base, before[self.end] - base, true

    def measure(self, weights: np.ndarray | None = None) -> PerClass:
        """Average precision and area under the ROC curve, as if each clip were there `weights`
        times: one resample of the bootstrap is one running sum, without a sort.

        Average precision is the sum of (recall gained) x precision over thresholds, as
        scikit-learn has it, without interpolation. In the AUC a tie is half a pair won.
        """
        inside, above, down_to, true = self.counts(weights)
        total = self.num_clips if weights is None else int(weights.sum())
        # bincount adds one by one: groups of weight 0 change nothing, not even the last bit
        positives = np.bincount(self.class_of_group, inside, self.num_classes)
        precision = true / np.maximum(down_to, 1)
        gained = np.bincount(self.class_of_group, inside * precision, self.num_classes)
        false_above, false_down_to = above - (true - inside), down_to - true
        negatives = total - positives
        beaten = negatives[self.class_of_group] - (false_above + false_down_to) / 2
        pairs_won = np.bincount(self.class_of_group, inside * beaten, self.num_classes)
        return PerClass(
            positives.astype(np.int64), negatives.astype(np.int64),
            divide(gained, positives), divide(pairs_won, positives * negatives),
        )


def checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(clips, classes) as float64 and bool, or what is wrong with them.

    Raises:
        ValueError: also for half precision: float16 rounds different scores to the same number,
            and these ties change the average precision; float64 made of it does not undo them.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape or not scores.size:
        raise ValueError(
            "scores and targets must both be (clips, classes), not empty, got "
            f"{scores.shape} and {targets.shape}"
        )
    if scores.dtype.kind not in "iuf" or (scores.dtype.kind == "f" and scores.dtype.itemsize < 4):
        raise ValueError(
            f"scores must be float32 or float64, got {scores.dtype}: its ties change the ranking; "
            "score in float32, or cast to float64 yourself if these are all there is"
        )
    if np.isnan(scores).any():
        where = np.argwhere(np.isnan(scores))
        raise ValueError(f"scores hold {len(where)} NaN, the first at (clip, class) "
                         f"{tuple(map(int, where[0]))}")
    positive = targets.astype(bool)
    if not np.array_equal(positive, targets):
        raise ValueError("targets must be 0 or 1; soft labels have no positives to rank")
    return scores.astype(np.float64, copy=False), positive


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN instead of a division by zero."""
    result = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)
