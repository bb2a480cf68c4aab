"""The state of one call of `WhisperDecoder`: sequences begin, grow by rounds of draft and verify,
and leave."""

from __future__ import annotations

import time
from collections import deque

import torch
from torch import Tensor

from distill.whisper.decoding.cache import Cache
from distill.whisper.decoding.decoder import Decoder, synchronise
from distill.whisper.decoding.drafting.drafters import Draft
from distill.whisper.decoding.drafting.policy import Drafting
from distill.whisper.decoding.output.shortlist import RoughLogits
from distill.whisper.decoding.prompts import Prompts
from distill.whisper.decoding.report import Report
from distill.whisper.decoding.sequences import Sequences
from distill.whisper.decoding.verification import Verifier
from distill.whisper.special import SpecialTokens


class DecodingState:
    """Sequences in batch slots, and those that wait for a slot.

    Args:
        target: the target model's decoder.
        cache: its cache, empty.
        states: (sequences, frames, width) encoder states.
        sequences: get the prompts, the tokens and the slots.
        prompts: makes prompts.
        drafting: proposes tokens.
        verifier: chooses tokens.
        special: ids of special tokens.
        report: counts the passes.
        max_slots: most sequences in the cache; others begin where these end.
    """

    def __init__(
        self, target: Decoder, cache: Cache, states: Tensor, sequences: Sequences,
        prompts: Prompts, drafting: Drafting, verifier: Verifier, special: SpecialTokens,
        report: Report, max_slots: int,
    ):
        self.target, self.cache, self.states = target, cache, states
        self.sequences, self.prompts = sequences, prompts
        self.drafting, self.verifier = drafting, verifier
        self.special, self.report, self.max_slots = special, report, max_slots
        self.beside = verifier.beside
        self.waiting = deque(range(len(states)))
        self.no_speech = [0.0] * len(states)  # probabilities

    def run(self) -> None:
        """Decode until all sequences are done."""
        slots, few = self.sequences.slots, max(self.max_slots // 4, 1)
        while slots or self.waiting:
            free = self.max_slots - len(slots)
            # several at a time: prompts are read in a pass of their own, and all others wait for it
            if self.waiting and (not slots or free >= min(few, len(self.waiting))):
                self._begin([self.waiting.popleft() for _ in range(min(free, len(self.waiting)))])
            else:
                self._round()

    def _begin(self, new: list[int]) -> None:
        """Sequences take free slots: their audio, their prompts, and the first token of each."""
        slots, states = self.sequences.slots, self.states[new[0] : new[-1] + 1]  # in order
        first = len(slots)
        self.drafting.add(states)
        begin = time.perf_counter()
        self.target.fill_cross_attention(self.cache, states)
        slots += new
        cache = self.cache.slots(first, len(new))
        prompts = self.prompts(new, cache)
        for sequence, prompt in zip(new, prompts, strict=True):
            self.sequences.begin(sequence, prompt, self.target.context)
        logits, rough = self._read_prompts(new, prompts, cache)
        self.verifier.verify_and_accept(
            logits, range(first, len(slots)), [Draft([]) for _ in new], rough)
        self.drafting.note_prompts(time.perf_counter() - begin)
        self._remove_done()

    def _read_prompts(self, new: list[int], prompts: list[list[int]], cache: Cache
                      ) -> tuple[Tensor, RoughLogits | None]:
        """Logits (sequences, vocabulary) of the first tokens, as `_read` has them; probabilities of
        no speech."""
        hidden = self.target(self._padded(prompts), [0] * len(new), cache)
        at = torch.arange(len(new), device=hidden.device)
        starts = [prompt.index(self.special.start) for prompt in prompts]
        ends = [len(prompt) - 1 for prompt in prompts]
        begin, end = (hidden[at, torch.tensor(each, device=hidden.device)]
                      for each in (starts, ends))
        if starts == ends:  # one language, and timestamps
            logits = self.target.logits(begin)
            self._note_no_speech(new, logits)
            return logits, None
        logits, rough = self.verifier.logits_of(torch.cat([begin, end]))  # the layer is read once
        if rough is None:
            self._note_no_speech(new, logits[: len(new)])
            return logits[len(new) :], None
        first, last = rough.split(len(new))
        first.settle(self.special.no_speech, self.special.no_speech + 1)
        first.refine(first.logits)
        self._note_no_speech(new, first.logits)
        return last.logits, last

    def _note_no_speech(self, new: list[int], logits: Tensor) -> None:
        """Probabilities that there is no speech, of logits after `<|startoftranscript|>`."""
        silent = (logits[:, self.special.no_speech] - logits.logsumexp(-1)).exp().tolist()
        for sequence, probability in zip(new, silent, strict=True):
            self.no_speech[sequence] = probability

    def _round(self) -> None:
        """Draft, read all drafts in one pass, and keep what the target model would generate."""
        begin, slots = time.perf_counter(), self.sequences.slots
        drafts = self.drafting.draft()
        is_plain = not any(draft.tokens for draft in drafts)
        if self.beside is not None:
            self.beside.begin() if is_plain else self.beside.drop_all()
        rows = [*slots, *self.sequences.beside]
        all_drafts = [*drafts, *(Draft([]) for _ in self.sequences.beside)]
        # the prompt's last token again where a boosted beginning was taken back to it
        texts = [(self.sequences.tokens[s] or self.sequences.prompts[s])[-1:] + draft.tokens
                 for s, draft in zip(rows, all_drafts, strict=True)]
        starts = [self.sequences.length(s) - 1 for s in rows]
        logits, rough = self._read(texts, starts)
        counts = self.verifier.verify_and_accept(logits, range(len(rows)), all_drafts, rough)
        self.drafting.note_accepted(counts[: len(slots)])
        self.report.passes += 1
        self.report.plain += is_plain
        self.report.sequence_passes += len(drafts)
        self.report.beside += len(self.sequences.beside)
        if self.beside is not None:
            self.beside.settle()
        self._remove_done()
        self.drafting.end_round(drafts, time.perf_counter() - begin)

    def _read(self, texts: list[list[int]], starts: list[int]
              ) -> tuple[Tensor, RoughLogits | None]:
        """Logits (positions, vocabulary) after every token, one slot after the other; where they
        are rough, what refines them."""
        hidden = self.target(self._padded(texts), starts, self.cache)
        if hidden.shape[1] == 1:
            wanted = hidden.flatten(0, 1)
        else:
            wanted = torch.cat([hidden[slot, : len(text)] for slot, text in enumerate(texts)])
        found = self.verifier.logits_of(wanted)
        synchronise(self.states.device)
        return found

    def _remove_done(self) -> None:
        """Sequences that are done leave; the one of the last slot takes the free slot."""
        slots = self.sequences.slots
        for slot in reversed(range(len(slots))):
            if self.sequences.done[slots[slot]]:
                self.cache.remove(slot)
                self.drafting.remove(slot)
                slots[slot] = slots[-1]
                slots.pop()

    def _padded(self, texts: list[list[int]]) -> Tensor:
        """(sequences, longest) ids, padded on the right: no token looks at what is after it."""
        width = max(map(len, texts))
        return torch.tensor([text + [self.special.end] * (width - len(text)) for text in texts],
                            device=self.states.device)
