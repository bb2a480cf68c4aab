"""Inputs and results that all backends share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distill.data.speech.windows import Window
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.recipe import PseudoLabelConfig, WhisperRecipe
from distill.whisper.recognition.transcribe import token_limit


@dataclass
class Labelled:
    """The teacher's label of a window.

    Attributes:
        hypothesis: by the recipe's settings.
        second: greedy, with timestamps if the first has none, and without if it has them; None
            unless `pseudo_label.second_decoding`.
        language, language_prob: the detected language and its probability; None unless
            `pseudo_label.detect_language`.
    """

    hypothesis: Hypothesis
    second: Hypothesis | None = None
    language: str | None = None
    language_prob: float | None = None


def timestamps_of(config: PseudoLabelConfig) -> list[bool]:
    """Whether each decoding of a window writes timestamps; two with `second_decoding`."""
    return [config.timestamps] + [not config.timestamps] * config.second_decoding


def limits_of(recipe: WhisperRecipe, windows: Sequence[Window]) -> list[int]:
    """Most tokens of each window's label."""
    rate = recipe.pseudo_label.max_tokens_per_second
    return [token_limit(window.duration, rate) for window in windows]
