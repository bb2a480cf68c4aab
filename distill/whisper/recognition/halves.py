"""Long windows whose text goes wrong are decoded again, in two halves.

A decoder that loses its place repeats itself or leaves words out; the longer the window, the
likelier. Cut at the quietest place between a third and two thirds, both halves are heard anew:
short audio at its own length makes that cheap (`distill.whisper.encoder`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import Piece, Window, quiet_places
from distill.whisper.decoding.sequences import Hypothesis

SHORTEST = 10.0  # seconds of a window that is cut


def loop_rule(on_loop: str) -> list:
    """What is done with a text that loops, for keys of what was decoded."""
    return [on_loop, SHORTEST] if on_loop == "break" else [on_loop]


def in_halves(windows: Sequence[Window], audios: Sequence[np.ndarray]
              ) -> tuple[list[Window], dict[str, np.ndarray]]:
    """Two windows of each, one after the other, and their audio by id.

    Args:
        audios: float32 (samples,) at 16 kHz of each window.
    """
    halves, samples = [], {}
    for window, audio in zip(windows, audios, strict=True):
        cut = quiet_places(audio, 2 * len(audio) // 3)[0]
        for number, part in enumerate((audio[:cut], audio[cut:])):
            name = f"{window.id}/{number}"
            piece = Piece(name, "", 0.0, len(part) / SAMPLE_RATE, 0.0, None)
            halves.append(Window(name, (piece,), window.speaker, window.language))
            samples[name] = part
    return halves, samples


def joined(first: Hypothesis, second: Hypothesis) -> Hypothesis:
    """The text of a window from those of its halves."""
    halves = (first, second)
    scored = [len(each.tokens) + 1 for each in halves]  # the end of text, too
    mean = sum((each.avg_logprob or 0.0) * count
               for each, count in zip(halves, scored, strict=True)) / sum(scored)
    return Hypothesis(
        tokens=[*first.tokens, *second.tokens], avg_logprob=mean,
        no_speech_prob=min(each.no_speech_prob or 0.0 for each in halves),
        truncated=any(each.truncated for each in halves),
        looped=any(each.looped for each in halves),
        language=first.language, language_prob=first.language_prob,
        temperature=max(each.temperature for each in halves), in_halves=True)
