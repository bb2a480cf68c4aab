"""What is drafted in each round, and how many tokens of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from distill.whisper.decoding.drafting.drafters import Draft, StudentDrafter, TranscriptDrafter
from distill.whisper.decoding.drafting.length import TRANSCRIPT_LONGEST, DraftLength
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Sequences, loop_size


class Drafting:
    """Drafts for the batch slots of one call: an older transcript's, else the draft model's.

    Args:
        drafter: the draft model (the student); None where there is none.
        transcripts: older transcripts; None where there are none.
        states: (sequences, frames, width) encoder states of the call.
        sequences: what was generated so far.
        rules: forbid tokens.
        sampling: None takes the likeliest tokens.
        length: measured times and acceptance of all calls; changed here.
        fixed_length: tokens of every draft; None lets `length` choose.
        max_slots: most sequences in the caches.
        before_loops: cut drafts before a token that completes a loop.
        verify_seconds: `verify_seconds(tokens, starts)` times a pass of the target model.
    """

    def __init__(
        self, drafter: StudentDrafter | None, transcripts: TranscriptDrafter | None, states: Tensor,
        sequences: Sequences, rules: LogitsRules, sampling: Sampling | None,
        length: DraftLength, fixed_length: int | None, max_slots: int, before_loops: bool,
        verify_seconds: Callable[[int, Sequence[int]], float],
    ):
        self.drafter, self.transcripts, self.states = drafter, transcripts, states
        self.sequences, self.rules, self.sampling = sequences, rules, sampling
        self.length, self.fixed_length, self.max_slots = length, fixed_length, max_slots
        self.before_loops, self.verify_seconds = before_loops, verify_seconds
        self.is_started = False  # the draft model has the encoder states
        self.is_first_round = True
        self.is_timed = False  # the length of this round's drafts was chosen by its costs
        self.is_unusual = False  # this round times were measured, or the draft model was started

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
            self.drafter.add(states)

    def remove(self, slot: int) -> None:
        """A sequence is done; the one of the last slot moves to this slot."""
        if self.is_started:
            self.drafter.remove(slot)

    def note_accepted(self, counts: Sequence[tuple[int, int]]) -> None:
        """Learn from (accepted, tested) of each slot; transcripts say nothing about the student."""
        if self.transcripts is None:
            for accepted, tested in counts:
                if tested:
                    self.length.note(accepted, tested)

    def end_round(self, drafts: Sequence[Draft], verify_seconds: float, seconds: float) -> None:
        """Learn what the round cost.

        Args:
            verify_seconds: of the target model's pass.
            seconds: of the whole round.
        """
        count = len(drafts[0].tokens)
        if self.is_timed and all(len(draft.tokens) == count for draft in drafts):
            self.length.verify.add(len(drafts), count + 1, verify_seconds)
            if not self.is_unusual:
                self.length.note_round(len(drafts), count, seconds)
        self.is_unusual = self.is_first_round = self.is_timed = False

    def _by_model(self) -> list[Draft]:
        count, slots = self.fixed_length, self.sequences.slots
        if count is None:
            self.is_timed = True
            self._measure()
            is_ready = self.is_started or self.is_first_round
            count = self.length.choose(len(slots), is_ready)
        if count == 0:
            return [Draft([]) for _ in slots]
        self._start()
        texts = [self.sequences.with_prompt(s) for s in slots]
        prompt_lengths = [len(self.sequences.prompts[s]) for s in slots]
        return self.drafter(texts, prompt_lengths, count, self.rules, self.sampling, slots)

    def _start(self) -> None:
        """Give the draft model the encoder states: only now, since this costs time, which is lost
        where drafts do not pay."""
        if not self.is_started:
            self.drafter.start(self.states[self.sequences.slots], self.max_slots)
            self.is_started = self.is_unusual = True

    def _measure(self) -> None:
        """Time passes over as many sequences, once."""
        starts = [self.sequences.length(s) - 1 for s in self.sequences.slots]
        if self.length.is_measured(len(starts)):
            return
        self._start()
        self.is_unusual = True
        self.length.measure(
            len(starts), lambda tokens: self.verify_seconds(tokens, starts),
            lambda tokens: self.drafter.seconds(tokens, starts, time.perf_counter))

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
