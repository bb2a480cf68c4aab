"""Verify and accept: which drafted tokens the target model would have generated itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.whisper.decoding import near_ties
from distill.whisper.decoding.cache import Cache
from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.drafting.drafters import Draft
from distill.whisper.decoding.output.shortlist import RoughLogits
from distill.whisper.decoding.phrases.beside import TextsBeside
from distill.whisper.decoding.phrases.boosts import Boosts, Choice, TwoBest
from distill.whisper.decoding.report import NearTie, Report
from distill.whisper.decoding.rules import LogitsRules
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Sequences, loop_size

# choose(index, slot, draft, step): `index` is the position's row of the logits, `step` its place
# in the draft
Choose = Callable[[int, int, Draft, int], Choice]


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
        beside: texts without the phrases that they have begun; None without boosts.
    """

    def __init__(
        self, target: Decoder, cache: Cache, sequences: Sequences, rules: LogitsRules,
        sampling: Sampling | None, on_loop: str, exact: bool, report: Report,
        boosts: Boosts | None = None, beside: TextsBeside | None = None,
    ):
        self.target, self.cache, self.sequences = target, cache, sequences
        self.rules, self.sampling = rules, sampling
        self.on_loop, self.exact, self.report = on_loop, exact, report
        self.boosts, self.beside = boosts, beside
        self.has_drafted = False  # some pass was over several tokens

    def logits_of(self, hidden: Tensor) -> tuple[Tensor, RoughLogits | None]:
        """The target model's logits (positions, vocabulary) of its states, as they are needed for
        the choice; where they are rough, what refines them: where no noise is added to any."""
        rough = self.target.rough_logits(hidden) if self.sampling is None else None
        return (self.target.logits(hidden), None) if rough is None else (rough.logits, rough)

    def verify_and_accept(
        self, logits: Tensor, slots: range, drafts: Sequence[Draft],
        rough: RoughLogits | None = None,
    ) -> list[tuple[int, int]]:
        """Add the target model's tokens, up to the first one that the draft does not have.

        Args:
            logits: (positions, vocabulary); for each slot, one position more than its draft has
                tokens, one slot after the other. Changed in place.
            slots: those that were read; beyond those in use, other texts beside them.
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
            choose = self._by_logits(logits, positions, texts, rough)
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
            sequence = self.sequences.in_row(slot)
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
        sequence, accepted, tested = self.sequences.in_row(slot), 0, 0
        for step, drafted in enumerate([*draft.tokens, None]):
            choice = choose(first + step, slot, draft, step)
            tested += drafted is not None
            accepted += choice.token == drafted
            if self._takes_back(sequence, choice):
                break
            self._add(sequence, choice.token, choice.log_prob)
            if self.sequences.done[sequence] or choice.token != drafted:
                break
        return accepted, tested

    def _add(self, sequence: int, token: int, log_prob: float) -> None:
        self.sequences.add(sequence, token, log_prob, self.on_loop == "end")

    def _takes_back(self, sequence: int, choice: Choice) -> bool:
        """Whether this token ended a boosted beginning, which is then undone."""
        if self.boosts is None:
            return False
        generated, log_prob = self.sequences.tokens[sequence], self.sequences.log_prob[sequence]
        back = self.boosts.note(sequence, generated, choice, log_prob)
        if back is None:
            return False
        self.report.taken_back += 1
        if self.beside is not None and self.beside.replaces(sequence):
            return True
        self.sequences.cut(sequence, back.length, back.log_prob)
        if back.plain is not None:  # else the token before it is read again
            self._add(sequence, *back.plain)
        return True

    def _by_logits(self, logits: Tensor, positions: Sequence[tuple[int, int]],
                   texts: Sequence[Sequence[int]], rough: RoughLogits | None) -> Choose:
        """The largest logit, with noise added where sampling is coupled."""
        found = self._two_best(logits, positions, texts, rough)
        near = near_ties.thresholds(self.target, logits, found.tokens)
        may_differ = self.has_drafted and not self.target.int8

        def choose(index: int, slot: int, draft: Draft, step: int) -> Choice:
            choice = found.of(index)
            if may_differ and found.plain_gaps[index] < near[index]:
                choice = choice._replace(plain=None)
            if may_differ and found.gaps[index] < near[index]:
                token, is_boosted = self._near_tie(slot, found, index)
                log_prob = found.log_probs[index][token == found.tokens[index][1]]
                choice = Choice(token, log_prob, is_boosted)
            return choice

        return choose

    def _by_rejection(self, logits: Tensor) -> Choose:
        """Rejection sampling (`Sampling.decide`)."""
        probabilities, log_probs = self.sampling.probabilities(logits), logits.log_softmax(-1)

        def choose(index: int, slot: int, draft: Draft, step: int) -> Choice:
            sequence, drafted, drawn_from = self.sequences.in_row(slot), None, None
            if step < len(draft.tokens):
                drafted = draft.tokens[step]
                drawn_from = draft.probabilities[step] if draft.probabilities else None
            position = len(self.sequences.tokens[sequence])
            token = self.sampling.decide(
                probabilities[index], drawn_from, drafted, sequence, position)
            return Choice(token, float(log_probs[index, token]))

        return choose

    def _two_best(self, logits: Tensor, positions: Sequence[tuple[int, int]],
                  texts: Sequence[Sequence[int]], rough: RoughLogits | None) -> _Best:
        """The two best tokens of each position, boosts and noise included.

        Args:
            positions: (sequence, number of generated tokens before) of each.
            texts: these tokens.
        """
        noise = None
        if self.sampling is not None:
            origin = self.sequences.origin
            noise = self.sampling.noise([(origin[s], at) for s, at in positions], logits)
        noisy = logits if noise is None else logits + noise
        plain = best = TwoBest.of(noisy)
        if self.boosts is not None:
            best = self.boosts.two_best(noisy, plain, positions, texts, rough)
        asked = torch.tensor([[*one, two[0]] for one, two in
                              zip(best.tokens, plain.tokens, strict=True)], device=logits.device)
        # probabilities are those of the model itself
        log_probs = logits.gather(1, asked) - logits.logsumexp(-1, keepdim=True)
        # what rounding may change: the choice, or whether the boost made it
        gaps = [min(gap, other) if one[0] in two else gap for one, two, gap, other in
                zip(best.tokens, plain.tokens, best.gaps(), plain.gaps(), strict=True)]
        return _Best(best.tokens, gaps, log_probs.tolist(), [one for one, _ in plain.tokens],
                     plain.gaps())

    def _near_tie(self, slot: int, found: _Best, index: int) -> tuple[int, bool]:
        """List a near tie; the token to take, and whether a boost chose it."""
        generated = self.sequences.tokens[self.sequences.in_row(slot)]
        token, _, is_boosted, _ = found.of(index)
        if self.exact:
            token, is_boosted = self._plain_choice(slot)
        first, second = found.tokens[index]
        self.report.near_ties.append(
            NearTie(tuple(generated), (first, second), found.gaps[index], token, self.exact))
        return token, is_boosted

    def _plain_choice(self, slot: int) -> tuple[int, bool]:
        """The next token as plain decoding of the sequence alone would choose it."""
        sequence = self.sequences.in_row(slot)
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
        found = self._two_best(logits, [(sequence, len(generated))], [generated], rough).of(0)
        return found.token, found.is_boosted


@dataclass
class _Best:
    """Of each position: the two best tokens, the gap between them, log probabilities (without
    boosts and noise) of them and of the best token without boosts, that token, and by how much it
    is the best."""

    tokens: list[list[int]]
    gaps: list[float]
    log_probs: list[list[float]]
    plain: list[int]
    plain_gaps: list[float]

    def of(self, index: int) -> Choice:
        token, plain = self.tokens[index][0], self.plain[index]
        log_prob, _, of_plain = self.log_probs[index]
        return Choice(token, log_prob, token != plain, (plain, of_plain))
