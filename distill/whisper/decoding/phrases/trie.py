"""A list of phrases as a trie of tokens.

    names = PhraseList(tokenizer, read_phrases("names.txt"))
    decoder = WhisperDecoder(model, tokenizer, "en", phrases=names)

Whisper's tokens hold the space before a word, so a phrase has other tokens inside a sentence
(` Moskowitz`: ` Mos`, `k`, `owitz`) than behind a quotation mark (`M`, `os`, `k`, `owitz`), and
others again in capitals. The trie has all of these forms: as written, lower case, upper case, and
each word with a capital.

A beginning that does not go on is undone, which costs steps of the decoder. So a token that begins
a phrase gets half of the boost at most, and the less the less it says for one: ` the` begins one of
10,000 surnames (Theroux), and much oftener it is a word. What it says is the logarithm of how often
it begins a phrase of the list over how often it comes at all. Tokens of byte-level BPE are numbered
by how frequent they are, and by Zipf's law the frequency is about one over the number.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

# chosen on the validation split of recipes/demo-prompted
BOOST = 6.0
_MOST = 0.5  # of the boost that a beginning gets
_SAID, _SAYS = 0.1, 1 / 6  # the same at odds of 1, and more for each nat
NO_END, WORD_END, END = range(3)  # whether a phrase ends, and if only where a word does
_LETTERS = 6  # of a word that gets the whole boost; shorter words are met by chance more often
_BYTES = 256  # tokens of single bytes: their numbers say nothing
_OPENING = tuple("\"'([{-/")  # a word may follow these without a space
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


class PhraseList:
    """Phrases with what they add to the logits of their tokens; the same list serves many calls.

    Args:
        tokenizer: of the model.
        phrases: any number; blank ones and doubles do not count.
        boost: added to the logit (nats) of each token that goes on with a phrase; half of it or
            less to one that begins a phrase. Words of fewer than six letters get less, in
            proportion.

    Raises:
        ValueError: the boost is not positive and finite, or a phrase has a special token in it.

    Attributes:
        phrases: as written, without doubles.
    """

    def __init__(self, tokenizer, phrases: Iterable[str], boost: float = BOOST):
        if not 0 < boost < float("inf"):
            raise ValueError(f"the boost of phrases must be > 0 and finite, got {boost}")
        self.boost = boost
        self.phrases = list(dict.fromkeys(each for p in phrases if (each := " ".join(p.split()))))
        self.children: list[dict[int, int]] = [{}]  # of each node: {token: node}
        self.bonus: list[float] = [0.0]  # of the token that leads to a node
        self.ends: list[int] = [NO_END]  # of each node
        self.num_tokens = 0  # of the longest form
        self._bare: set[int] = set()  # first tokens that need a beginning or an opening before them
        self._add_all(tokenizer)
        self.joins, self.opens = _kinds(tokenizer) if self.phrases else (frozenset(), frozenset())
        self._roots: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.phrases)

    def _add_all(self, tokenizer) -> None:
        forms: dict[str, bool] = {}  # {text: whether it needs no space before it}
        for phrase in self.phrases:
            unspaced = _is_unspaced(phrase[0])
            for text in {phrase, phrase.lower(), phrase.upper(), _title(phrase)}:
                forms[text] = unspaced
                if not unspaced:
                    forms[" " + text] = False
        if not forms:
            return
        ids = tokenizer(list(forms), add_special_tokens=False).input_ids
        special = set(tokenizer.all_special_ids)
        spaced = {tokens[0] for text, tokens in zip(forms, ids, strict=True)
                  if text[0] == " " or forms[text]}
        for text, tokens in zip(forms, ids, strict=True):
            if special.intersection(tokens):
                raise ValueError(f"phrases cannot hold special tokens, got {text.strip()!r}")
            if tokens[0] not in spaced:
                self._bare.add(tokens[0])
            self._add(tokenizer, text, tokens)
        begin = Counter(tokens[0] for tokens in ids)
        for token, node in self.children[0].items():
            odds = begin[token] / len(self.phrases) * max(token, _BYTES)
            self.bonus[node] *= min(_MOST, max(0.0, _SAID + _SAYS * log(odds)))

    def _add(self, tokenizer, text: str, tokens: Sequence[int]) -> None:
        self.num_tokens = max(self.num_tokens, len(tokens))
        words, node, word = text.split(), 0, -1
        for count, token in enumerate(tokens):
            if count == 0 or tokenizer.convert_ids_to_tokens(token).startswith(_SPACE):
                word = min(word + 1, len(words) - 1)
            letters = sum(map(str.isalnum, words[word])) if words else 0
            whole = 2 if words and _is_unspaced(words[word][0]) else _LETTERS
            bonus = self.boost * min(1.0, max(letters, 1) / whole)
            after = self.children[node].get(token)
            if after is None:
                after = self.children[node][token] = len(self.children)
                self.children.append({})
                self.bonus.append(0.0)
                self.ends.append(NO_END)
            self.bonus[after] = max(self.bonus[after], bonus)
            node = after
        self.ends[node] = END if _is_unspaced(text[-1]) else max(self.ends[node], WORD_END)

    def paths(self, tokens: Sequence[int], length: int, begin: int) -> list[tuple[int, int]]:
        """(where it began, node) of each phrase that the first `length` tokens are inside of or
        have just ended.

        Args:
            begin: id of the first timestamp: no phrase goes over one.
        """
        found = []
        for start in range(length - 1, max(length - self.num_tokens, 0) - 1, -1):
            if tokens[start] >= begin:
                break
            if tokens[start] in self._bare and not self._may_begin(tokens, start, begin):
                continue
            node = 0
            for at in range(start, length):
                node = self.children[node].get(tokens[at], 0)
                if not node:
                    break
            if node:
                found.append((start, node))
        return found

    def root(self, tokens: Sequence[int], length: int, begin: int,
             device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens that begin a phrase after the first `length` tokens, and what is added to each."""
        bare = self._may_begin(tokens, length, begin)
        if (bare, device) not in self._roots:
            first = {token: self.bonus[node] for token, node in self.children[0].items()
                     if bare or token not in self._bare}
            self._roots[bare, device] = (torch.tensor(list(first), device=device),
                                         torch.tensor(list(first.values()), device=device))
        return self._roots[bare, device]

    def first(self, token: int, tokens: Sequence[int], length: int, begin: int) -> float:
        """What is added to a token because it begins a phrase."""
        if token in self._bare and not self._may_begin(tokens, length, begin):
            return 0.0
        return self.bonus[self.children[0].get(token, 0)]

    def _may_begin(self, tokens: Sequence[int], at: int, begin: int) -> bool:
        return at == 0 or tokens[at - 1] >= begin or tokens[at - 1] in self.opens


_SPACE = "\u0120"  # how byte-level tokens write it
_KINDS: WeakKeyDictionary = WeakKeyDictionary()  # of each tokenizer: they are read once


def _kinds(tokenizer) -> tuple[frozenset[int], frozenset[int]]:
    """Tokens that go on with a word, and tokens that a word may follow without a space."""
    if tokenizer not in _KINDS:
        _KINDS[tokenizer] = _classified(tokenizer)
    return _KINDS[tokenizer]


def _classified(tokenizer) -> tuple[frozenset[int], frozenset[int]]:
    joins, opens = set(), set()
    special = set(tokenizer.all_special_ids)
    for text, token in tokenizer.get_vocab().items():
        if not text or token in special or text.startswith("<|"):
            continue
        if text[0].isascii() and text[0].isalnum():
            joins.add(token)
        elif not text[0].isascii() and not text.startswith(_SPACE):
            first = tokenizer.decode([token])[:1]  # of a part of a character: U+FFFD
            if first == "\ufffd" or (first.isalnum() and not _is_unspaced(first)):
                joins.add(token)
        if text.endswith(_OPENING):
            opens.add(token)
    return frozenset(joins), frozenset(opens)


def _title(phrase: str) -> str:
    """Not `str.title`, which knows no apostrophes."""
    return " ".join(word[0].upper() + word[1:] for word in phrase.split())


def _is_unspaced(character: str) -> bool:
    """Whether it is of a script without spaces between words."""
    return unicodedata.name(character, "").startswith(_UNSPACED)
