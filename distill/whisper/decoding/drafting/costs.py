"""Seconds of passes, by the number of sequences and of tokens for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


def bucket(sequences: int) -> int:
    """The next power of two: batches shrink by one sequence at a time, and not every size is
    measured."""
    return 1 << (sequences - 1).bit_length()


@dataclass(frozen=True)
class Costs:
    """Of a batch of one size.

    Attributes:
        verify: {tokens of each sequence: seconds of a pass of the target model}, choice included.
        draft: the same of the draft model.
        fill: seconds to give the draft model the encoder states of one sequence.
    """

    verify: Mapping[int, float]
    draft: Mapping[int, float]
    fill: float

    def passes(self, drafts: int) -> float:
        """Of a round; the first pass of the draft model reads two tokens."""
        if drafts == 0:
            return interpolated(self.verify, 1)
        student = interpolated(self.draft, 2) + (drafts - 1) * interpolated(self.draft, 1)
        return interpolated(self.verify, drafts + 1) + student

    def least(self, other: Costs) -> Costs:
        """The smaller of each."""
        def both(one: Mapping[int, float], two: Mapping[int, float]) -> dict[int, float]:
            return {n: min(each[n] for each in (one, two) if n in each) for n in {*one, *two}}

        return Costs(both(self.verify, other.verify), both(self.draft, other.draft),
                     min(self.fill, other.fill))

    def between(self, other: Costs, share: float) -> Costs:
        """Costs of a size between two that were measured; share 0 is this one."""
        def mix(one: Mapping[int, float], two: Mapping[int, float]) -> dict[int, float]:
            return {tokens: (1 - share) * interpolated(one, tokens)
                    + share * interpolated(two, tokens) for tokens in {*one, *two}}

        return Costs(mix(self.verify, other.verify), mix(self.draft, other.draft),
                     (1 - share) * self.fill + share * other.fill)


def interpolated(points: Mapping[int, float], tokens: int) -> float:
    """Seconds for so many tokens: linear between and beyond those that were measured.

    More tokens never cost less: what says otherwise is noise.
    """
    known = sorted(points)
    seconds = [max(points[each] for each in known[: at + 1]) for at in range(len(known))]
    if tokens <= known[0] or len(known) == 1:
        return seconds[0]
    high = next((at for at, each in enumerate(known) if each >= tokens), len(known) - 1)
    slope = (seconds[high] - seconds[high - 1]) / (known[high] - known[high - 1])
    return seconds[high] + slope * (tokens - known[high])


def costs_of(table: Mapping[int, Costs], sequences: int) -> Costs | None:
    """Of a batch of so many sequences, by bucket; None where nothing is known on both sides."""
    size = bucket(sequences)
    below = max((each for each in table if each <= size), default=None)
    above = min((each for each in table if each >= size), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return table[size]
    return table[below].between(table[above], (size - below) / (above - below))
