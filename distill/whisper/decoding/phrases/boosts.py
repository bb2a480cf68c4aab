"""The use of lists of phrases in a call: what is added to the logits, and what is taken back.

A token gets its boost while it begins or goes on with a phrase. Greedy decoding keeps one text, so
a boosted beginning whose phrase does not come must be undone: the text goes back to the first token
that the boost chose, which is then chosen without one. So a broken beginning gains nothing: what
stays of a boost are whole phrases, with the end of a word behind them. (Beam search
subtracts what a beginning has gained, which needs other beams to go on with.)

Boosts and what is taken back follow from the tokens and the target model's choices alone, never
from drafts: with drafts the text is that of plain decoding with the same list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.whisper.decoding.phrases.trie import END, NO_END, PhraseList


@dataclass
class _Debt:
    """A choice of the boost, up to the end of its phrase.

    Attributes:
        length: tokens before it.
        log_prob: of these tokens, nats.
        has_ended: the phrase would be whole if the word ended here.
    """

    length: int
    log_prob: float
    has_ended: bool = False


@dataclass
class Applied:
    """Boosted logits, and how to restore them.

    Attributes:
        best: (positions, 2) best tokens without boosts.
        gaps: between their logits.
    """

    logits: Tensor
    changed: list[tuple[Tensor, Tensor]]
    best: list[list[int]]
    gaps: list[float]

    def restore(self) -> None:
        """Give the logits the bits that they had."""
        flat = self.logits.view(-1)
        for index, before in self.changed:
            flat[index] = before


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
        self.taken_back = 0

    def add(self, logits: Tensor, sequences: Sequence[int], texts: Sequence[Sequence[int]],
            lengths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Add boosts in place.

        Args:
            logits: (positions, vocabulary), contiguous; rules have been applied.
            sequences: of each position.
            texts: tokens of each position's sequence, without the prompt.
            lengths: how many of these tokens come before each position.

        Returns:
            (flat index, value before) of the logits that were changed.
        """
        size, flat, device = logits.shape[1], logits.view(-1), logits.device
        roots: dict[int, tuple[Tensor, Tensor, list[int]]] = {}
        index, values = [], []
        for row, (sequence, text, length) in enumerate(
                zip(sequences, texts, lengths, strict=True)):
            names = self.lists[sequence]
            if names is None or length in self._plain[sequence]:
                continue
            ids, bonus = names.root(text, length, self.begin, device)
            roots.setdefault(id(ids), (ids, bonus, []))[2].append(row)
            inner: dict[int, float] = {}
            for _, node in names.paths(text, length, self.begin):
                for token, after in names.children[node].items():
                    first = names.first(token, text, length, self.begin)
                    inner[token] = max(inner.get(token, 0.0), names.bonus[after], first)
            index += [row * size + token for token in inner]
            values += inner.values()
        changed, boosted = [], []
        for ids, bonus, rows in roots.values():
            at = (torch.tensor(rows, device=device)[:, None] * size + ids).view(-1)
            changed.append((at, flat[at]))
            boosted.append(changed[-1][1] + bonus.repeat(len(rows)))
        if index:
            at = torch.tensor(index, device=device)
            changed.append((at, flat[at]))
            boosted.append(changed[-1][1] + torch.tensor(values, device=device))
        for (at, _), value in zip(changed, boosted, strict=True):
            flat[at] = value.to(flat)
        return changed

    def apply(self, logits: Tensor, positions: Sequence[tuple[int, int]],
              texts: Sequence[Sequence[int]], noise: Tensor | None) -> Applied:
        """`add`, for the target model; (sequence, tokens before it) of each position."""
        values, tokens = (logits if noise is None else logits + noise).topk(2)
        gaps = (values[:, 0] - values[:, 1]).tolist()
        changed = self.add(logits, [s for s, _ in positions], texts, [n for _, n in positions])
        return Applied(logits, changed, tokens.tolist(), gaps)

    def note(self, sequence: int, generated: Sequence[int], token: int, log_prob: float,
             is_boosted: bool) -> tuple[int, float] | None:
        """The target model has chosen a token; it is not yet added.

        Args:
            generated: tokens before it.
            log_prob: of these tokens together, nats.
            is_boosted: it was chosen because of its boost.

        Returns:
            None, or what the text goes back to: (tokens, their log probability).
        """
        names = self.lists[sequence]
        if names is None or not (is_boosted or self._debts[sequence]):
            return None
        text, debt = [*generated, token], self._debts[sequence]
        if debt is not None and debt.has_ended and token not in names.joins:
            debt = None  # a whole phrase: it stays
        if debt is None and is_boosted:
            debt = _Debt(len(generated), log_prob)
        self._debts[sequence] = debt
        if debt is None:
            return None
        paths = [] if token == self.end else names.paths(text, len(text), self.begin)
        nodes = [node for start, node in paths if start <= debt.length]
        if not nodes:
            self._take_back(sequence, debt)
            return debt.length, debt.log_prob
        ends = max(names.ends[node] for node in nodes)
        debt.has_ended = ends != NO_END
        if ends == END:
            self._debts[sequence] = None
        return None

    def _take_back(self, sequence: int, debt: _Debt) -> None:
        kept = {length for length in self._plain[sequence] if length < debt.length}
        self._plain[sequence] = kept | {debt.length}
        self._debts[sequence] = None
        self.taken_back += 1
