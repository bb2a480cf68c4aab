"""Which of a closed-ended question's options a model takes for the answer: the likeliest one.

    scores = option_scores(model, examples, states)      # a float64 array (options,) for each
    right = [bool(each) for each in chosen_right(examples, scores)]

What is scored is an option as the whole answer, its end included. Nothing is read twice: options
are read as one tree of their tokens, and of a question only what the one before it had not (where
both are about one clip, not the audio). Nothing has to be parsed, and no answer is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import AUDIO, answer_ids
from distill.audio_llm.model import AudioLlm
from distill.losses.matmul import fast_linears
from distill.progress import progress


@torch.no_grad()
def option_scores(
    model: AudioLlm, examples: Sequence[Example], states: Sequence[np.ndarray],
    tells: bool = True, description: str | None = None,
) -> list[np.ndarray]:
    """Log-probabilities (options,), in nats, of each example's options.

    Args:
        states: encoder states (frames, width) of each; no frames: no audio.
        tells: the transcript is told as text, where the model was trained so.
        description: of a bar that says how far it is; None: it is part of something that has one.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(examples)
    without_audio: dict[tuple, np.ndarray] = {}  # many are asked the same, and hear nothing
    asked = _Asked(model)
    order = sorted(range(len(examples)), key=lambda n: _clip(examples[n]))
    with fast_linears():
        for n in progress(order, len(order), description or "", "questions",
                          description is not None):
            example, told = examples[n], examples[n].spoken if tells else None
            same = (example.question, told, example.options)
            scores = None if len(states[n]) else without_audio.get(same)
            if scores is None:
                scores = asked.scores(example, states[n], told)
            if not len(states[n]):
                without_audio[same] = scores
            found[n] = scores
    return found


def _clip(example: Example) -> tuple:
    row = example.row
    return row.audio_filepath, row.offset or 0.0, row.duration


class _Asked:
    """A language model and what it has read, of which the next question's beginning is kept."""

    def __init__(self, model: AudioLlm):
        self.model = model
        self.cache = DynamicCache()  # whole, also of layers with a window: it is cut again
        self.ids: list[int] = []
        self.states = np.zeros((0, 0), dtype=np.float32)
        self.audio = torch.zeros(0)

    def scores(self, example: Example, states: np.ndarray, told: str | None) -> np.ndarray:
        """float64 (options,)."""
        model, before = self.model, self.ids
        is_same = bool(before) and np.array_equal(states, self.states)
        if not is_same:
            (self.audio,), self.states = model.hear([states]), states
        self.ids = model.sequence(example.question, len(self.audio), transcript=told).ids
        tree = _Tree.of([answer_ids(model.tokenizer, model.layout, each)
                         for each in example.options])
        hidden = self._read(_common(before, self.ids, is_same), tree)
        logits = hidden @ model.llm.get_output_embeddings().weight.T
        chances = logits.log_softmax(-1).double().cpu().numpy()
        return np.array([chances[nodes, tokens].sum() for nodes, tokens in tree.options])

    def _read(self, known: int, tree: _Tree) -> Any:
        """The last state of the question, of which so many ids are in the cache, and those of the
        tree behind it: (1 + nodes, llm_width). The cache holds the question then."""
        device, length = self.model.device, len(self.ids)
        known = min(known, length - 1)
        self._forget(known)
        ids, new = torch.tensor([self.ids + tree.ids], device=device), length - known
        sees = torch.ones(ids.shape[1] - known, ids.shape[1], dtype=torch.bool)
        sees[:new, known:] = torch.ones(new, ids.shape[1] - known, dtype=torch.bool).tril()
        sees[new:, length:] = tree.sees()
        positions = [*range(known, length), *(length + depth for depth in tree.depths)]
        embedded = self.model.embed(ids, self.audio)[:, known:]
        mask = torch.zeros(sees.shape, dtype=embedded.dtype).masked_fill(
            ~sees, torch.finfo(embedded.dtype).min)
        read = self.model.llm.base_model(
            inputs_embeds=embedded, attention_mask=mask[None, None].to(device),
            position_ids=torch.tensor([positions], device=device),
            past_key_values=self.cache, use_cache=True)
        self._forget(length)
        return read.last_hidden_state[0, new - 1 :]

    def _forget(self, kept: int) -> None:
        """Keep so many ids."""
        more = self.cache.get_seq_length() - kept
        if more > 0:
            self.cache.crop(-more)


@dataclass
class _Tree:
    """Options that begin alike share what they begin with.

    Attributes:
        ids, depths, parents: of each node; parent -1: the question.
        options: of each, rows of the states that its tokens follow (0: the question's), and its
            tokens.
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    options: list[tuple[list[int], list[int]]] = field(default_factory=list)

    @classmethod
    def of(cls, options: Sequence[Sequence[int]]) -> _Tree:
        """The last token of an option is predicted, but not read."""
        tree, places = cls(), {}
        for tokens in options:
            path = [-1]
            for depth, token in enumerate(tokens[:-1]):
                place = (path[-1], token)
                if place not in places:
                    places[place] = len(tree.ids)
                    tree.ids.append(token)
                    tree.depths.append(depth)
                    tree.parents.append(path[-1])
                path.append(places[place])
            tree.options.append(([node + 1 for node in path], list(tokens)))
        return tree

    def sees(self) -> Tensor:
        """bool (nodes, nodes): a node sees what leads to it, and itself."""
        seen = torch.eye(len(self.ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def _common(one: Sequence[int], other: Sequence[int], is_same_audio: bool) -> int:
    """How many ids both begin with."""
    for n, (mine, its) in enumerate(zip(one, other, strict=False)):
        if mine != its or (mine == AUDIO and not is_same_audio):
            return n
    return min(len(one), len(other))


def chosen(examples: Sequence[Example], scores: Sequence[np.ndarray]) -> list[str]:
    """The likeliest option of each."""
    return [example.options[int(each.argmax())]
            for example, each in zip(examples, scores, strict=True)]


def chosen_right(examples: Sequence[Example], scores: Sequence[np.ndarray]) -> np.ndarray:
    """bool (examples,): the likeliest option is the answer, or says the same."""
    return np.array([example.is_right(taken) for example, taken in
                     zip(examples, chosen(examples, scores), strict=True)], dtype=bool)


def chance(examples: Sequence[Example]) -> float:
    """Share of right answers of who guesses."""
    return float(np.mean([1 / len(set(each.means or each.options)) for each in examples]))
