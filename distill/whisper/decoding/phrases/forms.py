"""The forms in which a phrase may stand in a text, as tokens.

Whisper's tokens hold the space before a word, so a phrase has other tokens inside a sentence
(` Moskowitz`: ` Mos`, `k`, `owitz`) than behind a quotation mark (`M`, `os`, `k`, `owitz`), and
others again in capitals. Its forms are: as written, lower case, upper case, and each word with a
capital. They are kept, because many lists hold the same phrases.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

LETTERS = 6  # of a word that gets the whole boost; shorter words are met by chance more often
_SPACE = "\u0120"  # how byte-level tokens write it
_OPENING = tuple("\"'([{-/")  # a word may follow these without a space
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_MOST_KEPT = 20_000  # phrases of a tokenizer, of 3 kB each


class Form(NamedTuple):
    """One form of a phrase.

    Attributes:
        text: with the space before it.
        tokens: ids.
        shares: of the boost, for each token: less in short words.
        is_free: it may stand anywhere: behind a space, or in a script without spaces.
        is_whole: nothing has to come behind it: the script has no spaces.
    """

    text: str
    tokens: tuple[int, ...]
    shares: tuple[float, ...]
    is_free: bool
    is_whole: bool


class Kinds(NamedTuple):
    """Tokens that go on with a word, that a word may follow without a space, and that begin with
    one."""

    joins: frozenset[int]
    opens: frozenset[int]
    spaced: frozenset[int]


_LOCK = Lock()
_FORMS: WeakKeyDictionary = WeakKeyDictionary()  # {tokenizer: {phrase: forms}}, the oldest first
_KINDS: WeakKeyDictionary = WeakKeyDictionary()  # {tokenizer: kinds}


def forms_of(tokenizer, phrases: Sequence[str]) -> dict[str, Form]:
    """{text: form} of all phrases, none of which is blank.

    Raises:
        ValueError: a phrase has a special token in it.
    """
    with _LOCK:
        kept = _FORMS.setdefault(tokenizer, {})
        found = {phrase: kept.pop(phrase, None) for phrase in phrases}
        kept |= {phrase: forms for phrase, forms in found.items() if forms}  # the last asked for
    found |= _tokenised(tokenizer, [phrase for phrase, forms in found.items() if not forms])
    with _LOCK:
        kept |= found
        for phrase in [*islice(kept, max(len(kept) - _MOST_KEPT, 0))]:
            del kept[phrase]
    return {form.text: form for forms in found.values() for form in forms}


def kinds_of(tokenizer) -> Kinds:
    """Read once for each tokenizer."""
    if tokenizer not in _KINDS:
        _KINDS[tokenizer] = _classified(tokenizer)
    return _KINDS[tokenizer]


def _tokenised(tokenizer, phrases: Sequence[str]) -> dict[str, list[Form]]:
    texts = [(phrase, text) for phrase in phrases for text in _texts(phrase)]
    if not texts:
        return {}
    ids = tokenizer([text for _, text in texts], add_special_tokens=False).input_ids
    special, spaced = set(tokenizer.all_special_ids), kinds_of(tokenizer).spaced
    found: dict[str, list[Form]] = {}
    for (phrase, text), tokens in zip(texts, ids, strict=True):
        if special.intersection(tokens):
            raise ValueError(f"phrases cannot hold special tokens, got {text.strip()!r}")
        is_free = text[0] == " " or is_unspaced(phrase[0])
        found.setdefault(phrase, []).append(Form(
            text, tuple(tokens), _shares(text.split(), tokens, spaced), is_free,
            is_unspaced(text[-1])))
    return found


def _texts(phrase: str) -> list[str]:
    written = dict.fromkeys((phrase, phrase.lower(), phrase.upper(), _title(phrase)))
    spaces = ("",) if is_unspaced(phrase[0]) else ("", " ")
    return [space + text for text in written for space in spaces]


def _shares(words: Sequence[str], tokens: Sequence[int], spaced: frozenset[int]
            ) -> tuple[float, ...]:
    """Of the boost: by the letters of the word that each token is in."""
    of_words = [min(1.0, max(sum(map(str.isalnum, word)), 1)
                    / (2 if is_unspaced(word[0]) else LETTERS)) for word in words]
    found, word = [], -1
    for count, token in enumerate(tokens):
        if count == 0 or token in spaced:
            word = min(word + 1, len(words) - 1)
        found.append(of_words[word])
    return tuple(found)


def _classified(tokenizer) -> Kinds:
    joins, opens, spaced = set(), set(), set()
    special = set(tokenizer.all_special_ids)
    for text, token in tokenizer.get_vocab().items():
        if text.startswith(_SPACE):
            spaced.add(token)
        if not text or token in special or text.startswith("<|"):
            continue
        if text[0].isascii() and text[0].isalnum():
            joins.add(token)
        elif not text[0].isascii() and not text.startswith(_SPACE):
            first = tokenizer.decode([token])[:1]  # of a part of a character: U+FFFD
            if first == "\ufffd" or (first.isalnum() and not is_unspaced(first)):
                joins.add(token)
        if text.endswith(_OPENING):
            opens.add(token)
    return Kinds(frozenset(joins), frozenset(opens), frozenset(spaced))


def _title(phrase: str) -> str:
    """Not `str.title`, which knows no apostrophes."""
    return " ".join(word[0].upper() + word[1:] for word in phrase.split())


def is_unspaced(character: str) -> bool:
    """Whether it is of a script without spaces between words."""
    return not character.isascii() and unicodedata.name(character, "").startswith(_UNSPACED)
