"""How many tokens to draft, by the time of passes and the expected number of tokens.

If the target model (the teacher) accepts a drafted token with probability `a`, a round with K
drafted tokens gives on average (1 - a^(K+1)) / (1 - a) tokens for each sequence (arXiv:2211.17192
sec. 3.3, eq. 1). It costs one pass of the target model over K + 1 tokens, and K passes of the draft
model (the student). What passes cost is measured outside of decoding (`calibration`); rounds,
plain ones and those with drafts, say by how much it is more here and now. On a GPU several tokens
take as long as one; on a CPU, and in large batches, they often take longer.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from statistics import median

from distill.whisper.decoding.drafting.balance import Balance
from distill.whisper.decoding.drafting.costs import Costs, bucket, costs_of, interpolated
from distill.whisper.decoding.drafting.texts import TextLengths
from distill.whisper.decoding.drafting.watch import Watch

LONGEST = 10
TRANSCRIPT_LONGEST = 32  # drafts by an older transcript cost nothing
HOPED = 0.95  # acceptance at which drafts must pay to be looked at
ENOUGH_TESTED = 16  # tokens after which acceptance is known
_GAIN = 1.05  # predicted speed-up below which nothing is drafted
_GAIN_UNSEEN = 1.12  # the same before rounds with drafts were timed
_GAIN_ON = 1.02  # the same for rounds that are drafted already
_PLAIN_EVERY = 48  # every so many rounds one without drafts, to measure its time as well
_KEPT = 9  # latest times of each kind of round
_SEEN = 3  # rounds with drafts whose median time is known
_PAUSE = 64  # plain rounds after drafts were slower; twice as many each time
_LONGEST_PAUSE = 4096
_CALIBRATION = 30  # plain rounds that take as long as to measure costs
_UNSEEN = 2.0  # of the first fill's time: its memory is new, which takes as long again
_DECAY = 0.98  # of older counts of accepted tokens, each round
_PRIOR, _PRIOR_WEIGHT = 0.75, 8.0


def tokens_per_sequence(acceptance: float, drafts: int) -> float:
    """Expected tokens of a round, for each sequence."""
    if acceptance >= 1:
        return drafts + 1.0
    return (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def _latest() -> defaultdict[int, deque]:
    return defaultdict(lambda: deque(maxlen=_KEPT))


class DraftLength:
    """Chooses K for every round, 0 where it is not sure that drafts are faster.

    Attributes:
        costs: by bucket, what was measured outside of decoding; see `learn`.
        balance: what may be risked.
        texts: their lengths.
        tested: drafted tokens so far that acceptance is known from.
    """

    def __init__(self):
        self.costs: dict[int, Costs] = {}
        self._tables: dict[int, tuple[Costs, list[float]]] = {}  # costs, passes by drafts
        self.balance = Balance()
        self.texts = TextLengths()
        self.tested = 0.0
        self._accepted, self._weight = _PRIOR * _PRIOR_WEIGHT, _PRIOR_WEIGHT
        self._plain = _latest()  # seconds of plain rounds, by bucket
        self._drafted = _latest()  # seconds of rounds with drafts over those that were predicted
        self._watch = Watch()
        self._asked = 1  # tokens of the latest draft
        self._rounds = 0  # with drafts
        self._pause, self._next_pause = 0, _PAUSE
        self._looked, self._looks = 0, 0  # plain rounds since the last look, and looks
        self._fills: deque[float] = deque(maxlen=_KEPT)  # seconds a sequence

    def learn(self, sequences: int, costs: Costs) -> None:
        """Costs of batches of so many sequences; those of sizes between follow from them."""
        self.costs[bucket(sequences)] = costs
        self._tables.clear()

    @property
    def acceptance(self) -> float:
        """Running share of accepted tokens among the tested ones."""
        return self._accepted / self._weight

    @property
    def sure_acceptance(self) -> float:
        """The same, less its standard error."""
        rate = self.acceptance
        return max(rate - (rate * (1 - rate) / self._weight) ** 0.5, 0.0)

    @property
    def is_paused(self) -> bool:
        """Drafts were slower than plain rounds a while ago."""
        return self._pause > 0

    def note(self, accepted: float, tested: int) -> None:
        """Count a sequence's draft: tested are the accepted tokens and the first rejected one."""
        self._accepted = self._accepted * _DECAY + accepted
        self._weight = self._weight * _DECAY + tested
        self.tested += tested

    def note_look(self, accepted: float, tested: int) -> None:
        """Count the tokens of a text that the draft model would have drafted."""
        self.note(accepted, tested)
        self._looked, self._looks = 0, self._looks + 1

    def looks_again(self, rounds: int) -> bool:
        """Whether a draft model that was found wanting is worth a look: after so many plain rounds,
        twice as many each time."""
        return self._looked >= rounds * 2 ** min(self._looks, 8)

    def note_fill(self, sequences: int, seconds: float) -> None:
        """Learn the time of giving the draft model the encoder states of so many sequences."""
        self._fills.append(seconds / sequences)

    def note_plain(self, sequences: int, seconds: float) -> None:
        """Learn the time of a round without drafts."""
        self._plain[bucket(sequences)].append(seconds)
        self.balance.note_plain(seconds)
        if self._watch.is_checking:
            self._note_check(sequences, seconds)
        self._pause = max(self._pause - 1, 0)
        self._looked += 1

    def note_drafted(self, sequences: int, drafts: int, seconds: float, tokens: float,
                     is_timed: bool = True) -> None:
        """Learn from a round with drafts.

        Args:
            tokens: generated, for each sequence.
            is_timed: False where drafts had fewer tokens than asked for.
        """
        plain, expected = self.plain(sequences), self.seconds(sequences, drafts)
        # a stall of the machine is not the drafts' fault
        self.balance.note_drafted(min(seconds, 2 * expected), tokens * plain)
        if is_timed:
            self._drafted[bucket(sequences)].append(
                seconds / self._passes(sequences, drafts))
        self._watch.note(seconds / plain, tokens)
        self._asked = drafts

    def _note_check(self, sequences: int, seconds: float) -> None:
        """Learn from a plain round in the middle of drafting; give up if the drafts are slow."""
        size = bucket(sequences)
        plain = self._watch.note_plain(size, seconds)
        if plain is None:
            return
        if not plain:
            self.give_up()
            return
        slower = self._watch.end_check()
        self._plain[size] = deque(plain, maxlen=_KEPT)
        for each, times in self._drafted.items():
            self._drafted[each] = deque([time / slower for time in times], maxlen=_KEPT)
        if self._loses() or self.best(sequences)[1] < _GAIN_ON <= self._pure(sequences):
            self.give_up()

    def _loses(self) -> bool:
        return self._watch.is_slower(tokens_per_sequence(self.acceptance, self._asked))

    def give_up(self) -> None:
        """Decode plainly for a while, each time for longer."""
        self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _LONGEST_PAUSE)
        self._watch.clear()
        self._drafted.clear()

    def is_known(self, sequences: int) -> bool:
        return self._table(sequences) is not None

    def can_measure(self, sequences: int) -> bool:
        """Whether costs may be measured: the balance has the time for it."""
        timed = self._plain.get(bucket(sequences))
        return bool(timed) and self.balance.seconds > _CALIBRATION * median(timed)

    def num_plain(self, sequences: int) -> int:
        """Plain rounds whose times are kept."""
        return len(self._plain[bucket(sequences)])

    def plain(self, sequences: int) -> float:
        """Seconds of a plain round; its costs must be known."""
        timed = self._plain.get(bucket(sequences))
        if timed:
            return median(timed)
        return self._passes(sequences, 0)

    def seconds(self, sequences: int, drafts: int) -> float:
        """Predicted time of a round."""
        if drafts == 0:
            return self.plain(sequences)
        return self._passes(sequences, drafts) * self._overhead(sequences)

    def start_seconds(self, sequences: int, tokens: int) -> float:
        """To give the draft model the encoder states, and so many tokens of each sequence."""
        (costs, _), scale = self._table(sequences), self._scale(sequences)
        fill = median(self._fills) if self._fills else _UNSEEN * scale * costs.fill
        return sequences * fill + scale * interpolated(costs.draft, tokens)

    def speedup(self, sequences: int, drafts: int, acceptance: float) -> float:
        """Predicted speed-up over plain decoding."""
        gain = tokens_per_sequence(acceptance, drafts)
        return gain * self.plain(sequences) / self.seconds(sequences, drafts)

    def best(self, sequences: int, acceptance: float | None = None) -> tuple[int, float]:
        """(K, its predicted speed-up), by default at the acceptance that is sure."""
        rate = self.sure_acceptance if acceptance is None else acceptance
        _, passes = self._table(sequences)
        gain, found = max((tokens_per_sequence(rate, k) / passes[k], -k)
                          for k in range(1, LONGEST + 1))
        rounds = self._scale(sequences) * self._overhead(sequences)
        return -found, gain * self.plain(sequences) / rounds

    def limit(self, sequences: int, acceptance: float) -> float:
        """The speed-up at the best K if a round took no longer than its passes."""
        _, passes = self._table(sequences)
        return max(1.0, *(tokens_per_sequence(acceptance, k) * passes[0] / passes[k]
                          for k in range(1, LONGEST + 1)))

    def may_pay(self, sequences: int) -> bool:
        """Whether drafts would pay if nearly all tokens were accepted."""
        return self.best(sequences, HOPED)[1] > _GAIN_UNSEEN

    def to_begin(self, sequences: int) -> tuple[int, float]:
        """(K, its speed-up) where drafts are sure to pay from now on; else (0, 1.0)."""
        found, gain = self.best(sequences)
        seen = len(self._drafted.get(bucket(sequences), ())) >= _SEEN
        wanted = _GAIN if seen else _GAIN_UNSEEN
        is_tested = self.tested >= ENOUGH_TESTED
        may_begin = is_tested and not self.is_paused and not self._watch.is_checking
        return (found, gain) if may_begin and gain > wanted else (0, 1.0)

    def to_go_on(self, sequences: int, funds: float) -> int | None:
        """K of the next round, 0 for a plain one; None where drafts have come not to pay.

        Args:
            funds: seconds that may be lost from now on.
        """
        if self.is_paused:
            return None
        if self._watch.is_checking:
            return 0
        found, gain = self.best(sequences)
        is_poor = gain < _GAIN_ON or funds < -self.plain(sequences)
        by_times = self._loses() or (is_poor and self._pure(sequences) >= _GAIN_ON)
        if by_times and not self._watch.is_checked:
            self._watch.check(bucket(sequences), self.plain(sequences))
            return 0
        if is_poor:
            return None
        self._rounds += 1
        return found if self._rounds % _PLAIN_EVERY else 0

    def _pure(self, sequences: int) -> float:
        """The best speed-up if rounds took no longer than their passes."""
        return self.best(sequences)[1] * self._overhead(sequences)

    def _passes(self, sequences: int, drafts: int) -> float:
        return self._table(sequences)[1][drafts] * self._scale(sequences)

    def _table(self, sequences: int) -> tuple[Costs, list[float]] | None:
        """Costs, and seconds of the passes of a round by its drafts."""
        size = bucket(sequences)
        if size not in self._tables:
            costs = costs_of(self.costs, sequences)
            if costs is None:
                return None
            self._tables[size] = costs, [costs.passes(k) for k in range(LONGEST + 1)]
        return self._tables[size]

    def _overhead(self, sequences: int) -> float:
        """Time of rounds with drafts over the predicted time of their passes."""
        timed = self._drafted.get(bucket(sequences)) or self._nearest(self._drafted, sequences)
        return median(timed) if timed else 1.0

    def _scale(self, sequences: int) -> float:
        """Time of plain rounds over the measured time of their passes: the logits processors and
        lists, shorter audio, a busy machine."""
        nearest = self._nearest(self._plain, sequences)
        if not nearest:
            return 1.0
        size = next(each for each, times in self._plain.items() if times is nearest)
        known = self._table(size)
        return median(nearest) / known[1][0] if known else 1.0

    @staticmethod
    def _nearest(times: dict[int, deque], sequences: int) -> Sequence[float]:
        """Of the bucket that is nearest."""
        sizes = [size for size, each in times.items() if each]
        size = bucket(sequences)
        return times[min(sizes, key=lambda s: max(s, size) / min(s, size))] if sizes else ()
