"""Sampling at a temperature, with drafts or without: always from the target model's distribution.

There are two rules.

`coupled` (Gumbel-max with common random numbers): every token at a position gets Gumbel noise,
which depends only on the sequence's seed and the position. Target model and draft model choose with
the same noise. So a sampled text depends on its seed alone: it is the same with drafts and without,
in any batch, and after a resume.

`rejection` (arXiv:2211.17192 sec. 2.3, 3.1): a drafted token is accepted with probability
min(1, p / q), p by the target model and q by the draft model; else another token is drawn from
max(0, p - q). No rule accepts more drafts, but the text depends on where drafts begin and end.
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
    """How to sample the sequences of a call.

    Attributes:
        temperature: the logits are divided by it; > 0.
        seeds: of each sequence; the same seed draws the same.
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

    def noise(self, positions: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """Gumbel noise times the temperature: the token with the largest logit plus noise is a
        sample.

        Args:
            positions: (sequence, number of generated tokens before) of each position.
            like: logits (positions, vocabulary).
        """
        size = like.shape[-1]
        found = [torch.from_numpy(uniforms(philox(self.seeds[sequence], "noise", at), size))
                 for sequence, at in positions]
        drawn = torch.stack(found).add_(2.0**-54)  # never 0
        return (-self.temperature * (-drawn.log_()).log_()).to(like)

    def probabilities(self, logits: Tensor) -> Tensor:
        """float64 probabilities (..., vocabulary) of logits to which the rules were applied."""
        return (logits.double() / self.temperature).softmax(-1)

    def uniform(self, kind: str, sequence: int, at: int) -> float:
        """A number in [0, 1) for a sequence and a position, one of each kind.

        The same number may be drawn again after a draft was rejected: no token that was accepted
        depends on the first draw.
        """
        return float(uniforms(philox(self.seeds[sequence], kind, at), 1)[0])

    def draw(self, probabilities: Tensor, kind: str, sequence: int, at: int) -> int:
        """A token by its probability; (vocabulary,), they need not sum to one."""
        below = probabilities.cumsum(-1)
        wanted = below[-1:] * self.uniform(kind, sequence, at)
        found = int(torch.searchsorted(below, wanted, right=True))
        # a product rounded up to the sum would find nothing
        return found if found < len(below) else int(probabilities.nonzero()[-1])

    def decide(self, target: Tensor, draft: Tensor | None, drafted: int | None, sequence: int,
               at: int) -> int:
        """The token at a position, by rejection.

        Args:
            target: (vocabulary,) probabilities of the target model.
            draft: (vocabulary,) probabilities that the drafted token was drawn from; None where it
                was not drawn (an older transcript).
            drafted: the drafted token, None if there is none.
        """
        if drafted is None:
            return self.draw(target, "own", sequence, at)
        probability = float(draft[drafted]) if draft is not None else 1.0
        if self.uniform("keep", sequence, at) * probability < float(target[drafted]):
            return drafted
        if draft is None:
            draft = torch.zeros_like(target)
            draft[drafted] = 1.0
        return self.draw((target - draft).clamp_(min=0.0), "own", sequence, at)
