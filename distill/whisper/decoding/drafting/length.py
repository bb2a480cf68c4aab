"""How many tokens to draft, by the measured time of passes and the expected number of tokens.

If the target model (the teacher) accepts a drafted token with probability `a`, a round with K
drafted tokens gives on average (1 - a^(K+1)) / (1 - a) tokens for each sequence (arXiv:2211.17192
sec. 3.3, eq. 1). It costs one pass of the target model over K + 1 tokens, and K passes of the draft
model (the student). Times and acceptance are measured while decoding: on a GPU several tokens take
as long as one; on a CPU, and in large batches, they often take longer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median

LONGEST = 10
TRANSCRIPT_LONGEST = 32  # drafts by an older transcript cost nothing
_PROBED = (1, 2, 5, 11)  # tokens of a pass; times of others are interpolated
_GAIN = 1.05  # predicted speed-up below which nothing is drafted
_GAIN_LATE = 1.3  # the same if the draft model must first read all earlier tokens
_PLAIN_EVERY = 48  # every so many rounds one without drafts, to measure its time as well
_LEARNING = 0.2  # weight of the latest round
_KEPT = 9  # latest times of each kind of pass
_DECAY = 0.98  # of older counts of accepted tokens, each round
_PRIOR, _PRIOR_WEIGHT = 0.75, 8.0
_PROBE_EVERY = 64  # every so many plain passes one with drafts, to measure acceptance again
_HOPED = 0.95  # acceptance at which that must pay


def tokens_per_sequence(acceptance: float, drafts: int) -> float:
    """Expected tokens of a round, for each sequence."""
    if acceptance >= 1:
        return drafts + 1.0
    return (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def _bucket(sequences: int) -> int:
    """The next power of two: batches shrink by one sequence at a time, and not every size is
    measured."""
    return 1 << (sequences - 1).bit_length()


class StepTimes:
    """Seconds of a pass by the number of sequences, and of tokens for each: medians."""

    def __init__(self):
        self.seconds: dict[tuple[int, int], list[float]] = defaultdict(list)

    def add(self, sequences: int, tokens: int, seconds: float) -> None:
        kept = self.seconds[_bucket(sequences), tokens]
        kept.append(seconds)
        del kept[:-_KEPT]

    def has(self, sequences: int) -> bool:
        return any(known == _bucket(sequences) for known, _ in self.seconds)

    def __call__(self, sequences: int, tokens: int) -> float:
        """Seconds; linear in tokens between and beyond those that were measured."""
        sequences = _bucket(sequences)
        known = sorted(t for s, t in self.seconds if s == sequences)
        if tokens in known:
            return median(self.seconds[sequences, tokens])
        points = {t: median(self.seconds[sequences, t]) for t in known}
        if len(known) == 1:
            return points[known[0]]
        above = next((i for i, t in enumerate(known) if t > tokens), len(known) - 1)
        low, high = known[max(above - 1, 0)], known[max(above, 1)]
        slope = max((points[high] - points[low]) / (high - low), 0.0)
        return max(points[low] + slope * (tokens - low), 0.0)


class DraftLength:
    """Chooses K for every round, 0 where plain decoding is predicted to be faster."""

    def __init__(self):
        self.verify, self.draft = StepTimes(), StepTimes()
        self._accepted, self._tested = _PRIOR * _PRIOR_WEIGHT, _PRIOR_WEIGHT
        self._plain = 0  # passes since the last drafts
        self._drafted = 0  # rounds with drafts
        # time of rounds over time of their passes, by number of sequences and whether with drafts
        self._overhead: dict[tuple[int, bool], float] = {}

    @property
    def acceptance(self) -> float:
        """Running share of accepted tokens among the tested ones."""
        return self._accepted / self._tested

    def note(self, accepted: int, tested: int) -> None:
        """Count a sequence's draft: tested are the accepted tokens and the first rejected one."""
        self._accepted = self._accepted * _DECAY + accepted
        self._tested = self._tested * _DECAY + tested

    def note_round(self, sequences: int, drafts: int, seconds: float) -> None:
        """Learn the time of a whole round: its passes, logits processors, choices and lists."""
        key = _bucket(sequences), drafts > 0
        passes = self._pass_seconds(sequences, drafts)
        before = self._overhead.get(key, seconds / passes)
        self._overhead[key] = (1 - _LEARNING) * before + _LEARNING * seconds / passes

    def is_measured(self, sequences: int) -> bool:
        return self.draft.has(sequences)

    def measure(self, sequences: int, verify: Callable[[int], float],
                draft: Callable[[int], float]) -> None:
        """Time passes over so many sequences.

        Args:
            verify, draft: seconds of a pass over so many tokens for each sequence.
        """
        for tokens in _PROBED:
            self.verify.add(sequences, tokens, min(verify(tokens) for _ in range(2)))
        for tokens in (1, 2):
            self.draft.add(sequences, tokens, min(draft(tokens) for _ in range(2)))

    def seconds(self, sequences: int, drafts: int) -> float:
        """Predicted time of a round."""
        overhead = self._overhead.get((_bucket(sequences), drafts > 0), 1.0)
        return self._pass_seconds(sequences, drafts) * overhead

    def _pass_seconds(self, sequences: int, drafts: int) -> float:
        """Predicted time of its passes; the first pass of the draft model reads two tokens."""
        if drafts == 0:
            return self.verify(sequences, 1)
        student = self.draft(sequences, 2) + (drafts - 1) * self.draft(sequences, 1)
        return self.verify(sequences, drafts + 1) + student

    def speedup(self, sequences: int, drafts: int, acceptance: float) -> float:
        """Predicted speed-up over plain decoding."""
        gain = tokens_per_sequence(acceptance, drafts)
        return gain * self.seconds(sequences, 0) / self.seconds(sequences, drafts)

    def best(self, sequences: int, acceptance: float | None = None) -> tuple[int, float]:
        """(K, its predicted speed-up); K = 0 and 1.0 where drafting does not pay."""
        rate = self.acceptance if acceptance is None else acceptance
        found = max(range(1, LONGEST + 1), key=lambda k: self.speedup(sequences, k, rate))
        gain = self.speedup(sequences, found, rate)
        return (found, gain) if gain > _GAIN else (0, 1.0)

    def limit(self, sequences: int, acceptance: float) -> float:
        """The speed-up at the best K if a round took no longer than its passes."""
        plain = self._pass_seconds(sequences, 0)
        return max(1.0, *(
            tokens_per_sequence(acceptance, k) * plain / self._pass_seconds(sequences, k)
            for k in range(1, LONGEST + 1)))

    def choose(self, sequences: int, is_ready: bool = True) -> int:
        """K for the next round.

        Where drafting does not pay, it is tried now and then if it would pay at an acceptance of
        0.95: else a better acceptance would never be noticed.

        Args:
            is_ready: False if the draft model must first read the encoder states and all earlier
                tokens; then the predicted speed-up must be larger.
        """
        if (_bucket(sequences), False) not in self._overhead:
            return 0  # the first round is plain, to learn how long rounds are besides their passes
        drafts, gain = self.best(sequences)
        if drafts and (is_ready or gain > _GAIN_LATE):
            self._plain, self._drafted = 0, self._drafted + 1
            return drafts if self._drafted % _PLAIN_EVERY else 0
        self._plain += 1
        if is_ready and self._plain % _PROBE_EVERY == 0:
            return self.best(sequences, _HOPED)[0]
        return 0
