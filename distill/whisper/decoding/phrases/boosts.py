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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from distill.whisper.decoding.output.largest import largest
from distill.whisper.decoding.output.shortlist import RoughLogits
from distill.whisper.decoding.phrases.trie import END, NO_END, PhraseList


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
        self.lists, self.begin, self.end = lists, begin, end
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
        for rows, tokens, bonus in self._raised(sequences, texts, lengths, logits.device):
            logits[rows, tokens] = before[rows, tokens] + bonus.to(logits)

    def two_best(self, logits: Tensor, plain: TwoBest, positions: Sequence[tuple[int, int]],
                 texts: Sequence[Sequence[int]], rough: RoughLogits | None = None) -> TwoBest:
        """Two best tokens of each position with boosts, which only raise logits: they are among
        the two best without and the two best of those that are raised.

        Args:
            logits: (positions, vocabulary) of the target model, with noise if there is any.
            plain: the two best without boosts.
            positions: (sequence, number of generated tokens before) of each.
            texts: these tokens.
            rough: where not all logits are exact: what makes those exact that decide.
        """
        found = [dict(zip(*each, strict=True))
                 for each in zip(plain.tokens, plain.values, strict=True)]
        least = torch.tensor([values[1:] for values in plain.values], device=logits.device)
        for rows, tokens, bonus in self._raised([s for s, _ in positions], texts,
                                                [n for _, n in positions], logits.device):
            if rough is not None:
                rough.refine_raised(logits, rows, tokens, bonus, least[rows[:, 0]])
            values, at = (logits[rows, tokens] + bonus).topk(min(2, tokens.shape[1]))
            best = tokens[0][at]
            for row, *each in zip(rows[:, 0].tolist(), best.tolist(), values.tolist(),
                                  strict=True):
                for token, value in zip(*each, strict=True):
                    found[row][token] = max(value, found[row].get(token, value))
        ordered = [sorted(each.items(), key=lambda pair: -pair[1])[:2] for each in found]
        return TwoBest([[token for token, _ in each] for each in ordered],
                       [[value for _, value in each] for each in ordered])

    def _raised(
        self, sequences: Sequence[int], texts: Sequence[Sequence[int]], lengths: Sequence[int],
        device: torch.device,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(positions (n, 1), token ids (1, m), what is added (1, m)) of all positions with one
        list; then of each that is inside of a phrase, where a token that begins one as well gets
        the larger boost."""
        roots: dict[int, tuple[Tensor, Tensor, list[int]]] = {}
        inner: dict[int, dict[int, float]] = {}
        for row, (sequence, text, length) in enumerate(
                zip(sequences, texts, lengths, strict=True)):
            names = self.lists[sequence]
            if names is None or length in self._plain[sequence]:
                continue
            ids, bonus = names.root(text, length, self.begin, device)
            if len(ids):
                roots.setdefault(id(ids), (ids, bonus, []))[2].append(row)
            for _, node in names.paths(text, length, self.begin):
                found = inner.setdefault(row, {})
                for token, after in names.children[node].items():
                    first = names.first(token, text, length, self.begin)
                    found[token] = max(found.get(token, 0.0), names.bonus[after], first)
        for ids, bonus, rows in roots.values():
            yield torch.tensor(rows, device=device)[:, None], ids[None], bonus[None]
        for row, found in inner.items():
            if found:
                yield (torch.tensor([[row]], device=device),
                       torch.tensor([list(found)], device=device),
                       torch.tensor([list(found.values())], device=device))

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

    def _take_back(self, sequence: int, length: int) -> None:
        kept = {each for each in self._plain[sequence] if each < length}
        self._plain[sequence] = kept | {length}
        self._debts[sequence] = None
