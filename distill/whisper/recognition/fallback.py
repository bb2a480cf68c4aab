"""Temperature fallback: a bad text is sampled again at higher temperatures (arXiv:2212.04356
sec. 4.5).

    hypotheses = decode_with_fallback(decoder, tokenizer, Fallback(), states, limits, seeds)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.metrics.error_rates import compression_ratio
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.recognition.transcribe import to_text

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # OpenAI's


@dataclass(frozen=True)
class Fallback:
    """When a text is good enough, and the temperatures to try; the defaults are OpenAI's.

    Attributes:
        temperatures: tried in turn; the text of the last one is always taken. 0 is greedy.
        max_compression_ratio: UTF-8 bytes of a text over its zlib bytes; texts that repeat
            themselves are above.
        min_avg_logprob: mean log probability of the tokens, nats.
        max_no_speech_prob: above it, an improbable text counts as silence, and is not tried again.

    Raises:
        ValueError: no temperatures, or one below 0.
    """

    temperatures: tuple[float, ...] = TEMPERATURES
    max_compression_ratio: float | None = 2.4
    min_avg_logprob: float | None = -1.0
    max_no_speech_prob: float | None = 0.6

    def __post_init__(self):
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError("temperatures must be one or more numbers >= 0, got "
                             f"{list(self.temperatures)}")

    def is_silent(self, hypothesis: Hypothesis) -> bool:
        """Whether the window counts as silence."""
        if self.max_no_speech_prob is None or self.min_avg_logprob is None:
            return False
        return (hypothesis.no_speech_prob > self.max_no_speech_prob
                and hypothesis.avg_logprob < self.min_avg_logprob)

    def is_good(self, hypothesis: Hypothesis, text: str) -> bool:
        """Whether a text is good enough."""
        if self.is_silent(hypothesis):
            return True
        ratio, least = self.max_compression_ratio, self.min_avg_logprob
        if ratio is not None and compression_ratio(text) > ratio:
            return False
        return not hypothesis.looped and (least is None or hypothesis.avg_logprob >= least)


GREEDY = Fallback((0.0,))  # no second try


@torch.inference_mode()
def decode_with_fallback(
    decoder: WhisperDecoder,
    tokenizer,
    fallback: Fallback,
    states: Tensor,
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    previous: Sequence[Sequence[int]] | None = None,
    languages: Sequence[str | None] | None = None,
    drafts: Sequence[Sequence[int]] | None = None,
    phrases: Sequence[PhraseList | None] | None = None,
) -> list[Hypothesis]:
    """Decode a batch; texts that are not good enough, again at the next temperature.

    Sampling is coupled: a text depends on its window and seed alone, with drafts and without. One
    sample is taken at each temperature (OpenAI's command takes the best of five).

    Args:
        seeds: of each window (`seed_of`).
        others: see `WhisperDecoder.__call__`.
    """
    found: list[Hypothesis | None] = [None] * len(states)
    left = list(range(len(states)))
    for number, temperature in enumerate(fallback.temperatures):
        sampling = None
        if temperature > 0:  # each temperature draws anew
            sampling = Sampling(temperature, [seeds[row] + number for row in left])

        def of(values):
            return None if values is None else [values[row] for row in left]  # noqa: B023

        tried = decoder(states[left], of(max_new_tokens), of(previous), of(languages), of(drafts),
                        sampling, of(phrases))
        for row, hypothesis in zip(left, tried, strict=True):
            hypothesis.temperature = temperature
            found[row] = hypothesis
        left = [row for row in left
                if not fallback.is_good(found[row], to_text(tokenizer, found[row].tokens))]
        if not left:
            break
    return found


def seed_of(name: str, seed: int = 0) -> int:
    """Seed of a window by its name: 48 bits, then 8 bits for the number of the temperature."""
    data = f"{seed}/{name}".encode(errors="surrogateescape")  # names of files need not be UTF-8
    digest = hashlib.blake2b(data, digest_size=6).digest()
    return int.from_bytes(digest, "little") << 8
