"""Where the student is worst and best: texts, word by word, and the sound itself.

Texts are shown as they were written; differences are shown on the normalised words, which are the
ones that were counted.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape

import numpy as np

from distill.data.audio import SAMPLE_RATE, AudioError, load_audio
from distill.html.page import player, plural
from distill.metrics.error_rates import ErrorCounts, align, error_counts

NUM_WORST, NUM_BEST = 6, 3
MAX_AUDIO_BYTES = 150_000  # of Ogg Opus per example, so that a page stays near 2 MB
_COMPRESSION = (None, 0.95, 1.0)  # libsndfile: its default is about 3.5 kB a second, 1.0 about 0.9

_TEXTS = (("Reference", "reference"), ("Teacher", "teacher"), ("Student", "student"))
_LEGEND = (
    '<p class="note">Differences are between normalised texts: <del>struck out</del> is in the '
    "reference only, <ins>underlined</ins> was written instead or in addition.</p>"
)


def render_examples(
    rows: list[dict], normalize: Callable[[str], str], unit: str, language: str | None
) -> str:
    """HTML of the utterances with the most student errors, and of the longest with the fewest.

    Args:
        rows: predictions.jsonl.
        unit: `word` or `char`.
        language: of the texts, for screen readers and fonts.
    """
    referenced = [row for row in rows if row["reference"] is not None]
    scored = [
        (error_counts(normalize(row["reference"]), normalize(row["student"]), unit), row)
        for row in referenced
    ]
    worst = sorted(scored, key=lambda item: (-item[0].errors, item[1]["id"]))[:NUM_WORST]
    worst = [item for item in worst if item[0].errors]
    taken = {row["id"] for _, row in worst}
    rest = [item for item in scored if item[1]["id"] not in taken and item[0].num_reference]
    best = sorted(rest, key=lambda i: (i[0].rate, -i[0].num_reference, i[1]["id"]))[:NUM_BEST]
    parts = [_LEGEND]
    if len(referenced) < len(rows):
        left = plural(len(rows) - len(referenced), "utterance")
        parts.append(f'<p class="note">Not shown: {left} without a reference text.</p>')
    for title, chosen in (
        ("Worst: the most student errors", worst),
        ("Best: the lowest student error rate, longest first", best),
    ):
        if chosen:
            parts.append(f"<h3>{title}</h3>")
        for counts, row in chosen:
            parts.append(_example(counts, row, normalize, unit, language))
    return "".join(parts)


def _example(
    counts: ErrorCounts,
    row: dict,
    normalize: Callable[[str], str],
    unit: str,
    language: str | None,
) -> str:
    reference = normalize(row["reference"])
    of_teacher = error_counts(reference, normalize(row["teacher"]), unit)
    tag = f' lang="{escape(language)}"' if language else ""
    texts = "".join(
        f'<dt>{name}</dt><dd dir="auto"{tag}>{escape(row[key]) or "<i>nothing</i>"}</dd>'
        for name, key in _TEXTS
    )
    diffs = "".join(
        f"<dt>{name} against the reference: {_describe(found, unit)}</dt>"
        f'<dd class="diff" dir="auto"{tag}>{diff(reference, normalize(row[key]), unit)}</dd>'
        for name, key, found in (("Teacher", "teacher", of_teacher), ("Student", "student", counts))
    )
    return (
        f'<article class="card example"><h3><code>{escape(row["id"])}</code>, '
        f"{row['duration']:.1f} s</h3>{_player(row)}<dl>{texts}{diffs}</dl></article>"
    )


def _describe(counts: ErrorCounts, unit: str) -> str:
    token = "word" if unit == "word" else "character"
    errors = plural(counts.errors, "error")
    rate = "" if counts.rate is None else f" ({100 * counts.rate:.1f} %)"
    return f"{errors} on {plural(counts.num_reference, token)}{rate}"


def diff(reference: str, hypothesis: str, unit: str) -> str:
    """HTML of the second text marked against the first; both already normalised."""
    gap = " " if unit == "word" else ""
    parts = []
    for edit in align(reference, hypothesis, unit):
        expected, written = escape(gap.join(edit.reference)), escape(gap.join(edit.hypothesis))
        if edit.kind == "equal":
            parts.append(expected)
            continue
        parts.append(f"<del>{expected}</del>" if expected else "")
        parts.append(f"<ins>{written}</ins>" if written else "")
    return gap.join(part for part in parts if part) or "<i>nothing</i>"


def _player(row: dict) -> str:
    try:
        samples = _audio_of(row["pieces"])
        data, seconds = encode(samples)
    except AudioError as error:
        return f'<p class="note">No audio: {escape(error.reason)}.</p>'
    cut = ""
    if seconds < len(samples) / SAMPLE_RATE - 0.01:
        cut = f'<p class="note">The first {seconds:.0f} of {row["duration"]:.0f} s.</p>'
    return player(data, row["id"]) + cut


def _audio_of(pieces: list[dict]) -> np.ndarray:
    """float32 (samples,) at 16 kHz of all pieces of an utterance, of any length."""
    loaded = []
    for piece in pieces:
        audio = load_audio(piece["audio_filepath"], piece["offset"], piece["duration"])
        loaded.append((round(piece["start"] * SAMPLE_RATE), audio))
    if not loaded:
        raise AudioError("empty", "no pieces")
    samples = np.zeros(max(at + len(audio) for at, audio in loaded), dtype=np.float32)
    for at, audio in loaded:
        samples[at : at + len(audio)] = audio
    return samples


def encode(samples: np.ndarray, max_bytes: int = MAX_AUDIO_BYTES) -> tuple[bytes, float]:
    """Ogg Opus of at most `max_bytes`: compressed harder and, if that is not enough, cut.

    Args:
        samples: float32 (samples,) at 16 kHz.

    Returns:
        the file, and the seconds of audio it holds.
    """
    for level in _COMPRESSION:
        data = _opus(samples, level)
        if len(data) <= max_bytes:
            return data, len(samples) / SAMPLE_RATE
    while len(data) > max_bytes:
        samples = samples[: int(len(samples) * 0.95 * max_bytes / len(data))]
        data = _opus(samples, _COMPRESSION[-1])
    return data, len(samples) / SAMPLE_RATE


def _opus(samples: np.ndarray, level: float | None) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(
        file, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level
    )
    return file.getvalue()
