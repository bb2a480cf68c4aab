"""A list of phrases as a trie of tokens.

    names = PhraseList(tokenizer, read_phrases("names.txt"))
    decoder = WhisperDecoder(model, tokenizer, "en", phrases=names)

The trie has all forms of each phrase (`decoding.phrases.forms`).

A beginning that does not go on is undone, which costs steps of the decoder. So a token that begins
a phrase gets half of the boost at most, and the less the less it says for one: ` the` begins one of
10,000 surnames (Theroux), and much oftener it is a word. What it says is the logarithm of how often
it begins a phrase of the list over how often it comes at all. Tokens of byte-level BPE are numbered
by how frequent they are, and by Zipf's law the frequency is about one over the number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import log

import torch
from torch import Tensor

from distill.whisper.decoding.phrases.forms import LETTERS, Form, forms_of, kinds_of

# chosen on the validation split of recipes/demo-prompted
BOOST = 6.0
_MOST = 0.5  # of the boost that a beginning gets
_SAID, _SAYS = 0.1, 1 / 6  # the same at odds of 1, and more for each nat
NO_END, WORD_END, END = range(3)  # whether a phrase ends, and if only where a word does
_KEPT = 10_000  # places in a list whose boosts are kept as tensors
_BYTES = 256  # tokens of single bytes: their numbers say nothing
# what texts with a list depend on beside the list and its boost, for keys of texts that are kept;
# the first number is raised where something changes that the others do not say
RULE = (1, _MOST, _SAID, _SAYS, _BYTES, LETTERS)


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
        self.most_first = 0.0  # that is added to a token that begins a phrase
        self.joins = self.opens = frozenset[int]()  # `Kinds`
        self._bare: set[int] = set()  # first tokens that need a beginning or an opening before them
        if self.phrases:
            self._add_all(tokenizer)
            self.joins, self.opens, _ = kinds_of(tokenizer)
        self._tensors: dict[tuple, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.phrases)

    def _add_all(self, tokenizer) -> None:
        forms = forms_of(tokenizer, self.phrases)
        for form in forms.values():
            self._add(form)
        self.num_tokens = max(len(form.tokens) for form in forms.values())
        self.bonus = [self.boost * share for share in self.bonus]
        first = Counter(form.tokens[0] for form in forms.values())
        self._bare = {*first} - {form.tokens[0] for form in forms.values() if form.is_free}
        for token, node in self.children[0].items():
            odds = first[token] / len(self.phrases) * max(token, _BYTES)
            self.bonus[node] *= min(_MOST, max(0.0, _SAID + _SAYS * log(odds)))
        self.most_first = max(self.bonus[node] for node in self.children[0].values())

    def _add(self, form: Form) -> None:
        """With shares of the boost as what is added."""
        children, bonus, node = self.children, self.bonus, 0
        for token, share in zip(form.tokens, form.shares, strict=True):
            after = children[node].get(token)
            if after is None:
                after = children[node][token] = len(children)
                children.append({})
                bonus.append(share)
                self.ends.append(NO_END)
            elif bonus[after] < share:
                bonus[after] = share
            node = after
        self.ends[node] = END if form.is_whole else max(self.ends[node], WORD_END)

    def paths(self, tokens: Sequence[int], length: int, begin: int) -> list[tuple[int, int]]:
        """(where it began, node) of each phrase that the first `length` tokens are inside of or
        have just ended.

        Args:
            begin: id of the first timestamp: no phrase goes over one.
        """
        found, children = [], self.children
        for start in range(length - 1, max(length - self.num_tokens, 0) - 1, -1):
            token = tokens[start]
            if token >= begin:
                break
            node, at = children[0].get(token, 0), start + 1
            while node and at < length:
                node, at = children[node].get(tokens[at], 0), at + 1
            if node and (token not in self._bare or self._may_begin(tokens, start, begin)):
                found.append((start, node))
        return found

    def root(self, tokens: Sequence[int], length: int, begin: int,
             device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens that begin a phrase after the first `length` tokens, and what is added to each."""
        bare = self._may_begin(tokens, length, begin)
        return self._kept(((), bare, device), lambda: {
            token: bonus for token in self.children[0] if (bonus := self._first(token, bare))})

    def after(self, nodes: tuple[int, ...], tokens: Sequence[int], length: int, begin: int,
              device: torch.device) -> tuple[Tensor, Tensor]:
        """The same of tokens that go on with a phrase, inside of which the first `length` tokens
        are at these nodes; one that begins a phrase as well gets the larger boost."""
        bare = self._may_begin(tokens, length, begin)
        return self._kept((nodes, bare, device), lambda: self._going_on(nodes, bare))

    def _going_on(self, nodes: tuple[int, ...], bare: bool) -> dict[int, float]:
        found: dict[int, float] = {}
        for node in nodes:
            for token, after in self.children[node].items():
                found[token] = max(found.get(token, 0.0), self.bonus[after],
                                   self._first(token, bare))
        return found

    def _first(self, token: int, bare: bool) -> float:
        """What is added to a token because it begins a phrase."""
        if token in self._bare and not bare:
            return 0.0
        return self.bonus[self.children[0].get(token, 0)]

    def _kept(self, key: tuple, made: Callable[[], dict[int, float]]) -> tuple[Tensor, Tensor]:
        """Token ids and what is added, made once for each key, the last of which is a device."""
        if key not in self._tensors:
            if len(self._tensors) >= _KEPT:
                self._tensors.clear()
            found = made()
            self._tensors[key] = (torch.tensor(list(found), dtype=torch.long, device=key[-1]),
                                  torch.tensor(list(found.values()), device=key[-1]))
        return self._tensors[key]

    def _may_begin(self, tokens: Sequence[int], at: int, begin: int) -> bool:
        return at == 0 or tokens[at - 1] >= begin or tokens[at - 1] in self.opens
