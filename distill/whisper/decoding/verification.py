"""Verify and accept: which drafted tokens the target model would have generated itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from distill.whisper.decoding import near_ties
from distill.whisper.decoding.decoder import Cache, Decoder
from distill.whisper.decoding.drafting.drafters import Draft
from distill.whisper.decoding.report import NearTie, Report
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Sequences, loop_size

# choose(index, slot, draft, step) -> (token, its log probability): `index` is the position's row of
# the logits, `step` its place in the draft
Choose = Callable[[int, int, Draft, int], tuple[int, float]]


class Verifier:
    """Chooses the target model's token at each position, and adds it to its sequence.

    Args:
        target: the target model's decoder.
        cache: its cache.
        sequences: get the tokens.
        rules: forbid tokens.
        sampling: None takes the likeliest tokens.
        on_loop: `end`, `break` or `keep` (`WhisperDecoder`).
        exact: compute near ties again, by plain decoding.
        report: counts tested and accepted tokens, and lists near ties.
    """

    def __init__(
        self, target: Decoder, cache: Cache, sequences: Sequences, rules: LogitsRules,
        sampling: Sampling | None, on_loop: str, exact: bool, report: Report,
    ):
        self.target, self.cache, self.sequences = target, cache, sequences
        self.rules, self.sampling = rules, sampling
        self.on_loop, self.exact, self.report = on_loop, exact, report
        self.has_drafted = False  # some pass was over several tokens

    def verify_and_accept(
        self, logits: Tensor, slots: range, drafts: Sequence[Draft]
    ) -> list[tuple[int, int]]:
        """Add the target model's tokens, up to the first one that the draft does not have.

        Args:
            logits: (positions, vocabulary); for each slot, one position more than its draft has
                tokens, one slot after the other. Changed in place.
            slots: those that were read.
            drafts: one for each of them.

        Returns:
            (accepted, tested) for each slot: tested tokens are the accepted ones and the first
            one that was not.
        """
        positions = self._apply_rules(logits, slots, drafts)
        # a pass over several tokens rounds as such for all sequences, also in what they read later
        self.has_drafted = self.has_drafted or any(draft.tokens for draft in drafts)
        if self.sampling is not None and not self.sampling.is_coupled:
            choose = self._by_rejection(logits)
        else:
            choose = self._by_logits(logits, positions)
        counts, first = [], 0
        for slot, draft in zip(slots, drafts, strict=True):
            counts.append(self._accept(first, slot, draft, choose))
            first += len(draft.tokens) + 1
        self.report.accepted += sum(accepted for accepted, _ in counts)
        self.report.tested += sum(tested for _, tested in counts)
        return counts

    def _apply_rules(
        self, logits: Tensor, slots: range, drafts: Sequence[Draft]
    ) -> list[tuple[int, int]]:
        """Forbid tokens in place; (sequence, number of generated tokens before) per position."""
        texts, positions, firsts = [], [], []
        for slot, draft in zip(slots, drafts, strict=True):
            sequence = self.sequences.slots[slot]
            before = self.sequences.tokens[sequence]
            text = before + draft.tokens  # once: each position looks at the beginning of it
            firsts.append((sequence, len(positions)))
            texts += [text] * (len(draft.tokens) + 1)
            positions += [(sequence, length) for length in range(len(before), len(text) + 1)]
        self.rules(logits, texts, [length for _, length in positions])
        if self.on_loop == "break":
            for sequence, first in firsts:
                self.sequences.break_loop(sequence, logits[first])
        return positions

    def _accept(self, first: int, slot: int, draft: Draft, choose: Choose) -> tuple[int, int]:
        """Add tokens to one sequence; `first` is the index of its first position."""
        sequence, accepted, tested = self.sequences.slots[slot], 0, 0
        for step, drafted in enumerate([*draft.tokens, None]):
            token, log_prob = choose(first + step, slot, draft, step)
            self.sequences.add(sequence, token, log_prob, self.on_loop == "end")
            tested += drafted is not None
            accepted += token == drafted
            if self.sequences.done[sequence] or token != drafted:
                break
        return accepted, tested

    def _by_logits(self, logits: Tensor, positions: Sequence[tuple[int, int]]) -> Choose:
        """The largest logit, with noise added where sampling is coupled."""
        tokens, gaps, log_probs = self._two_best(logits, positions if self.sampling else ())
        near = near_ties.thresholds(self.target, logits, tokens)

        def choose(index: int, slot: int, draft: Draft, step: int) -> tuple[int, float]:
            token = tokens[index][0]
            if gaps[index] < near[index] and self.has_drafted and not self.target.int8:
                token = self._near_tie(slot, tokens[index], gaps[index])
            is_second = token == tokens[index][1]
            return token, log_probs[index][is_second]

        return choose

    def _by_rejection(self, logits: Tensor) -> Choose:
        """Rejection sampling (`Sampling.decide`)."""
        probabilities, log_probs = self.sampling.probabilities(logits), logits.log_softmax(-1)

        def choose(index: int, slot: int, draft: Draft, step: int) -> tuple[int, float]:
            sequence, drafted, drawn_from = self.sequences.slots[slot], None, None
            if step < len(draft.tokens):
                drafted = draft.tokens[step]
                drawn_from = draft.probabilities[step] if draft.probabilities else None
            position = len(self.sequences.tokens[sequence])
            token = self.sampling.decide(
                probabilities[index], drawn_from, drafted, sequence, position)
            return token, float(log_probs[index, token])

        return choose

    def _two_best(
        self, logits: Tensor, positions: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[list[int]], list[float], list[list[float]]]:
        """The two best tokens of each position, the gap between them, and their log probabilities.

        Args:
            positions: (sequence, number of generated tokens before) of each, to sample (coupled).
        """
        noisy = logits + self.sampling.noise(positions, logits) if positions else logits
        values, tokens = noisy.topk(2)
        gaps = values[:, 0] - values[:, 1]
        log_probs = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
        return tokens.tolist(), gaps.tolist(), log_probs.tolist()

    def _near_tie(self, slot: int, tokens: list[int], gap: float) -> int:
        """List a near tie; the token to take."""
        generated = self.sequences.tokens[self.sequences.slots[slot]]
        chosen = self._plain_choice(slot) if self.exact else tokens[0]
        self.report.near_ties.append(
            NearTie(tuple(generated), (tokens[0], tokens[1]), gap, chosen, self.exact))
        return chosen

    def _plain_choice(self, slot: int) -> int:
        """The next token as plain decoding of the sequence alone would choose it."""
        sequence = self.sequences.slots[slot]
        generated = self.sequences.tokens[sequence]
        logits = near_ties.plain_logits(
            self.target, self.cache.alone(slot), self.sequences.prompts[sequence], generated)
        self.rules(logits, [generated])
        if self.on_loop == "break" and (size := loop_size(generated)):
            logits[0, generated[-size]] = -torch.inf
        positions = [(sequence, len(generated))] if self.sampling is not None else ()
        # not argmax: of two equal logits, as half types have them, it may take the other one
        return self._two_best(logits, positions)[0][0][0]
