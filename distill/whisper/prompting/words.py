"""Words and phrases: where a text has them, and which of a corpus are rare."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def words_of(text: str) -> list[str]:
    """Words as they are written; don't and Smith-Jones are one each."""
    return _WORD.findall(text)


class Listed:
    """Which phrases of a list a text has: `Listed(["van Dyck", "Moskowitz"]).find(text)`.

    Args:
        phrases: any number; capitals and punctuation do not count.
    """

    def __init__(self, phrases: Iterable[str]):
        self.phrases = list(dict.fromkeys(phrases))
        self._by_first: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for phrase in self.phrases:
            words = tuple(words_of(phrase.lower()))
            if words:
                self._by_first[words[0]].append((words, phrase))

    def find(self, text: str) -> list[str]:
        """Phrases that a text has, in its order, each once; as they are on the list."""
        words, found = words_of(text.lower()), {}
        for at, word in enumerate(words):
            for phrase, written in self._by_first.get(word, ()):
                if tuple(words[at : at + len(phrase)]) == phrase:
                    found[written] = None
        return list(found)


def rare_words(texts: Sequence[str], common: int) -> list[str]:
    """Words of some texts that are not among their commonest, as they are mostly written."""
    written: dict[str, Counter] = defaultdict(Counter)
    for text in texts:
        for word in words_of(text):
            written[word.lower()][word] += 1
    ordered = sorted(written, key=lambda word: (-written[word].total(), word))
    return [written[word].most_common(1)[0][0] for word in ordered[common:]
            if len(word) > 2 and not word.isdigit()]


def as_list(words: Sequence[str]) -> str:
    """How a list is read: "Moskowitz, van Dyck."."""
    return ", ".join(words) + "." if words else ""
