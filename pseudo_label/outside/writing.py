"""Texts of other systems as the teacher would have written them: its tokens and timestamps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distill.data.speech.windows import UNSPACED, Window
from distill.whisper.decoding.sequences import Hypothesis, is_looping
from distill.whisper.recipe import WhisperRecipe, label_language
from distill.whisper.recognition.labelled import limits_of
from distill.whisper.special import SpecialTokens
from distill.whisper.teacher import Teacher

_STEP = 0.02  # seconds between two timestamps of Whisper
_LAST = 1500  # the timestamp of 30 s
_BESIDES = 8  # tokens of the context that a text cannot have: what steers, and the end
_MARKS = re.compile(r"<\|[^<>|]*\|>")  # servers of Whisper leave some in their texts


@dataclass(frozen=True)
class Segment:
    """A part of a text and where in the window it is said, in seconds. `logprob`: mean over its
    tokens, nats; None: not known."""

    text: str
    start: float
    end: float
    logprob: float | None = None


class Writer:
    """Turns segments into the hypothesis of a window."""

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher):
        self.recipe, self.tokenizer = recipe, teacher.processor.tokenizer
        special = SpecialTokens(self.tokenizer, teacher.model.generation_config)
        self.first_special, self.first_timestamp = special.end, special.timestamp_begin
        self.most = teacher.model.config.max_target_positions - _BESIDES

    def __call__(self, window: Window, segments: Sequence[Segment],
                 no_speech: float | None = None) -> Hypothesis:
        """
        Args:
            segments: in order; those without a text are left out.
            no_speech: probability that nobody speaks; None: not known.
        """
        language = label_language(self.recipe, window.language)
        space = "" if language in UNSPACED else " "
        tokens: list[int] = []
        counts, logprobs, last = [], [], 0
        for segment in segments:
            text = self._encode(space, segment.text)
            if not text:
                continue
            start = max(last, self._timestamp(segment.start))
            last = max(start, self._timestamp(segment.end))
            if self.recipe.pseudo_label.timestamps:
                first = self.first_timestamp
                text = [first + start, *text, first + last]
            tokens += text
            counts.append(len(text))
            logprobs.append(segment.logprob)
        limit = min(limits_of(self.recipe, [window])[0], self.most)
        is_loop = any(is_looping(tokens[:end]) for end in range(1, len(tokens) + 1))
        return Hypothesis(tokens[:limit], _mean(logprobs, counts), no_speech,
                          truncated=len(tokens) > limit, looped=is_loop)

    def _encode(self, space: str, text: str) -> list[int]:
        text = " ".join(_MARKS.sub(" ", text).split())
        if not text:
            return []
        tokens = self.tokenizer.encode(space + text, add_special_tokens=False)
        return [token for token in tokens if token < self.first_special]

    def _timestamp(self, seconds: float) -> int:
        return min(max(round(seconds / _STEP), 0), _LAST)


def _mean(logprobs: Sequence[float | None], counts: Sequence[int]) -> float | None:
    """Over tokens; None where a part has no number."""
    if not counts or any(each is None for each in logprobs):
        return None
    return sum(p * n for p, n in zip(logprobs, counts, strict=True)) / sum(counts)
