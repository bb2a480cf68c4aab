"""Which student to take: by its errors on validation clips, within a budget. No models here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.metrics.error_rates import ErrorCounts, paired_bootstrap, total
from distill.whisper.recipe_sections import BudgetConfig


@dataclass(frozen=True)
class Candidate:
    """A student as it is run.

    Attributes:
        milliseconds: of a clip.
        megabytes: of its weights.
        counts: errors of each validation clip.
    """

    name: str
    milliseconds: float
    megabytes: float
    counts: Sequence[ErrorCounts]

    @property
    def error_rate(self) -> float:
        return total(self.counts).rate or 0.0


def is_within(milliseconds: float, megabytes: float, budget: BudgetConfig) -> bool:
    """Both limits hold where both are given."""
    return (budget.milliseconds is None or milliseconds <= budget.milliseconds) and (
        budget.megabytes is None or megabytes <= budget.megabytes)


def choose(candidates: Sequence[Candidate], budget: BudgetConfig) -> Candidate | None:
    """The one with the fewest errors within the budget, of those with as few the fastest; None
    if none is within it."""
    able = _able(candidates, budget)
    return min(able, key=lambda each: (each.error_rate, each.milliseconds), default=None)


def as_good_and_faster(
    candidates: Sequence[Candidate], chosen: Candidate, budget: BudgetConfig, num_samples: int,
    seed: int,
) -> Candidate | None:
    """The fastest of those within the budget that are faster than the chosen one and not worse for
    certain: the 95 % interval of their difference on the same clips includes 0."""
    able = [each for each in _able(candidates, budget)
            if each.milliseconds < chosen.milliseconds
            and not _is_worse(chosen.counts, each.counts, num_samples, seed)]
    return min(able, key=lambda each: each.milliseconds, default=None)


def _able(candidates: Sequence[Candidate], budget: BudgetConfig) -> list[Candidate]:
    return [each for each in candidates if is_within(each.milliseconds, each.megabytes, budget)]


def _is_worse(good: Sequence[ErrorCounts], other: Sequence[ErrorCounts], num_samples: int,
              seed: int) -> bool:
    paired = paired_bootstrap(good, other, num_samples, seed)
    return paired is None or paired.interval is None or paired.interval[0] > 0
