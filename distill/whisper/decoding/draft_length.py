"""How many tokens to draft: what a pass costs, measured, against what it is expected to bring.

With `a` the chance that the teacher accepts a drafted token, K drafts bring on average
(1 - a^(K+1)) / (1 - a) tokens a row (arXiv:2211.17192 sec. 3.3, eq. 1), and cost one pass of the
teacher over K + 1 tokens and K of the student. Both are measured where decoding happens: on a GPU
several tokens cost what one does, on a CPU they may not, and at large batches seldom do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median

LONGEST = 10
TEXT_LONGEST = 32  # of drafts that cost nothing: an older transcript
_PROBED = (1, 2, 5, 11)  # tokens a pass; between them costs are interpolated
_GAIN = 1.05  # less is not worth its risk
_GAIN_LATE = 1.3  # where most is said already
_PLAIN_EVERY = 48  # rounds with drafts between two without, whose time must be known as well
_LEARNING = 0.2  # weight of the latest round
_KEPT = 9  # latest times of each kind of pass
_DECAY = 0.98  # of what was accepted, a round
_PRIOR, _PRIOR_WEIGHT = 0.75, 8.0
_PROBE_EVERY = 64  # plain passes between two looks whether drafting has come to pay
_HOPED = 0.95


def tokens_per_row(acceptance: float, drafts: int) -> float:
    """Expected tokens of a round."""
    if acceptance >= 1:
        return drafts + 1.0
    return (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def _bucket(rows: int) -> int:
    """The next power of two: batches shrink row by row, and measuring takes passes."""
    return 1 << (rows - 1).bit_length()


class StepTimes:
    """Seconds of a pass by number of rows and tokens a row: medians of what was measured."""

    def __init__(self):
        self.seconds: dict[tuple[int, int], list[float]] = defaultdict(list)

    def add(self, rows: int, tokens: int, seconds: float) -> None:
        kept = self.seconds[_bucket(rows), tokens]
        kept.append(seconds)
        del kept[:-_KEPT]

    def has(self, rows: int) -> bool:
        return any(r == _bucket(rows) for r, _ in self.seconds)

    def __call__(self, rows: int, tokens: int) -> float:
        """Interpolated linearly in tokens, beyond what was measured extrapolated."""
        rows = _bucket(rows)
        known = sorted(t for r, t in self.seconds if r == rows)
        if tokens in known:
            return median(self.seconds[rows, tokens])
        points = {t: median(self.seconds[rows, t]) for t in known}
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
        self._besides: dict[tuple[int, bool], float] = {}  # by rows, and whether there are drafts

    @property
    def acceptance(self) -> float:
        """Running share of the tested drafts that the teacher accepted."""
        return self._accepted / self._tested

    def note(self, accepted: int, tested: int) -> None:
        """Tested are those accepted and the one that was not, if any."""
        self._accepted = self._accepted * _DECAY + accepted
        self._tested = self._tested * _DECAY + tested

    def note_round(self, rows: int, drafts: int, seconds: float) -> None:
        """What a round took in all: rules, choices and lists come on top of its passes."""
        key = _bucket(rows), drafts > 0
        passes = self._passes(rows, drafts)
        before = self._besides.get(key, seconds / passes)
        self._besides[key] = (1 - _LEARNING) * before + _LEARNING * seconds / passes

    def is_measured(self, rows: int) -> bool:
        return self.draft.has(rows)

    def measure(self, rows: int, verify: Callable[[int], float], draft: Callable[[int], float]):
        """Time passes of so many rows; the functions take tokens a row, return seconds."""
        for tokens in _PROBED:
            self.verify.add(rows, tokens, min(verify(tokens) for _ in range(2)))
        for tokens in (1, 2):
            self.draft.add(rows, tokens, min(draft(tokens) for _ in range(2)))

    def seconds(self, rows: int, drafts: int) -> float:
        """Predicted, of a round."""
        return self._passes(rows, drafts) * self._besides.get((_bucket(rows), drafts > 0), 1.0)

    def _passes(self, rows: int, drafts: int) -> float:
        """The first pass of the student reads two tokens."""
        if drafts == 0:
            return self.verify(rows, 1)
        student = self.draft(rows, 2) + (drafts - 1) * self.draft(rows, 1)
        return self.verify(rows, drafts + 1) + student

    def speedup(self, rows: int, drafts: int, acceptance: float) -> float:
        """Predicted, against plain decoding."""
        gain = tokens_per_row(acceptance, drafts)
        return gain * self.seconds(rows, 0) / self.seconds(rows, drafts)

    def best(self, rows: int, acceptance: float | None = None) -> tuple[int, float]:
        """(K, its predicted speed-up); K = 0 and 1.0 where drafting does not pay."""
        rate = self.acceptance if acceptance is None else acceptance
        found = max(range(1, LONGEST + 1), key=lambda k: self.speedup(rows, k, rate))
        gain = self.speedup(rows, found, rate)
        return (found, gain) if gain > _GAIN else (0, 1.0)

    def limit(self, rows: int, acceptance: float) -> float:
        """The speed-up that passes alone allow at the best K: choices and lists cost nothing."""
        return max(1.0, *(
            tokens_per_row(acceptance, k) * self._passes(rows, 0) / self._passes(rows, k)
            for k in range(1, LONGEST + 1)))

    def choose(self, rows: int, is_ready: bool = True) -> int:
        """K for the next round.

        If the student is not ready, and has all that was said to hear and read first, it must be
        worth more. Where drafting does not pay it is tried now and then, if it would pay at an
        acceptance of 0.95: otherwise nobody would learn that it had become better.
        """
        if (_bucket(rows), False) not in self._besides:
            return 0  # a first round each: passes alone promise more than comes of them
        drafts, gain = self.best(rows)
        if drafts and (is_ready or gain > _GAIN_LATE):
            self._plain, self._drafted = 0, self._drafted + 1
            return drafts if self._drafted % _PLAIN_EVERY else 0
        self._plain += 1
        if is_ready and self._plain % _PROBE_EVERY == 0:
            return self.best(rows, _HOPED)[0]
        return 0
