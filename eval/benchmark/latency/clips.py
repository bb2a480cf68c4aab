"""Audio of `eval.benchmark.latency`: a split's clips, and clips of any length cut from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import load_patiently
from distill.metrics.normalize import normalizer
from distill.whisper.data.corpus import evaluation_utterances, load_clips


@dataclass(frozen=True)
class Split:
    """Clips of up to 30 s.

    Attributes:
        audios: 16 kHz mono.
        references: after the normaliser.
    """

    audios: list[np.ndarray]
    references: list[str]
    normalise: Callable[[str], str]

    @property
    def num_words(self) -> int:
        return sum(len(text.split()) for text in self.references)

    def cut(self, seconds: float, count: int, number: int = 0) -> list[np.ndarray]:
        """Clips of a length from the split's speech, one after the other; from its beginning again
        where it ends.

        Args:
            number: of the round; another one has other clips.
        """
        whole, length = np.concatenate(self.audios), round(seconds * SAMPLE_RATE)
        first = number * count * length
        places = np.arange(first, first + count * length) % len(whole)
        return list(whole[places].reshape(count, length))


def load_split(manifests: Sequence[str], language: str | None) -> Split:
    """Clips that have a text.

    Raises:
        ValueError: there are none.
        AudioError: a clip cannot be read.
    """
    utterances, _ = evaluation_utterances(load_clips(manifests)[0], "clip", packed=False)
    clips = [each for each in utterances if len(each.windows) == 1 and each.seconds is None]
    if not clips:
        raise ValueError(f"{', '.join(manifests)}: no clip of up to 30 s has a text")
    normalise = normalizer("auto", language)
    return Split([load_patiently(each.windows[0]) for each in clips],
                 [normalise(each.reference) for each in clips], normalise)
