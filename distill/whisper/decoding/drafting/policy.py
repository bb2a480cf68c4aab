"""What is drafted in each round, and how many tokens of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from time import perf_counter

from torch import Tensor

from distill.whisper.decoding.decoder import synchronise
from distill.whisper.decoding.drafting.balance import RATE
from distill.whisper.decoding.drafting.costs import bucket
from distill.whisper.decoding.drafting.drafters import Draft, StudentDrafter, TranscriptDrafter
from distill.whisper.decoding.drafting.length import (
    ENOUGH_TESTED,
    TRANSCRIPT_LONGEST,
    DraftLength,
)
from distill.whisper.decoding.phrases.boosts import Boosts
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Sequences, loop_size

_FIRST_PLAIN = 3  # rounds of a batch size before drafts; 1 where earlier calls had as many
_SURE = 1.5  # what drafts must save, in times of what they cost to begin
_TRY_AGAIN = 256  # plain rounds between looks at how often the draft model is right


class Drafting:
    """Drafts for the batch slots of one call: an older transcript's, else the draft model's.

    A call begins plainly. The draft model gets the encoder states, which cost time, only once it is
    sure that this pays: its acceptance is known from how often it would have been right in what is
    generated already, and there is enough left to generate.

    Args:
        drafter: the draft model (the student); None where there is none.
        transcripts: older transcripts; None where there are none.
        states: (sequences, frames, width) encoder states of the call.
        sequences: what was generated so far.
        rules: forbid tokens.
        sampling: None takes the likeliest tokens.
        length: costs and acceptance of all calls; changed here.
        fixed_length: tokens of every draft; None lets `length` choose.
        max_slots: most sequences in the caches.
        before_loops: cut drafts before a token that completes a loop.
        boosts: prefer phrases; None for none.
    """

    def __init__(
        self, drafter: StudentDrafter | None, transcripts: TranscriptDrafter | None, states: Tensor,
        sequences: Sequences, rules: LogitsRules, sampling: Sampling | None,
        length: DraftLength, fixed_length: int | None, max_slots: int, before_loops: bool,
        boosts: Boosts | None = None,
    ):
        self.drafter, self.transcripts, self.states = drafter, transcripts, states
        self.sequences, self.rules, self.sampling = sequences, rules, sampling
        self.length, self.fixed_length, self.max_slots = length, fixed_length, max_slots
        self.before_loops, self.boosts = before_loops, boosts
        self.is_started = False  # the draft model has the encoder states
        self._count: int | None = None  # tokens asked of the draft model in this round
        self._spent = 0.0  # seconds of this round on beginning to draft
        self._tokens = 0.0  # generated in this round, for each sequence
        self._num_plain: Counter[int] = Counter()  # plain rounds of this call, by bucket

    def draft(self) -> list[Draft]:
        """A draft for each slot; empty ones where nothing is worth drafting."""
        slots = self.sequences.slots
        if self.transcripts is None:
            drafts = [Draft([]) for _ in slots]
        else:
            drafts = [Draft(self.transcripts(s, self.sequences.tokens[s], TRANSCRIPT_LONGEST))
                      for s in slots]
        if self.drafter is not None and not all(draft.tokens for draft in drafts):
            others = self._by_model()
            drafts = [draft if draft.tokens else other
                      for draft, other in zip(drafts, others, strict=True)]
        return [self._cut(s, draft) for s, draft in zip(slots, drafts, strict=True)]

    def add(self, states: Tensor) -> None:
        """Encoder states (sequences, frames, width) of sequences that take the next slots."""
        if self.is_started:
            self._timed(lambda: self.drafter.add(states))
            self._spent = 0.0  # not of a round

    def remove(self, slot: int) -> None:
        """A sequence is done; the one of the last slot moves to this slot."""
        self.length.texts.note(len(self.sequences.tokens[self.sequences.slots[slot]]))
        if self.is_started:
            self.drafter.remove(slot)

    def note_prompts(self, seconds: float) -> None:
        """Time up to the first tokens of some sequences, which drafts do not change."""
        if self.drafter is not None:
            self.length.balance.note_plain(seconds)

    def note_accepted(self, counts: Sequence[tuple[int, int]]) -> None:
        """Learn from (accepted, tested) of each slot; transcripts say nothing about the student."""
        self._tokens = fmean(accepted + 1 for accepted, _ in counts)
        if self.transcripts is None:
            for accepted, tested in counts:
                if tested:
                    self.length.note(accepted, tested)

    def end_round(self, drafts: Sequence[Draft], seconds: float) -> None:
        """Learn what the whole round took."""
        count, longest, slots = self._count, max(len(d.tokens) for d in drafts), len(drafts)
        seconds -= self._spent
        self._count, self._spent = None, 0.0
        if count is None or (not count and longest):  # transcripts
            return
        if count:
            self.length.note_drafted(slots, count, seconds, self._tokens, longest == count)
        else:
            self._num_plain[bucket(slots)] += 1
            self.length.note_plain(slots, seconds)

    def _by_model(self) -> list[Draft]:
        count, slots = self.fixed_length, self.sequences.slots
        if count is None:
            self._count = count = self._choose()
        if count == 0:
            return [Draft([]) for _ in slots]
        self._start(slots)
        texts = [self.sequences.with_prompt(s) for s in slots]
        prompt_lengths = [len(self.sequences.prompts[s]) for s in slots]
        return self.drafter(texts, prompt_lengths, count, self.rules, self.sampling, slots,
                            self.boosts)

    def _choose(self) -> int:
        """Tokens to draft in this round."""
        length, size = self.length, len(self.sequences.slots)
        if not length.is_known(size):
            return 0
        at_first = 1 if length.num_plain(size) >= _FIRST_PLAIN else _FIRST_PLAIN
        if self._num_plain[bucket(size)] < at_first:
            return 0
        if not self.is_started:
            self._look()
            drafts, gain = length.to_begin(size)
            self.is_started = self.is_started and drafts > 0
            return drafts if drafts and (self.is_started or self._pays(gain)) else 0
        drafts = length.to_go_on(size, self._funds())
        if drafts is None:  # sequences that begin later need no states either
            self.is_started = False
        return drafts or 0

    def _look(self) -> None:
        """Where it is not known how often the draft model is right, look at one text."""
        length, slots = self.length, self.sequences.slots
        is_known = length.tested >= ENOUGH_TESTED
        if length.is_paused or (is_known and not length.looks_again(_TRY_AGAIN)):
            return
        chosen = max(slots, key=lambda s: len(self.sequences.tokens[s]))
        text, tokens = self.sequences.with_prompt(chosen), self.sequences.tokens[chosen]
        if len(tokens) < ENOUGH_TESTED or not length.may_pay(len(slots)):
            return
        if length.start_seconds(len(slots), len(text)) / len(slots) > self._funds():
            return
        self._start([chosen])
        self.is_started = len(slots) == 1
        prompt_length = len(self.sequences.prompts[chosen])
        length.note_look(*self._timed(lambda: self.drafter.agreement(
            text, prompt_length, self.rules, self.sampling, chosen, self.boosts)))

    def _pays(self, gain: float) -> bool:
        """Whether drafts are sure to save more in this call than they cost to begin."""
        slots = self.sequences.slots
        texts = [self.sequences.length(s) for s in slots]
        cost = self.length.start_seconds(len(slots), max(texts))
        return _SURE * cost < self._seconds_left() * (1 - 1 / gain) and cost < self._funds()

    def _funds(self) -> float:
        """Seconds that may be lost, with what the rest of the call will add."""
        return self.length.balance.seconds + RATE * self._seconds_left()

    def _seconds_left(self) -> float:
        """Of plain decoding, for the sequences in the slots."""
        slots = self.sequences.slots
        left = fmean(self.length.texts.left(len(self.sequences.tokens[s]),
                                            self.sequences.limits[s]) for s in slots)
        return left * self.length.plain(len(slots))

    def _start(self, sequences: Sequence[int]) -> None:
        """Give the draft model the encoder states of some sequences: only now, since this costs
        time, which is lost where drafts do not pay."""
        if not self.is_started:
            before, count = self._spent, len(sequences)
            if count == len(self.sequences.slots):  # not only one that is looked at
                count += self.sequences.num_waiting
            self._timed(lambda: self.drafter.start(
                self.states[list(sequences)], min(bucket(count), self.max_slots)))
            self.length.note_fill(len(sequences), self._spent - before)
            self.is_started = True

    def _timed(self, run: Callable[[], object]):
        """Charge what it takes."""
        begin = perf_counter()
        found = run()
        synchronise(self.states.device)
        seconds = perf_counter() - begin
        self._spent += seconds
        self.length.balance.spend(seconds)
        return found

    def _cut(self, sequence: int, draft: Draft) -> Draft:
        """Up to the sequence's limit, where the target model adds the last token."""
        generated = self.sequences.tokens[sequence]
        tokens = draft.tokens[: max(self.sequences.limits[sequence] - len(generated) - 1, 0)]
        if self.before_loops:
            tokens = _before_loop(generated, tokens)
        return Draft(tokens, draft.probabilities)


def _before_loop(generated: list[int], draft: list[int]) -> list[int]:
    """The draft before the token that completes a loop: which token is forbidden after a loop is
    known only once the loop has been generated."""
    text = list(generated)
    for count, token in enumerate(draft):
        text.append(token)
        if loop_size(text):
            return draft[:count]
    return draft
