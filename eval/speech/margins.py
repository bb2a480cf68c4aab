"""What becomes of clips that are encoded at their own length, beside the padded model.

    padded = transcribe_clips(model, processor, clips, None, decoder)
    short = transcribe_clips(model, processor, clips, 1.0, decoder)
    row = compare(clips, padded, short, margin=1.0)

Texts that loop, or outrun their audio, are given up for those of the padded clip, as everything
that decodes does (`distill.whisper.recognition.guard`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from distill.data.speech.windows import Window, load_patiently
from distill.metrics.error_rates import ErrorCounts, error_counts, paired_bootstrap, total
from distill.progress import progress
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.lengths import positions_of, set_margin
from distill.whisper.recognition.guard import outran
from distill.whisper.recognition.transcribe import by_length, to_text, token_limit
from distill.whisper.recognition.words import word_times

# How much a margin may differ from the padded model.
MOST_WORDS = 0.002  # of the reference words: more errors, and more insertions
MOST_LOOPS = 0.01  # of the clips: more texts that are decoded again
MOST_SECONDS = 0.04  # between times of words, in the median: two encoder positions
LEAST_LANGUAGES = 0.99  # of the clips: the same language detected
_TOKENS_PER_SECOND = 12.0  # longer texts are loops


@dataclass(frozen=True)
class Clip:
    """A validation clip: its window, and its reference after the normaliser."""

    window: Window
    reference: str
    normalise: Callable[[str], str]
    unit: str = "word"


@dataclass(frozen=True)
class Transcript:
    """What a model makes of a clip.

    Attributes:
        text: after the normaliser.
        is_bad: it loops, or outran its audio.
        is_short: not padded.
        language: detected; None where the model knows one only.
        times: seconds at which words begin and end, in order.
    """

    text: str
    is_bad: bool
    is_short: bool
    language: str | None
    times: tuple[float, ...]


@torch.no_grad()
def transcribe_clips(
    model, processor, clips: Sequence[Clip], margin: float | None, decoder: WhisperDecoder,
    batch_size: int = 8,
) -> list[Transcript]:
    """Transcripts of clips, in their order.

    Args:
        margin: seconds of silence encoded behind each clip; None pads to 30 s.
        decoder: of the same model; made while its config had a margin.

    Raises:
        AudioError: a clip cannot be read.
    """
    set_margin(model, margin)
    order = {clip.window.id: place for place, clip in enumerate(clips)}
    batches = by_length([clip.window for clip in clips], batch_size)
    found: dict[int, Transcript] = {}
    name = "padded" if margin is None else f"margin {margin:g} s"
    for batch in progress(batches, len(batches), name, "batches"):
        places = [order[window.id] for window in batch]
        heard = _transcribe(model, processor, [clips[at] for at in places], margin, decoder)
        found |= dict(zip(places, heard, strict=True))
    return [found[place] for place in range(len(clips))]


def _transcribe(
    model, processor, clips: Sequence[Clip], margin: float | None, decoder: WhisperDecoder
) -> list[Transcript]:
    windows, tokenizer = [clip.window for clip in clips], processor.tokenizer
    features = audio_features(processor, [load_patiently(w) for w in windows], margin)
    states = encode_features(model.get_encoder(), features)
    hypotheses = decoder(states, [token_limit(w.duration, _TOKENS_PER_SECOND) for w in windows],
                         languages=[window.language for window in windows])
    spoken = [window.language or each.language
              for window, each in zip(windows, hypotheses, strict=True)]
    words = word_times(model, tokenizer, states, [[each.tokens] for each in hypotheses],
                       [window.duration for window in windows], spoken)
    return [
        Transcript(clip.normalise(to_text(tokenizer, each.tokens)), outran(each),
                   place in features.short, each.language,
                   tuple(at for word in parts[0] for at in (word.start, word.end)))
        for place, (clip, each, parts) in enumerate(zip(clips, hypotheses, words, strict=True))]


def compare(
    clips: Sequence[Clip], padded: Sequence[Transcript], short: Sequence[Transcript],
    margin: float | None, seed: int = 0,
) -> dict:
    """A row of the table; rates are fractions, times in seconds.

    Returns:
        among others `wer_difference` with its paired 95 % `interval`, `again` (clips decoded again
        with padding), and `reasons` why the margin will not do, empty if it will.
    """
    kept = [first if each.is_bad and each.is_short else each
            for first, each in zip(padded, short, strict=True)]
    before, after = _errors(clips, padded), _errors(clips, kept)
    paired = paired_bootstrap(before, after, seed=seed)
    assert paired is not None, "clips have references"
    same = [(one, other) for one, other in zip(padded, kept, strict=True) if one.text == other.text]
    moved = [abs(a - b) for one, other in same
             for a, b in zip(one.times, other.times, strict=False)]
    most = positions_of(0.0, None)
    row = {
        "margin_seconds": margin,
        "encoded": statistics.mean(
            positions_of(clip.window.duration, margin) if each.is_short else most
            for clip, each in zip(clips, short, strict=True)) / most,
        "num_short": sum(each.is_short for each in short),
        "wer": total(after).rate,
        "wer_difference": paired.difference,
        "interval": None if paired.interval is None else list(paired.interval),
        "same_text": len(same) / len(clips),
        "again": sum(each.is_bad and each.is_short for each in short),
        "loops": sum(each.is_bad for each in short),
        "time_difference": statistics.median(moved) if moved else 0.0,
        "same_language": statistics.mean(
            one.language == other.language for one, other in zip(padded, kept, strict=True)),
        **{key: value for key, value in asdict(total(after)).items()
           if key in ("substitutions", "deletions", "insertions")},
    }
    more = total(after).insertions - total(before).insertions
    worse = sum(each.is_bad for each in short) - sum(each.is_bad for each in padded)
    return row | {"reasons": _reasons(row, more / total(after).num_reference, worse / len(clips))}


def _reasons(row: dict, more_insertions: float, more_loops: float) -> list[str]:
    """Why a margin will not do."""
    ends = row["interval"]
    checks = {
        "errors": row["wer_difference"] > MOST_WORDS or bool(ends and ends[0] > 0),
        "insertions": more_insertions > MOST_WORDS,
        "loops": more_loops > MOST_LOOPS,
        "times": row["time_difference"] > MOST_SECONDS,
        "languages": row["same_language"] < LEAST_LANGUAGES,
    }
    return [name for name, is_bad in checks.items() if is_bad]


def _errors(clips: Sequence[Clip], found: Sequence[Transcript]) -> list[ErrorCounts]:
    return [error_counts(clip.reference, each.text, clip.unit)
            for clip, each in zip(clips, found, strict=True)]
