"""Prompts of the sequences of one call, and the languages that the model detects."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.whisper.decoding.cache import Cache
from distill.whisper.decoding.decoder import Decoder
from distill.whisper.special import SpecialTokens

AUTO = "auto"  # the language is detected


class Prompts:
    """Makes prompts when sequences begin.

    Args:
        target: detects languages.
        task: `transcribe` or `translate`.
        timestamps: whether the model may write them.
        previous: text tokens before each sequence; [] for none.
        languages: of each sequence; `auto` where it is to be detected.
        detect_all: detect the languages also of sequences whose language is known.

    Attributes:
        detected: (language, its probability) of each sequence; (None, None) without detection.
    """

    def __init__(
        self, target: Decoder, special: SpecialTokens, task: str, timestamps: bool,
        previous: Sequence[Sequence[int]], languages: Sequence[str | None], detect_all: bool,
    ):
        self.target, self.special, self.task, self.timestamps = target, special, task, timestamps
        self.previous, self.languages, self.detect_all = previous, list(languages), detect_all
        self.detected: list[tuple[str | None, float | None]] = [(None, None)] * len(languages)

    def __call__(self, sequences: Sequence[int], cache: Cache) -> list[list[int]]:
        """Prompts of some sequences, whose audio is in this cache."""
        if self.detect_all or any(self.languages[s] == AUTO for s in sequences):
            found = detect_languages(self.target, self.special, cache, len(sequences))
            for s, (language, probability) in zip(sequences, found, strict=True):
                self.detected[s] = language, probability
                if self.languages[s] == AUTO:
                    self.languages[s] = language
        return [[*self.special.prompt(self.previous[s], self.target.context),
                 *self.special.prefix(self.languages[s], self.task, self.timestamps)]
                for s in sequences]


def detect_languages(
    target: Decoder, special: SpecialTokens, cache: Cache, count: int
) -> list[tuple[str, float]]:
    """The likeliest language of each sequence, and its probability among the languages.

    The model reads nothing but `<|startoftranscript|>` (arXiv:2212.04356 sec. 2.3).
    """
    start = torch.full((count, 1), special.start, device=target.embeddings.device)
    logits = target.logits(target(start, [0] * count, cache)[:, 0])
    names = list(special.languages)
    of_languages = logits[:, [special.languages[name] for name in names]]
    best, index = of_languages.softmax(-1).max(-1)
    return [(names[i].strip("<|>"), probability)
            for i, probability in zip(index.tolist(), best.tolist(), strict=True)]
