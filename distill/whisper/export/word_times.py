"""Are word timestamps right? Clips were packed one after the other, so that it is known when the
first word of each of them begins: where the clip begins, and its silence ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.speech.windows import Window
from distill.metrics.error_rates import align
from distill.metrics.normalize import normalizer

Word = tuple[str, float, float]  # text, start and end in seconds
TimedTranscriber = Callable[[np.ndarray, str], list[Word]]


def beginning_errors(
    words: Sequence[Word], window: Window, unit: str, begins_at: Sequence[float]
) -> list[float]:
    """Seconds by which the first words of a window's clips, but for the first clip, are said to
    begin too late; words that were not recognised are left out.

    Args:
        unit: `word`, or `char` where words are not spaced.
        begins_at: second of the window at which each clip's first word begins.
    """
    clean = normalizer("basic", window.language)

    def split(text: str) -> list[str]:
        return clean(text).split() if unit == "word" else list(clean(text).replace(" ", ""))

    timed_parts = [(part, start) for text, start, _ in words for part in split(text)]
    reference, begins = [], {}
    for index, piece in enumerate(window.pieces):
        if index:
            begins[len(reference)] = begins_at[index]
        reference += split(piece.text or "")
    errors, at, now = [], 0, 0
    for edit in align(" ".join(reference), " ".join(part for part, _ in timed_parts)):
        if edit.kind == "equal":
            errors += [timed_parts[now + n][1] - begins[at + n] for n in range(len(edit.reference))
                       if at + n in begins]
        at, now = at + len(edit.reference), now + len(edit.hypothesis)
    return errors


def leading_silence(audio: np.ndarray) -> float:
    """Seconds before a clip gets louder than a twentieth of its loudest 10 ms."""
    size = SAMPLE_RATE // 100
    blocks = audio[: len(audio) // size * size].reshape(-1, size)
    level = np.sqrt((blocks**2).mean(1)) if len(blocks) else np.zeros(1)
    return float(np.argmax(level > level.max() * 0.05)) * size / SAMPLE_RATE


def speech_begins(window: Window, index: int) -> float:
    """Second of a window at which somebody speaks in its clip of that index."""
    piece = window.pieces[index]
    audio = load_audio(piece.audio_filepath, piece.offset, piece.duration)
    return piece.start + leading_silence(audio)


def check_word_times(
    transcribe: TimedTranscriber, windows: Iterable[tuple[Window, np.ndarray, str, str]], unit: str
) -> dict | None:
    """Median and spread of the errors over windows of several clips; None without any.

    Args:
        windows: window, its audio, its language, and its text without times: where first words are
            in it (`num_in_texts`), some should have been recognised with times, too.
    """
    errors: list[float] = []
    joints: list[float] = []
    known = missing = in_texts = 0
    for window, audio, language, text in windows:
        if len(window.pieces) < 2 or window.text is None:
            continue
        words = transcribe(audio, language)
        known += len(window.pieces) - 1
        missing += not words
        spoken = [speech_begins(window, index) for index in range(len(window.pieces))]
        errors += beginning_errors(words, window, unit, spoken)
        starts = [piece.start for piece in window.pieces]
        joints += beginning_errors(words, window, unit, starts)
        in_texts += len(beginning_errors([(text, 0.0, 0.0)], window, unit, starts))
    if not known:
        return None
    if not errors:
        return {"num_boundaries": known, "num_recognised": 0, "num_in_texts": in_texts,
                "windows_without_words": missing}
    size = np.abs(errors)
    return {
        "num_boundaries": known,
        "num_recognised": len(errors),
        "num_in_texts": in_texts,
        "windows_without_words": missing,
        "median_error_seconds": float(np.median(size)),
        "median_error_ci_seconds": _interval_of_median(size),
        "p90_error_seconds": float(np.quantile(size, 0.9)),
        "mean_lateness_seconds": float(np.mean(errors)),
        "share_within_200_ms": float((size <= 0.2).mean()),
        "median_error_to_joint_seconds": float(np.median(np.abs(joints))),
    }


def _interval_of_median(values: np.ndarray) -> list[float]:
    """95 % interval by order statistics, whatever the distribution (normal approximation of the
    binomial)."""
    ordered = np.sort(values)
    first = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return [float(ordered[first]), float(ordered[-1 - first])]
