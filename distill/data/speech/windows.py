"""Clips -> windows of at most 30 s, the only input Whisper knows.

A Whisper encoder pays for 30 s whatever it is given, so several clips share a window. Clips are
never cut; a clip longer than a window is split at its quietest places first (`split_long`), or
becomes windows of its own where somebody speaks (`pack_recording`).

`best_fit` fills about 99 % of the windows of a large corpus, `sequential` (joining neighbours, as
the Distil-Whisper scripts do) about 78 %, but keeps the order that previous-text prompts need.
With `none` every clip has its window to itself, for teachers that hear short audio at its own
length (`distill.whisper.encoder`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.data.audio import SAMPLE_RATE, WINDOW_SAMPLES, WINDOW_SECONDS, AudioError, load_audio
from distill.data.manifest import Row
from distill.data.unreadable import read_patiently

BUFFER_CLIPS = 512  # clips looked at together: more fill windows no better, fewer mix less
GAP_SECONDS = 2.0  # of silence at most inside a window of a long recording
_SPLIT_SEARCH_SECONDS = 10.0  # a split is looked for in the last 10 s before the limit
_LENGTH_JITTER = 0.2
_EPSILON = 1e-6


@dataclass(frozen=True)
class Piece:
    """A clip (or a part of one) inside a window. All times in seconds.

    `offset`, `duration`: where it lies in its file; `start`: where it begins in the window.
    """

    id: str
    audio_filepath: str
    offset: float
    duration: float
    start: float
    text: str | None


@dataclass(frozen=True)
class Window:
    """Up to 30 s of audio of one speaker."""

    id: str
    pieces: tuple[Piece, ...]
    speaker: str | None = None
    language: str | None = None
    previous: str | None = None  # id of the window before it, when it is the same recording

    @property
    def duration(self) -> float:
        last = self.pieces[-1]
        return last.start + last.duration

    @property
    def text(self) -> str | None:
        """Reference text, None when any piece has none."""
        texts = [piece.text for piece in self.pieces]
        return None if any(text is None for text in texts) else join_texts(texts, self.language)


UNSPACED = {"zh", "ja", "th", "lo", "my", "km", "yue", "bo"}  # scripts written without spaces


def join_texts(texts: Sequence[str], language: str | None) -> str:
    """Join transcripts the way the language writes them."""
    return ("" if language in UNSPACED else " ").join(text.strip() for text in texts).strip()


def is_long(row: Row | Piece, window_seconds: float = WINDOW_SECONDS) -> bool:
    """Whether a clip, or a part of one, does not fit a window."""
    return row.duration > window_seconds + _EPSILON


def pack(
    rows: Sequence[Row],
    prefix: str,
    order: str = "best_fit",
    seed: int = 0,
    window_seconds: float = WINDOW_SECONDS,
) -> list[Window]:
    """Pack clips into windows; every clip comes in exactly one window.

    Args:
        rows: clips of at most `window_seconds` each.
        prefix: start of the window ids, unique per packing.
        order: `best_fit` (shuffled by `seed`, filled tightly), `sequential` (manifest order) or
            `none` (every clip is a window).
        seed: decides who shares a window with whom (`best_fit` only).

    Raises:
        ValueError: unknown order, or a clip is longer than a window.
    """
    too_long = [row.id for row in rows if is_long(row, window_seconds)]
    if too_long:
        raise ValueError(
            f"{len(too_long)} clips are longer than {window_seconds} s ({too_long[0]}, ...); "
            "split them with split_long first"
        )
    if order == "sequential":
        groups = _sequential(rows, window_seconds)
    elif order == "best_fit":
        groups = _best_fit(rows, window_seconds, seed)
    elif order == "none":
        groups = [[row] for row in rows]
    else:
        raise ValueError(f"packing must be best_fit, sequential or none, got {order!r}")
    windows: list[Window] = []
    for index, group in enumerate(groups):
        pieces, start = [], 0.0
        for row in group:
            pieces.append(
                Piece(row.id, row.audio_filepath, row.offset, row.duration, start, row.text)
            )
            start = round(start + row.duration, 6)
        first = group[0]
        before = windows[-1] if windows else None
        # An unknown speaker may be anybody: no previous text then.
        same = before is not None and first.speaker is not None
        follows = order == "sequential" and same and first.speaker == before.speaker
        windows.append(
            Window(
                id=f"{prefix}-{index:06d}",
                pieces=tuple(pieces),
                speaker=first.speaker,
                language=first.language,
                previous=before.id if follows else None,
            )
        )
    return windows


def _sequential(rows: Sequence[Row], limit: float) -> list[list[Row]]:
    groups: list[list[Row]] = []
    used, key = 0.0, None
    for row in rows:
        row_key = (row.speaker, row.language)
        if groups and row_key == key and used + row.duration <= limit + _EPSILON:
            groups[-1].append(row)
            used += row.duration
        else:
            groups.append([row])
            used, key = row.duration, row_key
    return groups


def _best_fit(rows: Sequence[Row], limit: float, seed: int) -> list[list[Row]]:
    """Best fit inside a buffer, one speaker and language at a time."""
    by_key: dict[tuple, list[Row]] = {}
    for row in rows:
        by_key.setdefault((row.speaker, row.language), []).append(row)
    generator = np.random.Generator(np.random.Philox(key=seed))
    groups: list[list[Row]] = []
    for clips in by_key.values():
        shuffled = [clips[i] for i in generator.permutation(len(clips))]
        for at in range(0, len(shuffled), BUFFER_CLIPS):
            groups.extend(_fill(shuffled[at : at + BUFFER_CLIPS], limit, generator))
    # Longest-first packing would put every long clip at the start of its window.
    return [[group[i] for i in generator.permutation(len(group))] for group in groups]


def _fill(clips: list[Row], limit: float, generator: np.random.Generator) -> list[list[Row]]:
    """Best fit, the longest first, roughly.

    Exactly longest-first would give every packing of a small corpus the same windows, whatever the
    seed: lengths are taken up to a fifth shorter by chance, at 0.1 points of filling.
    """
    bins: list[list[Row]] = []
    free: list[tuple[float, int]] = []  # (seconds free, bin), sorted: the tightest fit is first
    rough = [row.duration * (1 - _LENGTH_JITTER * generator.random()) for row in clips]
    for index in sorted(range(len(clips)), key=lambda i: -rough[i]):
        clip = clips[index]
        at = bisect_left(free, (clip.duration - _EPSILON, -1))
        if at == len(free):
            bins.append([clip])
            insort(free, (limit - clip.duration, len(bins) - 1))
        else:
            room, index = free.pop(at)
            bins[index].append(clip)
            insort(free, (room - clip.duration, index))
    return bins


@dataclass(frozen=True)
class Recording:
    """A clip longer than a window. `parts`: (start, end) of its speech, seconds from the start of
    the file, in order, none longer than a window."""

    row: Row
    parts: tuple[tuple[float, float], ...]

    @property
    def speech_seconds(self) -> float:
        return sum(end - start for start, end in self.parts)


def pack_recordings(
    recordings: Sequence[Recording],
    prefix: str,
    order: str = "best_fit",
    seed: int | None = None,
    window_seconds: float = WINDOW_SECONDS,
) -> list[Window]:
    """Windows of long recordings, which share theirs with nobody: in order, so that labels can be
    joined and compared with the text of the whole recording.

    Args:
        order: `sequential` lets a window follow the one before it; it is the same recording,
            whoever speaks.
        seed: draws up to a fifth of each window to be left empty, so that packings differ; None
            fills them.
    """
    windows: list[Window] = []
    generator = np.random.Generator(np.random.Philox(key=seed or 0))
    for recording in recordings:
        row, before = recording.row, None
        jitter = 0.0 if seed is None else _LENGTH_JITTER
        limits = window_seconds * (1 - jitter * generator.random(len(recording.parts)))
        for group in _group_speech(recording.parts, limits.tolist()):
            pieces, at = [], 0.0
            for start, end in group:
                length = round(end - start, 6)
                pieces.append(Piece(row.id, row.audio_filepath, start, length, at, None))
                at = round(at + length, 6)
            name = f"{prefix}-{len(windows):06d}"
            windows.append(Window(name, tuple(pieces), row.speaker, row.language, before))
            before = name if order == "sequential" else None
    return windows


def _group_speech(
    parts: Sequence[tuple[float, float]], limits: Sequence[float]
) -> list[list[list[float]]]:
    """Pieces [start, end] of each window; window `i` takes up to `limits[i]` seconds, or one part.

    Silence of up to `GAP_SECONDS` stays: it is how people speak. Longer ones are left out.
    """
    groups: list[list[list[float]]] = []
    room = 0.0
    for start, end in parts:
        last = groups[-1][-1] if groups else None
        joins = last is not None and start - last[1] <= GAP_SECONDS
        length = end - (last[1] if joins else start)
        if last is None or length > room + _EPSILON:
            room = limits[len(groups)] - (end - start)
            groups.append([[start, end]])
            continue
        room -= length
        if joins:
            last[1] = end
        else:
            groups[-1].append([start, end])
    return groups


def split_long(row: Row, window_seconds: float = WINDOW_SECONDS) -> list[Row]:
    """Split a clip that does not fit a window at its quietest places.

    The reference text cannot be split without aligning it, so the parts have none. They keep the
    clip's id; their offsets tell them apart.

    Raises:
        AudioError: the audio cannot be read.
    """
    if not is_long(row, window_seconds):
        return [row]
    samples = load_audio(row.audio_filepath, row.offset, row.duration)
    bounds = [0, *quiet_places(samples, int(window_seconds * SAMPLE_RATE)), len(samples)]
    return [
        replace(
            row,
            offset=row.offset + start / SAMPLE_RATE,
            duration=(end - start) / SAMPLE_RATE,
            text=None,
        )
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]


def quiet_places(samples: np.ndarray, limit: int) -> list[int]:
    """Sample indices that cut `samples` (time,) into parts of at most `limit` samples.

    Each cut is in the middle of the quietest 200 ms of the last 10 s before the limit.
    """
    hop = SAMPLE_RATE // 50
    frames = len(samples) // hop
    energy = np.square(samples[: frames * hop].reshape(frames, hop)).mean(axis=1)
    smooth = np.convolve(energy, np.ones(10) / 10, mode="same")
    cuts: list[int] = []
    start = 0
    while len(samples) - start > limit:
        end = (start + limit) // hop
        search = min(int(_SPLIT_SEARCH_SECONDS * SAMPLE_RATE), limit // 2) // hop
        start = (end - search + int(np.argmin(smooth[end - search : end]))) * hop
        cuts.append(start)
    return cuts


def load_window(window: Window) -> np.ndarray:
    """Audio of a window: float32 (samples,), at most 480,000 samples at 16 kHz.

    Raises:
        AudioError: any clip cannot be read; `detail` names it.
    """
    return _join(window.pieces, [_load(piece) for piece in window.pieces])


def load_patiently(window: Window) -> np.ndarray:
    """`load_window`, for where nothing can go on without: what cannot be opened now is tried again
    after a moment.

    Raises:
        AudioError: as `load_window`; `detail` names the window, too.
    """
    try:
        return read_patiently(lambda: load_window(window))
    except AudioError as error:
        raise AudioError(error.reason, f"window {window.id}: {error.detail}") from None


def load_readable(
    window: Window,
) -> tuple[Window | None, np.ndarray | None, list[tuple[str, AudioError]]]:
    """Like `load_window`, but clips that cannot be read leave the window.

    Returns:
        the window without them (None if nothing is left), its audio, and what was wrong: (id of
        the clip, error).
    """
    kept, audios, errors, start = [], [], [], 0.0
    for piece in window.pieces:
        try:
            audios.append(_load(piece))
        except AudioError as error:
            # a new one: the traceback of the old holds this function's audio, in a circle that
            # Python takes apart only now and then
            errors.append((piece.id, AudioError(error.reason, error.detail)))
            continue
        kept.append(replace(piece, start=start))
        start = round(start + piece.duration, 6)
    if not kept:
        return None, None, errors
    return replace(window, pieces=tuple(kept)), _join(kept, audios), errors


def _load(piece: Piece) -> np.ndarray:
    return load_audio(piece.audio_filepath, piece.offset, piece.duration)


def _join(pieces: Sequence[Piece], audios: Sequence[np.ndarray]) -> np.ndarray:
    """Each clip at its place; (samples,) up to the end of the last."""
    samples = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
    end = 0
    for piece, audio in zip(pieces, audios, strict=True):
        at = round(piece.start * SAMPLE_RATE)
        if at + len(audio) - WINDOW_SAMPLES > SAMPLE_RATE // 100:
            raise AudioError("too_long", f"{piece.id}: longer than its manifest says")
        end = min(at + len(audio), WINDOW_SAMPLES)
        samples[at:end] = audio[: end - at]
    return samples[:end]
