"""Losses over the commonest tokens of a vocabulary, for processors to which the whole is too much.

The product of states with the output layer is most of a small student's step on a CPU. Nearly all
of what teacher and student find likely is among a few thousand tokens: byte-pair encodings number
theirs in the order in which they were merged, the commonest first.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distill.losses.token_losses import TeacherScores


def of_common_tokens(
    weight: Tensor, labels: Tensor, teacher: TeacherScores | None, count: int
) -> tuple[Tensor, Tensor, TeacherScores | None]:
    """Arguments of `token_losses` for the first `count` tokens and those of the labels alone, as if
    there were no others.

    Args:
        weight: (vocab, width) output layer of the student; a gradient comes back to it.
        labels: (tokens,) ids.
        teacher: with the output layer of the teacher, or None.

    Returns:
        rows of the output layer, the labels' places among them, and the teacher with its rows.
    """
    first = torch.arange(min(count, len(weight)), device=labels.device)
    ids = torch.unique(torch.cat([first, labels]))  # sorted
    if teacher is not None:
        assert teacher.weight is not None and teacher.indices is None
        teacher = replace(teacher, weight=teacher.weight[ids])
    return weight[ids], torch.searchsorted(ids, labels), teacher
