"""What a method gives the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from distill.data.views.batches import FixedBatches, TokenBatches

Batch = dict[str, Any]


class Task(Protocol):
    """A method: a model that returns its summed loss, and batches for it.

    Attributes:
        model: `model(batch) -> (loss_sum, parts)`; the only thing prepared and trained, float32
            master weights. `loss_sum` is a sum over the batch's units (valid tokens, clips);
            the loop divides it by the global count of the whole update, because a mean of means
            changes with the number of ranks. `parts` are sums to log, by name.
        batches: which views every update holds, see `distill.data.views.batches`.
        dataset_summary: of the training data, for student.json: `count` and `hours` of clips or
            windows, and `drops`, what was left out, by reason.
    """

    model: nn.Module
    batches: FixedBatches | TokenBatches
    dataset_summary: dict[str, Any]

    def collate(self, samples: list[tuple[int, int]]) -> Batch:
        """(index, epoch) pairs -> a batch on the CPU."""

    def count(self, batch: Batch) -> int:
        """Units of a batch that its loss is a sum over."""

    def validate(self) -> dict[str, float]:
        """Metrics of the current weights; `score` (lower is better) picks the best checkpoint."""

    def save(self, folder: Path) -> None:
        """Write the student, ready to publish, into an existing empty folder."""


Parts = dict[str, Tensor]
