"""Verify and accept: which drafted tokens the target model would have generated itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.whisper.decoding import near_ties
from distill.whisper.decoding.decoder import Cache, Decoder
from distill.whisper.decoding.drafting.drafters import Draft
from distill.whisper.decoding.phrases.boosts import Boosts
from distill.whisper.decoding.report import NearTie, Report
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Sequences, loop_size
from distill.whisper.decoding.shortlist import RoughLogits

# choose(index, slot, draft, step) -> (token, its log probability, whether a boost chose it):
# `index` is the position's row of the logits, `step` its place in the draft
Choose = Callable[[int, int, Draft, int], tuple[int, float, bool]]


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
        boosts: prefer phrases; None for none.
    """

    def __init__(
        self, target: Decoder, cache: Cache, sequences: Sequences, rules: LogitsRules,
        sampling: Sampling | None, on_loop: str, exact: bool, report: Report,
        boosts: Boosts | None = None,
    ):
        self.target, self.cache, self.sequences = target, cache, sequences
        self.rules, self.sampling = rules, sampling
        self.on_loop, self.exact, self.report = on_loop, exact, report
        self.boosts = boosts
        self.has_drafted = False  # some pass was over several tokens

    def logits_of(self, hidden: Tensor) -> tuple[Tensor, RoughLogits | None]:
        """The target model's logits (positions, vocabulary) of its states, as they are needed for
        the choice; where they are rough, what refines them: where it is the largest, with nothing
        added to any."""
        is_largest = self.sampling is None and self.boosts is None
        rough = self.target.rough_logits(hidden) if is_largest else None
        return (self.target.logits(hidden), None) if rough is None else (rough.logits, rough)

    def verify_and_accept(
        self, logits: Tensor, slots: range, drafts: Sequence[Draft],
        rough: RoughLogits | None = None,
    ) -> list[tuple[int, int]]:
        """Add the target model's tokens, up to the first one that the draft does not have.

        Args:
            logits: (positions, vocabulary); for each slot, one position more than its draft has
                tokens, one slot after the other. Changed in place.
            slots: those that were read.
            drafts: one for each of them.
            rough: whose logits they are, if the largest must be made exact (`logits_of`).

        Returns:
            (accepted, tested) for each slot: tested tokens are the accepted ones and the first
            one that was not.
        """
        positions, texts = self._apply_rules(logits, slots, drafts, rough)
        # a pass over several tokens rounds as such for all sequences, also in what they read later
        self.has_drafted = self.has_drafted or any(draft.tokens for draft in drafts)
        if self.sampling is not None and not self.sampling.is_coupled:
            choose = self._by_rejection(logits)
        else:
            choose = self._by_logits(logits, positions, texts)
        counts, first = [], 0
        for slot, draft in zip(slots, drafts, strict=True):
            counts.append(self._accept(first, slot, draft, choose))
            first += len(draft.tokens) + 1
        self.report.accepted += sum(accepted for accepted, _ in counts)
        self.report.tested += sum(tested for _, tested in counts)
        return counts

    def _apply_rules(
        self, logits: Tensor, slots: range, drafts: Sequence[Draft], rough: RoughLogits | None
    ) -> tuple[list[tuple[int, int]], list[list[int]]]:
        """Forbid tokens in place; (sequence, number of generated tokens before) per position, and
        these tokens."""
        texts, positions, firsts = [], [], []
        for slot, draft in zip(slots, drafts, strict=True):
            sequence = self.sequences.slots[slot]
            before = self.sequences.tokens[sequence]
            text = before + draft.tokens  # once: each position looks at the beginning of it
            firsts.append((sequence, len(positions)))
            texts += [text] * (len(draft.tokens) + 1)
            positions += [(sequence, length) for length in range(len(before), len(text) + 1)]
        self.rules(logits, texts, [length for _, length in positions], rough)
        if self.on_loop == "break":
            for sequence, first in firsts:
                self.sequences.break_loop(sequence, logits[first])
        if rough is not None:
            rough.refine(logits)
        return positions, texts

    def _accept(self, first: int, slot: int, draft: Draft, choose: Choose) -> tuple[int, int]:
        """Add tokens to one sequence; `first` is the index of its first position."""
        sequence, accepted, tested = self.sequences.slots[slot], 0, 0
        for step, drafted in enumerate([*draft.tokens, None]):
            token, log_prob, is_boosted = choose(first + step, slot, draft, step)
            tested += drafted is not None
            accepted += token == drafted
            if self._takes_back(sequence, token, is_boosted):
                break
            self.sequences.add(sequence, token, log_prob, self.on_loop == "end")
            if self.sequences.done[sequence] or token != drafted:
                break
        return accepted, tested

    def _takes_back(self, sequence: int, token: int, is_boosted: bool) -> bool:
        """Whether this token ended a boosted beginning, which is then undone."""
        if self.boosts is None:
            return False
        generated, log_prob = self.sequences.tokens[sequence], self.sequences.log_prob[sequence]
        back = self.boosts.note(sequence, generated, token, log_prob, is_boosted)
        if back is not None:
            self.sequences.cut(sequence, *back)
            self.report.taken_back += 1
        return back is not None

    def _by_logits(self, logits: Tensor, positions: Sequence[tuple[int, int]],
                   texts: Sequence[Sequence[int]]) -> Choose:
        """The largest logit, with noise added where sampling is coupled."""
        found = self._two_best(logits, positions, texts)
        near = near_ties.thresholds(self.target, logits, found.tokens)

        def choose(index: int, slot: int, draft: Draft, step: int) -> tuple[int, float, bool]:
            token, log_prob, is_boosted = found.of(index)
            if found.gaps[index] < near[index] and self.has_drafted and not self.target.int8:
                token, is_boosted = self._near_tie(slot, found, index)
                log_prob = found.log_probs[index][token == found.tokens[index][1]]
            return token, log_prob, is_boosted

        return choose

    def _by_rejection(self, logits: Tensor) -> Choose:
        """Rejection sampling (`Sampling.decide`)."""
        probabilities, log_probs = self.sampling.probabilities(logits), logits.log_softmax(-1)

        def choose(index: int, slot: int, draft: Draft, step: int) -> tuple[int, float, bool]:
            sequence, drafted, drawn_from = self.sequences.slots[slot], None, None
            if step < len(draft.tokens):
                drafted = draft.tokens[step]
                drawn_from = draft.probabilities[step] if draft.probabilities else None
            position = len(self.sequences.tokens[sequence])
            token = self.sampling.decide(
                probabilities[index], drawn_from, drafted, sequence, position)
            return token, float(log_probs[index, token]), False

        return choose

    def _two_best(self, logits: Tensor, positions: Sequence[tuple[int, int]],
                  texts: Sequence[Sequence[int]]) -> _Best:
        """The two best tokens of each position, boosts and noise included.

        Args:
            positions: (sequence, number of generated tokens before) of each.
            texts: these tokens.
        """
        noise = None if self.sampling is None else self.sampling.noise(positions, logits)
        applied = self.boosts and self.boosts.apply(logits, positions, texts, noise)
        values, tokens = (logits if noise is None else logits + noise).topk(2)
        gaps = (values[:, 0] - values[:, 1]).tolist()
        if applied is not None:
            applied.restore()  # probabilities are those of the model itself
        log_probs = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
        chosen = tokens.tolist()
        boosted = [False] * len(chosen)
        if applied is not None:
            boosted = [one[0] != two[0] for one, two in zip(chosen, applied.best, strict=True)]
            # what rounding may change: the choice, or whether the boost made it
            gaps = [min(gap, other) if one[0] in two else gap for one, two, gap, other
                    in zip(chosen, applied.best, gaps, applied.gaps, strict=True)]
        return _Best(chosen, gaps, log_probs.tolist(), boosted)

    def _near_tie(self, slot: int, found: _Best, index: int) -> tuple[int, bool]:
        """List a near tie; the token to take, and whether a boost chose it."""
        generated = self.sequences.tokens[self.sequences.slots[slot]]
        token, _, is_boosted = found.of(index)
        if self.exact:
            token, is_boosted = self._plain_choice(slot)
        first, second = found.tokens[index]
        self.report.near_ties.append(
            NearTie(tuple(generated), (first, second), found.gaps[index], token, self.exact))
        return token, is_boosted

    def _plain_choice(self, slot: int) -> tuple[int, bool]:
        """The next token as plain decoding of the sequence alone would choose it."""
        sequence = self.sequences.slots[slot]
        generated = self.sequences.tokens[sequence]
        hidden = near_ties.plain_states(
            self.target, self.cache.alone(slot), self.sequences.prompts[sequence], generated)
        logits, rough = self.logits_of(hidden)
        self.rules(logits, [generated], rough=rough)
        if self.on_loop == "break" and (size := loop_size(generated)):
            logits[0, generated[-size]] = -torch.inf
        if rough is not None:
            rough.refine(logits)
        # not argmax: of two equal logits, as half types have them, it may take the other one
        token, _, is_boosted = self._two_best(
            logits, [(sequence, len(generated))], [generated]).of(0)
        return token, is_boosted


@dataclass
class _Best:
    """Of each position: the two best tokens, the gap between them, their log probabilities
    (without boosts and noise), and whether a boost chose the first."""

    tokens: list[list[int]]
    gaps: list[float]
    log_probs: list[list[float]]
    boosted: list[bool]

    def of(self, index: int) -> tuple[int, float, bool]:
        return self.tokens[index][0], self.log_probs[index][0], self.boosted[index]
