"""Short clips that go wrong are decoded again, padded to 30 s.

Cutting the silence behind a clip is nearly exact (`distill.whisper.encoder`), and where it is not,
the text usually repeats itself. Such a text is given up for that of the padded clip; they are
counted (`Report.padded`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor

from distill.whisper.decoding.report import Report
from distill.whisper.decoding.sequences import Hypothesis

Decode = Callable[[Tensor, list[int]], list[Hypothesis]]


def outran(hypothesis: Hypothesis) -> bool:
    """Whether a text repeats itself, or is longer than its audio can be."""
    return hypothesis.looped or hypothesis.truncated


def decode_guarded(
    decode: Decode,
    states: Tensor,
    short: Collection[int],
    padded: Callable[[list[int]], Tensor],
    report: Report,
    is_bad: Callable[[Hypothesis], bool] = outran,
) -> list[Hypothesis]:
    """Decode a batch, and its bad texts of short clips again.

    Args:
        decode: `decode(states, rows)`: texts of some rows of the batch.
        states: (clips, frames, width).
        short: rows that were not padded.
        padded: `padded(rows)`: states of these rows, padded: (rows, 1500, width).
        report: counts them.
    """
    found = decode(states, list(range(len(states))))
    bad = [row for row in sorted(short) if is_bad(found[row])]
    if bad:
        report.padded += len(bad)
        for row, hypothesis in zip(bad, decode(padded(bad), bad), strict=True):
            found[row] = hypothesis
    return found
