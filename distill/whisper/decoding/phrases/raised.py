"""Tokens that boosts raise, and those of them that may be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.whisper.decoding.output.shortlist import RoughLogits

Pairs = tuple[Tensor, Tensor, Tensor]  # (n,) each: positions, token ids, what is added


@dataclass
class Raised:
    """Tokens that are raised in some positions.

    Attributes:
        rows: the positions.
        tokens, bonus: (m,) ids, and what is added to each.
    """

    rows: list[int]
    tokens: Tensor
    bonus: Tensor

    def tensors(self) -> Pairs:
        """(n, 1), (1, m) and (1, m)."""
        rows = torch.tensor(self.rows, device=self.tokens.device)
        return rows[:, None], self.tokens[None], self.bonus[None]


def reaching(many: Sequence[Raised], few: Sequence[Raised], logits: Tensor,
             rough: RoughLogits | None, enough: Tensor) -> list[tuple[int, int, float]]:
    """(position, token, logit with what is added) of all that reach `enough`.

    Args:
        many: of many tokens.
        few: of one position and few tokens each.
        logits: (positions, vocabulary); of those that are rough, all that may reach it are made
            exact, in place.
        rough: whose logits they are.
        enough: (positions,).
    """
    found = [_of_many(each, logits, rough, enough) for each in many]
    if few:
        found.append(_of_few(few, logits, rough, enough))
    rows, tokens, bonus = (torch.cat(part) for part in zip(*found, strict=True))
    if not len(rows):
        return []
    if rough is not None:
        rough.compute(logits, rows, tokens)
    values = logits[rows, tokens] + bonus
    return list(zip(rows.tolist(), tokens.tolist(), values.tolist(), strict=True))


def _of_many(raised: Raised, logits: Tensor, rough: RoughLogits | None, enough: Tensor) -> Pairs:
    def of(table: Tensor) -> Tensor:
        if len(raised.rows) == len(table):
            return table.index_select(1, raised.tokens)
        return torch.stack([table[row].index_select(0, raised.tokens) for row in raised.rows])

    most = of(logits).add_(raised.bonus)
    if rough is not None:
        most += of(rough.bound)
    rows = torch.tensor(raised.rows, device=logits.device)
    row, at = (most >= enough[rows][:, None]).nonzero(as_tuple=True)
    return rows[row], raised.tokens[at], raised.bonus[at]


def _of_few(raised: Sequence[Raised], logits: Tensor, rough: RoughLogits | None, enough: Tensor
            ) -> Pairs:
    rows = torch.tensor([each.rows[0] for each in raised for _ in range(each.tokens.shape[0])],
                        device=logits.device)
    tokens, bonus = (torch.cat([getattr(each, name) for each in raised])
                     for name in ("tokens", "bonus"))
    most = logits[rows, tokens] + bonus
    if rough is not None:
        most += rough.bound[rows, tokens]
    at = (most >= enough[rows]).nonzero()[:, 0]
    return rows[at], tokens[at], bonus[at]
