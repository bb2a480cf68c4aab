"""What the rows of a batch said: limits, loops, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A row loops when its last `n` tokens were said this often in a row: short patterns occur in real
# speech ("no, no, no"), long ones do not.
_LOOP_REPEATS = {1: 10, 2: 8, 3: 6, 4: 4} | dict.fromkeys(range(5, 41), 3)
_MAX_BREAKS = 3  # loops broken in a text; the next one ends it


@dataclass
class Hypothesis:
    """What a model said about a window.

    Attributes:
        tokens: ids without prompt and end of text; timestamps included.
        avg_logprob: mean log-probability (nats) over the tokens and the end of text.
        no_speech_prob: probability of `<|nospeech|>` at the first position.
        truncated: the token limit came before the end of text.
        looped: repeated itself, and was ended or made to go on.
        language, language_prob: what it was taken for, and how surely; None if nobody asked.
        temperature: it was sampled at; 0 took the likeliest tokens.
    """

    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    truncated: bool
    looped: bool
    language: str | None = None
    language_prob: float | None = None
    temperature: float = 0.0


def is_looping(tokens: Sequence[int]) -> bool:
    """Whether the end of `tokens` repeats one pattern too often."""
    return loop_size(tokens) > 0


def loop_size(tokens: Sequence[int]) -> int:
    """Length of the pattern that the end of `tokens` repeats too often; 0 if there is none."""
    for size, repeats in _LOOP_REPEATS.items():
        if len(tokens) < size * repeats:
            continue
        pattern = tokens[-size:]
        if all(
            tokens[len(tokens) - size * (k + 1) : len(tokens) - size * k] == pattern
            for k in range(1, repeats)
        ):
            return size
    return 0


class Rows:
    """Bookkeeping of a batch: what each row said and whether it is done."""

    def __init__(self, limits: list[int], end: int):
        batch = len(limits)
        self.end = end
        self.tokens: list[list[int]] = [[] for _ in range(batch)]
        self.log_prob = [0.0] * batch
        self.limits = limits
        self.done = [False] * batch
        self.truncated = [False] * batch
        self.looped = [False] * batch
        self.breaks = [0] * batch

    def add(self, row: int, token: int, log_prob: float, end_loops: bool) -> None:
        self.log_prob[row] += log_prob
        self.tokens[row].append(token)
        if token == self.end:
            self.done[row] = True
        elif len(self.tokens[row]) >= self.limits[row]:
            self.done[row] = self.truncated[row] = True
        elif (end_loops or self.breaks[row] == _MAX_BREAKS) and is_looping(self.tokens[row]):
            self.done[row] = self.looped[row] = True

    def break_loop(self, row: int, scores: Tensor) -> None:
        """Forbid, in place, the token that would go on with a loop; scores (vocabulary,)."""
        size = loop_size(self.tokens[row])
        if size and not self.done[row]:
            scores[self.tokens[row][-size]] = -torch.inf
            self.looped[row] = True
            self.breaks[row] += 1

    def hypotheses(self, no_speech: list[float]) -> list[Hypothesis]:
        result = []
        for row, tokens in enumerate(self.tokens):
            said = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
            scored = len(said) + (self.end in tokens and not self.truncated[row])
            result.append(
                Hypothesis(
                    tokens=said,
                    avg_logprob=self.log_prob[row] / max(scored, 1),
                    no_speech_prob=no_speech[row],
                    truncated=self.truncated[row],
                    looped=self.looped[row],
                )
            )
        return result
