"""Error rates with confidence intervals, and the signs of hallucination. jiwer aligns.

    counts = [error_counts(r, h) for r, h in zip(references, hypotheses)]
    error_rate(counts), bootstrap_interval(counts)

Rates are fractions, not per cent. A unit is what is resampled: an utterance or a window. Texts are
compared as they come: normalise them first (`distill.metrics.normalize`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNITS = ("word", "char")
_BLOCK = 1_000_000  # draws held in memory at once


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of one unit or of a whole corpus, in words or characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0
    num_reference: int = 0  # hits + substitutions + deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per reference token; None without any (insertions alone have no rate)."""
        return self.errors / self.num_reference if self.num_reference else None

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
            self.num_reference + other.num_reference,
        )


@dataclass(frozen=True)
class PairedDifference:
    """Student minus teacher on the same units: positive means that the student errs more."""

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None  # two-sided


@dataclass(frozen=True)
class Edit:
    """A run of equal, substituted, deleted or inserted tokens."""

    kind: str  # equal | substitute | delete | insert
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


def error_counts(reference: str, hypothesis: str, unit: str = "word") -> ErrorCounts:
    """Align two texts with the fewest edits and count them.

    An empty reference is not skipped: everything said against it is an insertion.

    Args:
        unit: `word`, or `char` (code points, single spaces between words included).
    """
    output = _process(reference, hypothesis, unit)
    return ErrorCounts(
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        hits=output.hits,
        num_reference=output.hits + output.substitutions + output.deletions,
    )


def align(reference: str, hypothesis: str, unit: str = "word") -> list[Edit]:
    """The alignment behind `error_counts`, for showing differences."""
    output = _process(reference, hypothesis, unit)
    reference_tokens, hypothesis_tokens = output.references[0], output.hypotheses[0]
    return [
        Edit(
            chunk.type,
            tuple(reference_tokens[chunk.ref_start_idx : chunk.ref_end_idx]),
            tuple(hypothesis_tokens[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]


def _process(reference: str, hypothesis: str, unit: str) -> Any:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {UNITS}, got {unit!r}")
    import jiwer

    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    # jiwer knows only the plain space; tabs, newlines and no-break spaces separate words too
    return process(" ".join(reference.split()), " ".join(hypothesis.split()))


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Sum over units."""
    return sum(counts, start=ErrorCounts())


def error_rate(counts: Iterable[ErrorCounts]) -> float | None:
    """Corpus WER or CER as a fraction: all errors over all reference tokens, so long units weigh
    more; None when the corpus has no reference tokens."""
    return total(counts).rate


def insertions_per_1000_words(counts: Iterable[ErrorCounts]) -> float | None:
    """Words made up per 1,000 reference words; None without reference words."""
    corpus = total(counts)
    return 1000 * corpus.insertions / corpus.num_reference if corpus.num_reference else None


def bootstrap_interval(
    counts: Sequence[ErrorCounts],
    num_samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile bootstrap over units (Bisani & Ney 2004, doi:10.1109/ICASSP.2004.1326009).

    Units are drawn, not words: errors of one utterance come together.

    Returns:
        (low, high) fractions; None for fewer than two units or no reference tokens.
    """
    if len(counts) < 2 or not total(counts).num_reference:
        return None
    table = np.array([(c.errors, c.num_reference) for c in counts], dtype=np.float64)
    errors, words = _resample(table, num_samples, seed)
    return _interval(_divide(errors, words), confidence)


def paired_bootstrap(
    teacher: Sequence[ErrorCounts],
    student: Sequence[ErrorCounts],
    num_samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedDifference | None:
    """Is the student's error rate different, on the very same units?

    Both systems are measured on the same draws, so what makes a unit hard for both cancels out.
    The p-value is twice the share of draws in which the sign turns (at least 1 / (draws + 1)).

    Returns:
        None when the corpus has no reference tokens.

    Raises:
        ValueError: the two do not hold the same units.
    """
    if [c.num_reference for c in teacher] != [c.num_reference for c in student]:
        raise ValueError(
            f"teacher ({len(teacher)} units) and student ({len(student)} units) were not measured "
            "on the same references in the same order"
        )
    corpus = total(student)
    if not corpus.num_reference:
        return None
    excess = [s.errors - t.errors for t, s in zip(teacher, student, strict=True)]
    difference = sum(excess) / corpus.num_reference
    if len(student) < 2:
        return PairedDifference(difference, None, None)
    table = np.array([excess, [c.num_reference for c in student]], dtype=np.float64).T
    draws = _divide(*_resample(table, num_samples, seed))
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, 2 * (int(tail) + 1) / (len(draws) + 1))
    return PairedDifference(difference, _interval(draws, confidence), p_value)


def _resample(table: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """Column sums of `table` (units, columns) over units drawn with replacement: (columns, draws).

    Drawn one block of draws after another: memory stays small for any corpus, and the result does
    not depend on the block size.
    """
    generator = np.random.default_rng(seed)
    num_units = len(table)
    rows = max(1, _BLOCK // num_units)
    sums = [
        table[generator.integers(num_units, size=(min(rows, num_samples - at), num_units))].sum(1)
        for at in range(0, num_samples, rows)
    ]
    return np.concatenate(sums).T


def _divide(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Rates of the draws that have reference tokens at all."""
    return errors[words > 0] / words[words > 0]


def _interval(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def repeated_ngrams_per_1000_words(texts: Iterable[str], n: int = 5, unit: str = "word") -> float:
    """N-grams said again inside the same text, per 1,000 words: loops of a decoder.

    Counted text by text. The published scripts count over the joined text of all files, where
    three callers who say the same sentence look like a hallucination.

    Args:
        unit: `char` for languages without spaces.
    """
    repeats = words = 0
    for text in texts:
        tokens = text.split() if unit == "word" else "".join(text.split())
        grams = list(_ngrams(tokens, n))
        repeats += len(grams) - len(set(grams))
        words += len(tokens)
    return 1000 * repeats / words if words else 0.0


def _ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def compression_ratio(text: str) -> float:
    """Bytes over zlib-compressed bytes; above 2.4 Whisper's decoder calls it a loop
    (arXiv:2212.04356 sec. 4.5)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))
