"""Error rates of listed words and of all others, and what prompts do wrong.

B-WER counts words of the reference that belong to a phrase said in it, U-WER all other words (Le et
al., arXiv:2104.02194). An inserted word counts for listed words if it is one of the list, as
published: to hear a listed word that nobody said is an error of the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb

from distill.metrics.error_rates import ErrorCounts, align, paired_bootstrap
from distill.whisper.prompting.words import Listed, words_of

ECHO = 5  # words in a row


@dataclass(frozen=True)
class Errors:
    """Of one text: listed words, all others, and both."""

    listed: ErrorCounts
    others: ErrorCounts

    @property
    def all(self) -> ErrorCounts:
        return self.listed + self.others


def errors(reference: str, text: str, said: Iterable[str], listed: Iterable[str],
           normalise: Callable[[str], str]) -> Errors:
    """Errors of a text.

    Args:
        said: phrases of the reference.
        listed: the whole list, which a wrongly inserted word may be from.
    """
    words = normalise(reference).split()
    is_said = _places(words, [normalise(phrase).split() for phrase in said])
    known = {word for phrase in listed for word in normalise(phrase).split()}
    counts = {True: dict.fromkeys(("hits", "substitutions", "deletions", "insertions"), 0)}
    counts[False] = dict(counts[True])
    at = 0
    for edit in align(" ".join(words), normalise(text)):
        name = {"equal": "hits", "substitute": "substitutions", "delete": "deletions"}.get(
            edit.kind)
        for _ in edit.reference if name else ():
            counts[is_said[at]][name] += 1
            at += 1
        for word in edit.hypothesis if edit.kind == "insert" else ():
            counts[word in known]["insertions"] += 1
    total = {key: sum(is_said) if key else len(words) - sum(is_said) for key in counts}
    return Errors(*(ErrorCounts(**counts[key], num_reference=total[key]) for key in (True, False)))


def _places(words: Sequence[str], phrases: Sequence[Sequence[str]]) -> list[bool]:
    """Which words belong to a phrase."""
    found = [False] * len(words)
    for phrase in filter(None, phrases):
        for at in range(len(words) - len(phrase) + 1):
            if list(words[at : at + len(phrase)]) == list(phrase):
                found[at : at + len(phrase)] = [True] * len(phrase)
    return found


def false_insertions(reference: str, text: str, listed: Sequence[str]) -> list[str]:
    """Phrases of the list that a text has and nobody said."""
    found = Listed(listed)
    said = set(found.find(reference))
    return [phrase for phrase in found.find(text) if phrase not in said]


def echoes(reference: str, text: str, prompt: str) -> int:
    """Runs of five words of the prompt in the text that are not in the reference."""
    def grams(of: str) -> list[tuple[str, ...]]:
        words = words_of(of.lower())
        return [tuple(words[at : at + ECHO]) for at in range(len(words) - ECHO + 1)]

    foreign = set(grams(prompt)) - set(grams(reference))
    return sum(gram in foreign for gram in grams(text))


def sign_test(before: Sequence[ErrorCounts], after: Sequence[ErrorCounts]) -> dict:
    """Texts with fewer and with more errors than before, and how likely so uneven a split is by
    chance, two-sided."""
    differences = [b.errors - a.errors for a, b in zip(before, after, strict=True)]
    better, worse = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    count = better + worse
    tail = sum(comb(count, k) for k in range(min(better, worse) + 1)) / 2**count
    return {"better": better, "worse": worse, "p_value": min(1.0, 2 * tail)}


def compared(before: Sequence[ErrorCounts], after: Sequence[ErrorCounts], samples: int) -> dict:
    """After minus before on the same texts, with a paired interval."""
    found = paired_bootstrap(before, after, samples)
    if found is None:
        return {}
    return {"difference": found.difference, "interval": found.interval,
            "p_value": found.p_value} | {"sign_test": sign_test(before, after)}
