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
        in_halves: its window was cut, because the text of the whole one went wrong.
    """

    tokens: list[int]
    avg_logprob: float | None
    no_speech_prob: float | None
    truncated: bool
    looped: bool
    language: str | None = None
    language_prob: float | None = None
    temperature: float = 0.0
    in_halves: bool = False


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
        beside: those that are read beside the slots: other texts of sequences there, in the order
            of the cache's rows.
        origin: of each sequence: the one of the call that it is another text of, mostly itself.
    """

    def __init__(self, limits: list[int], end: int):
        count = len(limits)
        self.end = end
        self.prompts: list[list[int]] = [[] for _ in range(count)]
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.slots: list[int] = []
        self.beside: list[int] = []
        self.origin = list(range(count))
        self.log_prob = [0.0] * count
        self.limits = limits
        self.done = [False] * count
        self.truncated = [False] * count
        self.ended = [False] * count  # because it looped
        self.breaks: list[set[int]] = [set() for _ in range(count)]  # lengths with broken loops

    def begin(self, number: int, prompt: list[int], context: int) -> None:
        """Give a sequence its prompt; both together fit the model's context."""
        self.prompts[number] = prompt
        self.limits[number] = min(self.limits[number], context - len(prompt))

    @property
    def looped(self) -> list[bool]:
        """Of each sequence: it repeated itself; it was ended, or the loop was broken."""
        return [ended or bool(breaks)
                for ended, breaks in zip(self.ended, self.breaks, strict=True)]

    @property
    def num_waiting(self) -> int:
        """Sequences that have not begun."""
        return sum(not prompt for prompt in self.prompts)

    def in_row(self, row: int) -> int:
        """The sequence in a row of a pass."""
        return self.slots[row] if row < len(self.slots) else self.beside[row - len(self.slots)]

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
        elif ((end_loops or len(self.breaks[number]) >= _MAX_BREAKS)
              and is_looping(self.tokens[number])):
            self.done[number] = self.ended[number] = True

    def cut(self, number: int, length: int, log_prob: float) -> None:
        """Go back to the first `length` tokens, whose log probabilities sum to `log_prob`."""
        del self.tokens[number][length:]
        self.log_prob[number] = log_prob
        self.breaks[number] = {at for at in self.breaks[number] if at <= length}

    def split(self, number: int, length: int, log_prob: float) -> int:
        """Another text of a sequence's audio, with the same first `length` tokens, whose log
        probabilities sum to `log_prob`; its number."""
        for each in (self.prompts, self.limits, self.done, self.truncated, self.ended,
                     self.origin, self.log_prob):
            each.append(each[number])
        self.tokens.append(list(self.tokens[number]))
        self.breaks.append(self.breaks[number])
        self.cut(len(self.tokens) - 1, length, log_prob)
        return len(self.tokens) - 1

    def take(self, number: int, other: int) -> None:
        """A sequence goes on with another text of its audio."""
        for each in (self.tokens, self.breaks, self.done, self.truncated, self.ended,
                     self.log_prob):
            each[number] = each[other]

    def break_loop(self, number: int, logits: Tensor) -> None:
        """Forbid, in place, the token that would continue a loop; logits (vocabulary,)."""
        size = loop_size(self.tokens[number])
        if size and not self.done[number]:
            logits[self.tokens[number][-size]] = -torch.inf
            self.breaks[number].add(len(self.tokens[number]))

    def hypotheses(self, no_speech: list[float]) -> list[Hypothesis]:
        """Of the call's sequences, by the probability of no speech of each."""
        result, looped = [], self.looped
        for number, tokens in enumerate(self.tokens[: len(no_speech)]):
            text = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
            scored = len(text) + (self.end in tokens and not self.truncated[number])
            result.append(
                Hypothesis(
                    tokens=text,
                    avg_logprob=self.log_prob[number] / max(scored, 1),
                    no_speech_prob=no_speech[number],
                    truncated=self.truncated[number],
                    looped=looped[number],
                )
            )
        return result
