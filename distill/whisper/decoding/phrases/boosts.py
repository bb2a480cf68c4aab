"""The use of lists of phrases in a call: what is added to the logits, and what is taken back.

A token gets its boost while it begins or goes on with a phrase. Greedy decoding keeps one text, so
a boosted beginning whose phrase does not come must be undone: the text goes back to the first token
that the boost chose, and goes on with the one that was best without. So a broken beginning gains
nothing: what stays of a boost are whole phrases, with the end of a word behind them. (Beam search
subtracts what a beginning has gained, which needs other beams to go on with.)

Boosts and what is taken back follow from the tokens and the target model's choices alone, never
from drafts: with drafts the text is that of plain decoding with the same list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from distill.whisper.decoding.output.largest import largest
from distill.whisper.decoding.output.shortlist import RoughLogits
from distill.whisper.decoding.phrases.raised import Raised, reaching
from distill.whisper.decoding.phrases.trie import END, NO_END, PhraseList

_CLEAR = 2.0  # logits; near ties are far nearer (`decoding.near_ties`)


class Choice(NamedTuple):
    """A token that the target model has chosen.

    Attributes:
        log_prob: nats, of the model without boosts.
        is_boosted: it was chosen because of its boost.
        plain: (token, log probability) that it would have chosen without; None where it is not
            known for sure.
    """

    token: int
    log_prob: float
    is_boosted: bool = False
    plain: tuple[int, float] | None = None


class Back(NamedTuple):
    """What a text goes back to: its first `length` tokens, whose log probabilities sum to
    `log_prob` (nats), and behind them the token that is the best without boosts, if it is known."""

    length: int
    log_prob: float
    plain: tuple[int, float] | None


@dataclass(frozen=True)
class _Debt:
    """A choice of the boost, up to the end of its phrase.

    Attributes:
        back: what the text goes back to if the phrase does not come.
        has_ended: the phrase would be whole if the word ended here.
    """

    back: Back
    has_ended: bool = False


@dataclass
class TwoBest:
    """Of each position the two best tokens, and their logits."""

    tokens: list[list[int]]
    values: list[list[float]]

    @classmethod
    def of(cls, logits: Tensor) -> TwoBest:
        values, tokens = largest(logits, 2)
        return cls(tokens.tolist(), values.tolist())

    def with_changed(self, rows: dict[int, list[tuple[int, float]]]) -> TwoBest:
        """Others (token, logit) in some positions."""
        tokens, values = list(self.tokens), list(self.values)
        for row, two in rows.items():
            tokens[row], values[row] = [token for token, _ in two], [value for _, value in two]
        return TwoBest(tokens, values)

    def gaps(self) -> list[float]:
        return [first - second for first, second in self.values]


class Boosts:
    """Boosts of the sequences of a call.

    Args:
        lists: of each sequence; None for none.
        begin: id of the first timestamp.
        end: id of the end of text.
    """

    def __init__(self, lists: Sequence[PhraseList | None], begin: int, end: int):
        self.lists, self.begin, self.end = list(lists), begin, end
        self._debts: list[_Debt | None] = [None] * len(lists)
        self._plain: list[set[int]] = [set() for _ in lists]  # lengths after which nothing is added

    def add(self, logits: Tensor, sequences: Sequence[int], texts: Sequence[Sequence[int]],
            lengths: Sequence[int]) -> None:
        """Add boosts in place, for drafts.

        Args:
            logits: (positions, vocabulary); rules have been applied.
            sequences: of each position.
            texts: tokens of each position's sequence, without the prompt.
            lengths: how many of these tokens come before each position.
        """
        before = logits.clone()  # what begins a phrase and goes on with one is raised once
        many, few = self._raised(sequences, texts, lengths, logits.device)
        for each in (*many, *few):
            rows, tokens, bonus = each.tensors()
            logits[rows, tokens] = before[rows, tokens] + bonus.to(logits)

    def two_best(self, logits: Tensor, plain: TwoBest, positions: Sequence[tuple[int, int]],
                 texts: Sequence[Sequence[int]], rough: RoughLogits | None = None) -> TwoBest:
        """Two best tokens of each position with boosts, which only raise logits: they are among
        the two best without and the two best of those that are raised. A raised one that stays far
        below the best may be missing: it changes neither a choice nor a near tie.

        Args:
            logits: (positions, vocabulary) of the target model, with noise if there is any.
            plain: the two best without boosts.
            positions: (sequence, number of generated tokens before) of each.
            texts: these tokens.
            rough: where not all logits are exact: what makes those exact that decide.
        """
        many, few = self._raised([s for s, _ in positions], texts, [n for _, n in positions],
                                 logits.device, [gap - _CLEAR for gap in plain.gaps()])
        if not many and not few:
            return plain
        enough = torch.tensor([first - _CLEAR for first, _ in plain.values], device=logits.device)
        found: dict[int, dict[int, float]] = {}
        for row, token, value in reaching(many, few, logits, rough, enough):
            known = found.setdefault(
                row, dict(zip(plain.tokens[row], plain.values[row], strict=True)))
            known[token] = max(value, known.get(token, value))
        return plain.with_changed({row: sorted(each.items(), key=lambda pair: -pair[1])[:2]
                                   for row, each in found.items()})

    def _raised(
        self, sequences: Sequence[int], texts: Sequence[Sequence[int]], lengths: Sequence[int],
        device: torch.device, more_than: Sequence[float] | None = None,
    ) -> tuple[list[Raised], list[Raised]]:
        """Of all positions with one list, what begins a phrase; and of each that is inside of one,
        what goes on with it, where a token that begins one as well gets the larger boost.

        Args:
            more_than: of each position: boosts that are not larger change nothing.
        """
        roots: dict[int, Raised] = {}
        inner: list[Raised] = []
        for row, (sequence, text, length) in enumerate(
                zip(sequences, texts, lengths, strict=True)):
            names = self.lists[sequence]
            if names is None or length in self._plain[sequence]:
                continue
            about, least = (text, length, self.begin), more_than[row] if more_than else 0.0
            if names.most_first > least:
                ids, bonus = names.root(*about, device)
                roots.setdefault(id(ids), Raised([], ids, bonus)).rows.append(row)
            nodes = tuple(node for _, node in names.paths(*about)) if names.boost > least else ()
            if nodes:
                inner.append(Raised([row], *names.after(nodes, *about, device)))
        return ([each for each in roots.values() if each.tokens.shape[0]],
                [each for each in inner if each.tokens.shape[0]])

    def note(self, sequence: int, generated: Sequence[int], choice: Choice, log_prob: float
             ) -> Back | None:
        """The target model has chosen a token; it is not yet added.

        Args:
            generated: tokens before it.
            log_prob: of these tokens together, nats.

        Returns:
            what the text goes back to, and the token is not added; None: it stays.
        """
        names = self.lists[sequence]
        if names is None or not (choice.is_boosted or self._debts[sequence]):
            return None
        token, debt = choice.token, self._debts[sequence]
        if debt is not None and debt.has_ended and token not in names.joins:
            debt = None  # a whole phrase: it stays
        if debt is None and choice.is_boosted:
            debt = _Debt(Back(len(generated), log_prob, choice.plain))
        self._debts[sequence] = debt
        if debt is None:
            return None
        text = [*generated, token]
        paths = [] if token == self.end else names.paths(text, len(text), self.begin)
        nodes = [node for start, node in paths if start <= debt.back.length]
        if not nodes:
            self._take_back(sequence, debt.back.length)
            return debt.back
        ends = max(names.ends[node] for node in nodes)
        self._debts[sequence] = None if ends == END else replace(debt, has_ended=ends != NO_END)
        return None

    def open(self, sequence: int) -> Back | None:
        """What the text goes back to if the phrase that it has begun does not come; None where it
        has begun none."""
        debt = self._debts[sequence]
        return None if debt is None else debt.back

    def split(self, sequence: int, length: int) -> None:
        """The next sequence is what this one is once it has gone back to its first `length`
        tokens."""
        self.lists.append(self.lists[sequence])
        self._debts.append(None)
        self._plain.append(self._plain[sequence])
        self._take_back(len(self.lists) - 1, length)

    def take(self, sequence: int, other: int) -> None:
        """A sequence goes on with another text of its audio."""
        self._debts[sequence], self._plain[sequence] = self._debts[other], self._plain[other]

    def _take_back(self, sequence: int, length: int) -> None:
        kept = {each for each in self._plain[sequence] if each < length}
        self._plain[sequence] = kept | {length}
        self._debts[sequence] = None
