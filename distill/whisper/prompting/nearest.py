"""Which phrases of a long list a prompt should hold: those that sound like a first text.

    nearest(text, phrases, 30)      # the 30 phrases that are nearest to some part of the text

A prompt has room for some 60 names, and names that nobody said distract. A first pass without a
prompt writes a rare name wrongly, but near enough to find it again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SOUNDS = (("ph", "f"), ("ck", "k"), ("sch", "sh"), ("tch", "ch"), ("gh", "g"), ("wh", "w"),
           ("qu", "kw"), ("x", "ks"), ("q", "k"), ("w", "v"), ("z", "s"))


def nearest(text: str, phrases: Sequence[str], count: int) -> list[str]:
    """At most so many phrases, the nearest last, where a decoder reads them last.

    Near is how much of a phrase's letters, and of its rough sounds, stand in a row somewhere in the
    text, whatever the spaces (partial ratio of edit distances).
    """
    if count >= len(phrases):
        return list(phrases)
    from rapidfuzz.fuzz import partial_ratio

    letters, sounds = _letters(text), _sounds(text)

    def score(phrase: str) -> float:
        return (partial_ratio(_letters(phrase), letters)
                + partial_ratio(_sounds(phrase), sounds))

    scores = [score(phrase) for phrase in phrases]
    best = sorted(range(len(phrases)), key=lambda at: -scores[at])[:count]
    return [phrases[at] for at in reversed(best)]


def _letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.lower())
    return "".join(each for each in plain if each.isalnum())


def _sounds(text: str) -> str:
    """English letters by what they mostly stand for: consonants, and one letter for all vowels."""
    found = _letters(text)
    found = re.sub("c(?=[eiy])", "s", found)
    for written, sound in _SOUNDS:
        found = found.replace(written, sound)
    found = re.sub("c(?!h)", "k", found)
    return re.sub(r"(.)\1+", r"\1", re.sub("[aeiouy]+", "a", found))
