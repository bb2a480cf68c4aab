"""Prompts of views: what is drawn for a window in an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from distill.data.views.draws import Prompt, generator
from distill.whisper.prompting.settings import NONE, contents_of, styles_of
from distill.whisper.prompting.words import Listed, as_list, rare_words, words_of
from distill.whisper.recipe_sections import PromptConfig


class PromptDraws:
    """Draws prompts for the windows of a corpus, each a function of (seed, window, epoch) alone;
    only the content `other` depends on the order of the windows, too.

    Args:
        rows: label rows.
        phrases: what lists are made of; None: rare words of the labels.
        previous: text before a window, "" without; of a label row.
    """

    def __init__(self, seed: int, config: PromptConfig, rows: Sequence[dict],
                 phrases: Sequence[str] | None, previous: Callable[[dict], str]):
        self.seed, self.config, self.rows, self.previous = seed, config, rows, previous
        if phrases is None:
            phrases = rare_words([row["label"] for row in rows], config.common_words)
        self.listed = Listed(phrases)
        self.styles = _Choice(styles_of(config))
        self.contents = _Choice(contents_of(config))

    def __call__(self, index: int, epoch: int) -> Prompt | None:
        """The prompt of a window; None where its view has none."""
        row = self.rows[index]
        bits = generator(self.seed, f"prompt {row['id']}", epoch)
        drawn, style, content = bits.random(3)
        if drawn >= self.config.probability:
            return None
        name, kind = self.styles(style), self.contents(content)
        text, kind = self._content(row, kind, bits)
        return Prompt(None if name == NONE else name, kind, text)

    def _content(self, row: dict, kind: str, bits: np.random.Generator) -> tuple[str, str]:
        """(what is read, its kind)."""
        if kind == "other":
            other = self.rows[int(bits.integers(len(self.rows)))]
            lists, texts = (self.contents.weights.get(name, 0.0) for name in ("words", "previous"))
            is_list = bits.random() * (lists + texts) < lists
            text = self._words(other, bits) if is_list else self.previous(other)
        elif kind == "words":
            text = self._words(row, bits)
        else:
            text = self.previous(row) if kind == "previous" else ""
        return text, kind if text else NONE

    def _words(self, row: dict, bits: np.random.Generator) -> str:
        config = self.config
        if bits.random() < config.leak_probability:
            own = list(dict.fromkeys(words_of(row["label"])))
            kept = [word for word in own if bits.random() < config.listed_probability]
            return as_list([kept[at] for at in bits.permutation(len(kept))])
        said = self.listed.find(row["label"])
        kept = [word for word in said if bits.random() < config.listed_probability]
        count = int(bits.integers(config.min_distractors, config.max_distractors + 1))
        others = distractors(self.listed.phrases, said, count, bits)
        words = [*kept, *others]
        return as_list([words[at] for at in bits.permutation(len(words))])


def distractors(phrases: Sequence[str], said: Sequence[str], count: int,
                bits: np.random.Generator) -> list[str]:
    """So many different phrases, or all there are, that a text does not have."""
    if not phrases:
        return []
    chosen = bits.permutation(len(phrases))[: count + len(said)]
    return [phrases[at] for at in chosen if phrases[at] not in said][:count]


class _Choice:
    """One of some names by weight."""

    def __init__(self, weights: dict[str, float]):
        self.weights, self.names = dict(weights), list(weights)
        sums = np.cumsum(list(weights.values()), dtype=float)
        self.ends = sums / sums[-1]

    def __call__(self, drawn: float) -> str:
        return self.names[int(np.searchsorted(self.ends, drawn, side="right"))]
