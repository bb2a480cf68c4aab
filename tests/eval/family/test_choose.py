"""Which student is taken: by validation errors, within the budget."""

import pytest

from distill.metrics.error_rates import ErrorCounts
from distill.whisper.recipe_sections import BudgetConfig
from eval.family.choose import Candidate, as_good_and_faster, choose, is_within


def candidate(name: str, milliseconds: float, megabytes: float, errors: list[int]) -> Candidate:
    """Clips of ten words with so many errors."""
    return Candidate(name, milliseconds, megabytes,
                     [ErrorCounts(substitutions=each, hits=10 - each, num_reference=10)
                      for each in errors])


BAD = candidate("bad", 50, 40, [5] * 20)
FAIR = candidate("fair", 80, 50, [1, 0] * 10)
GOOD = candidate("good", 120, 60, [0, 1, 0, 0] * 5)
SAME = candidate("same", 110, 90, [1, 0, 0, 0] * 5)
ALL = [GOOD, BAD, FAIR, SAME]


@pytest.mark.parametrize(("limits", "name"), [
    ({}, "same"),  # as few errors as good, and faster
    ({"megabytes": 60}, "good"),
    ({"milliseconds": 110}, "same"),
    ({"milliseconds": 109.9}, "fair"),
    ({"milliseconds": 110, "megabytes": 50}, "fair"),
    ({"milliseconds": 60}, "bad"),
])
def test_the_fewest_errors_within_the_budget(limits, name):
    assert choose(ALL, BudgetConfig(**limits)).name == name


def test_nobody_is_within_the_budget():
    assert choose(ALL, BudgetConfig(milliseconds=49)) is None
    assert not is_within(100, 40, BudgetConfig(megabytes=39.9))
    assert is_within(100, 40, BudgetConfig(milliseconds=100, megabytes=40))


def test_one_that_is_faster_and_not_worse_for_certain():
    """Five points more errors may be chance on twenty clips; fifty are none."""
    close = candidate("close", 70, 40, [1, 0, 1, 0] * 2 + [0] * 12)

    def found(candidates, chosen, **limits):
        return as_good_and_faster(candidates, chosen, BudgetConfig(**limits), 500, 0)

    assert found([GOOD, close, BAD], GOOD) is close
    assert found([GOOD, close], GOOD, megabytes=39) is None
    assert found([GOOD, BAD], GOOD) is None
    assert found([BAD, GOOD], BAD) is None  # better, but slower
