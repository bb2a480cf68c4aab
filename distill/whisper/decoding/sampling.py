"""Sampling at a temperature, alone or with drafts; the teacher's distribution either way.

Two rules. `coupled`: what is drawn at a place of a text is noise for every token there (Gumbel), a
function of the row's seed and the place alone, and teacher and student choose with the same noise.
A sampled text is then a function of its seed: the same with drafts and without them, in any batch,
and after a resume. `rejection` (arXiv:2211.17192 sec. 2.3, 3.1): a drafted token is kept with
probability min(1, p / q), else another is drawn from what p exceeds q by. It keeps the most drafts
that can be kept, but what it says depends on where drafts began and ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.data.views.augment import philox, uniforms

RULES = ("coupled", "rejection")


@dataclass(frozen=True)
class Sampling:
    """How to sample the rows of a batch.

    Attributes:
        temperature: the logits are divided by it; > 0.
        seeds: of each row; the same seed draws the same.
        rule: `coupled` or `rejection`.

    Raises:
        ValueError: the temperature is not positive, or there is no such rule.
    """

    temperature: float
    seeds: Sequence[int]
    rule: str = "coupled"

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0 to sample, got {self.temperature}")
        if self.rule not in RULES:
            raise ValueError(f"the rule of sampling must be one of {RULES}, got {self.rule!r}")

    @property
    def is_coupled(self) -> bool:
        return self.rule == "coupled"

    def noise(self, places: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """Gumbel noise times the temperature: logits plus noise are largest at a sample.

        Args:
            places: (row, tokens said before) of each row of the result.
            like: logits (len(places), vocabulary).
        """
        size = like.shape[-1]
        found = [torch.from_numpy(uniforms(philox(self.seeds[row], "noise", at), size))
                 for row, at in places]
        drawn = torch.stack(found).add_(2.0**-54)  # never 0
        return (-self.temperature * (-drawn.log_()).log_()).to(like)

    def chances(self, scores: Tensor) -> Tensor:
        """float64 probabilities (..., vocabulary) of logits to which the rules were applied."""
        return (scores.double() / self.temperature).softmax(-1)

    def uniform(self, kind: str, row: int, at: int) -> float:
        """In [0, 1), one of each kind for a row and a place; it may be asked for again after a
        draft was thrown away: nothing that was kept has come of the first."""
        return float(uniforms(philox(self.seeds[row], kind, at), 1)[0])

    def draw(self, chances: Tensor, kind: str, row: int, at: int) -> int:
        """A token by chances (vocabulary,) that need not sum to one."""
        below = chances.cumsum(-1)
        wanted = below[-1:] * self.uniform(kind, row, at)
        found = int(torch.searchsorted(below, wanted, right=True))
        # a product rounded up to the sum would find nothing
        return found if found < len(below) else int(chances.nonzero()[-1])

    def decide(self, chances: Tensor, draft: Tensor | None, wanted: int | None, row: int,
               at: int) -> int:
        """The token at a place, by rejection.

        Args:
            chances: (vocabulary,) of the teacher.
            draft: (vocabulary,) of the student that drew the token; None where it did not come
                of chance (an older transcript).
            wanted: the drafted token, None if there is none.
        """
        if wanted is None:
            return self.draw(chances, "own", row, at)
        theirs = float(draft[wanted]) if draft is not None else 1.0
        if self.uniform("keep", row, at) * theirs < float(chances[wanted]):
            return wanted
        if draft is None:
            draft = torch.zeros_like(chances)
            draft[wanted] = 1.0
        return self.draw((chances - draft).clamp_(min=0.0), "own", row, at)
