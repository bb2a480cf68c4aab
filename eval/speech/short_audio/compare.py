"""What becomes of clips that are encoded at their own length, beside the padded model.

    row = compare(clips, padded, short, margin=1.0)      # eval.speech.short_audio.transcripts

Texts that loop, or outrun their audio, are given up for those of the padded clip, as everything
that decodes does (`distill.whisper.recognition.guard`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from distill.metrics.error_rates import ErrorCounts, error_counts, paired_bootstrap, total
from distill.whisper.encoder.lengths import positions_of
from eval.speech.short_audio.transcripts import Clip, Transcript

# How much a margin may differ from the padded model.
MOST_WORDS = 0.002  # of the reference words: more errors, and more insertions
MOST_LOOPS = 0.01  # of the clips: more texts that are decoded again
MOST_SECONDS = 0.04  # between times of words or of segments, in the median: two encoder positions
MOST_LANGUAGES = 0.01  # of the clips, or one of them: another language is detected


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
        "p_value": paired.p_value,
        "same_text": len(same) / len(clips),
        "again": sum(each.is_bad and each.is_short for each in short),
        "loops": sum(each.is_bad for each in short),
        "time_difference": _moved([(one.times, other.times) for one, other in same]),
        "segment_difference": None if any(each.segments is None for each in kept) else _moved(
            [(one.segments, other.segments) for one, other in same
             if len(one.segments) == len(other.segments)]),
        "same_language": statistics.mean(
            one.language == other.language for one, other in zip(padded, kept, strict=True)),
        **{key: value for key, value in asdict(total(after)).items()
           if key in ("substitutions", "deletions", "insertions")},
    }
    more = total(after).insertions - total(before).insertions
    worse = sum(each.is_bad for each in short) - sum(each.is_bad for each in padded)
    return row | {"reasons": _reasons(
        row, len(clips), more / total(after).num_reference, worse / len(clips))}


def _reasons(
    row: dict, num_clips: int, more_insertions: float, more_loops: float
) -> list[str]:
    """Why a margin will not do."""
    ends, others = row["interval"], round((1 - row["same_language"]) * num_clips)
    checks = {
        "errors": row["wer_difference"] > MOST_WORDS or bool(ends and ends[0] > 0),
        "insertions": more_insertions > MOST_WORDS,
        "loops": more_loops > MOST_LOOPS,
        "times": max(row["time_difference"], row["segment_difference"] or 0.0) > MOST_SECONDS,
        "languages": others > max(1, MOST_LANGUAGES * num_clips),
    }
    return [name for name, is_bad in checks.items() if is_bad]


def _moved(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Median seconds between times of one text and those of the other."""
    moved = [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=False)]
    return statistics.median(moved) if moved else 0.0


def _errors(clips: Sequence[Clip], found: Sequence[Transcript]) -> list[ErrorCounts]:
    return [error_counts(clip.reference, each.text, clip.unit)
            for clip, each in zip(clips, found, strict=True)]
