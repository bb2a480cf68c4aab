"""The sequences of a call: generated tokens, limits, loops, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A sequence loops when its last `n` tokens occur this often, one after the other: short patterns
# occur in real speech ("no, no, no"), long ones do not.
_LOOP_REPEATS = {1: 10, 2: 8, 3: 6, 4: 4} | dict.fromkeys(range(5, 41), 3)
_MAX_BREAKS = 3  # loops broken in a text; the next one ends it


@dataclass
class Hypothesis:
    """The text of a window.

    Attributes:
        tokens: ids without prompt and end of text; timestamps included.
        avg_logprob: mean log-probability (nats) over the tokens and the end of text; None where
            another system wrote the text and does not say.
        no_speech_prob: probability of `<|nospeech|>` at the first position; None as before.
        truncated: the token limit came before the end of text.
        looped: it repeated itself; the sequence was ended, or the loop was broken.
        language, language_prob: the detected language and its probability; None if not asked for.
        temperature: of sampling; 0 takes the likeliest tokens.
    """

    tokens: list[int]
    avg_logprob: float | None
    no_speech_prob: float | None
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


class Sequences:
    """The sequences of one call: what was generated, and which are done.

    Args:
        limits: most tokens of each.
        end: id of the end of text.

    Attributes:
        prompts: of each sequence; [] before it begins.
        tokens: generated so far, end of text included.
        slots: the sequence in each batch slot, the first slots of the caches.
    """

    def __init__(self, limits: list[int], end: int):
        count = len(limits)
        self.end = end
        self.prompts: list[list[int]] = [[] for _ in range(count)]
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.slots: list[int] = []
        self.log_prob = [0.0] * count
        self.limits = limits
        self.done = [False] * count
        self.truncated = [False] * count
        self.looped = [False] * count
        self.breaks = [0] * count

    def begin(self, number: int, prompt: list[int], context: int) -> None:
        """Give a sequence its prompt; both together fit the model's context."""
        self.prompts[number] = prompt
        self.limits[number] = min(self.limits[number], context - len(prompt))

    def with_prompt(self, number: int) -> list[int]:
        return self.prompts[number] + self.tokens[number]

    def length(self, number: int) -> int:
        """Tokens of the prompt and generated tokens."""
        return len(self.prompts[number]) + len(self.tokens[number])

    def add(self, number: int, token: int, log_prob: float, end_loops: bool) -> None:
        """Add a generated token; `end_loops` ends a sequence that repeats itself."""
        self.log_prob[number] += log_prob
        self.tokens[number].append(token)
        if token == self.end:
            self.done[number] = True
        elif len(self.tokens[number]) >= self.limits[number]:
            self.done[number] = self.truncated[number] = True
        elif ((end_loops or self.breaks[number] == _MAX_BREAKS)
              and is_looping(self.tokens[number])):
            self.done[number] = self.looped[number] = True

    def cut(self, number: int, length: int, log_prob: float) -> None:
        """Go back to the first `length` tokens, whose log probabilities sum to `log_prob`."""
        del self.tokens[number][length:]
        self.log_prob[number] = log_prob

    def break_loop(self, number: int, logits: Tensor) -> None:
        """Forbid, in place, the token that would continue a loop; logits (vocabulary,)."""
        size = loop_size(self.tokens[number])
        if size and not self.done[number]:
            logits[self.tokens[number][-size]] = -torch.inf
            self.looped[number] = True
            self.breaks[number] += 1

    def hypotheses(self, no_speech: list[float]) -> list[Hypothesis]:
        result = []
        for number, tokens in enumerate(self.tokens):
            text = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
            scored = len(text) + (self.end in tokens and not self.truncated[number])
            result.append(
                Hypothesis(
                    tokens=text,
                    avg_logprob=self.log_prob[number] / max(scored, 1),
                    no_speech_prob=no_speech[number],
                    truncated=self.truncated[number],
                    looped=self.looped[number],
                )
            )
        return result
