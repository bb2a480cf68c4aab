"""Manifests -> clips of a few seconds, each with its classes.

Long audio is cut every `clip_seconds`; what is left over is a clip, too, if it has 0.15 s. A file
that is shorter than that is followed by silence. Places are whole samples at 16 kHz, so that the
thousandth clip of an hour begins where it should.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from distill.ced.recipe import MIN_SECONDS, CedRecipe
from distill.data.audio import SAMPLE_RATE, AudioError, load_audio
from distill.data.manifest import Row, load_rows
from distill.data.sources.tables.text import read_text
from distill.data.unreadable import read_patiently

MIN_SAMPLES = round(MIN_SECONDS * SAMPLE_RATE)


@dataclass(frozen=True)
class Clip:
    """A part of an audio file: `num_samples` from `start` on, both at 16 kHz. What is used of it
    has `length` samples: 0.15 s at least, silence after what is shorter."""

    key: str
    row: str  # id of the manifest row it is cut from
    path: str
    start: int
    num_samples: int
    labels: tuple[str, ...] | None

    @property
    def length(self) -> int:
        return max(self.num_samples, MIN_SAMPLES)


class ClipError(AudioError):
    """Audio of a clip that cannot be used; `error` is its fault without the clip's name."""

    def __init__(self, clip: str, error: AudioError):
        super().__init__(error.reason, f"clip {clip}: {error.detail}")
        self.clip = clip
        self.error = AudioError(error.reason, error.detail)  # no traceback, which holds audio

    def __reduce__(self):
        return ClipError, (self.clip, self.error)


def load_clips(manifests: Sequence[str], clip_seconds: float) -> tuple[list[Clip], Counter]:
    """Clips of some manifests, in their order, and what was dropped, by reason."""
    rows, drops = load_rows(manifests)
    clips = []
    for row in rows:
        pieces, dropped = cut(row, clip_seconds)
        clips += pieces
        drops.update(dropped)
    return clips, drops


def cut(row: Row, clip_seconds: float) -> tuple[list[Clip], list[str]]:
    """Clips of a row, and the reason why a part of it is none: `empty`, `tail_too_short`."""
    first, total = round(row.offset * SAMPLE_RATE), round(row.duration * SAMPLE_RATE)
    size = round(clip_seconds * SAMPLE_RATE)
    labels = None if row.labels is None else tuple(row.labels)
    clips = []
    if total < 1:
        return clips, ["empty"]
    for start in range(0, total, size):
        length = min(size, total - start)
        if start and length < MIN_SAMPLES:
            return clips, ["tail_too_short"]
        key = row.id if total <= size else f"{row.id}@{start}"
        clips.append(Clip(key, row.id, row.audio_filepath, first + start, length, labels))
    return clips, []


def load_sound(clip: Clip) -> np.ndarray:
    """float32 (clip.length,) at 16 kHz: exactly as many as the manifest promises, since what is
    drawn for a clip depends on its length.

    Raises:
        ClipError: as `load_audio`, of a file that cannot be opened after a moment, either; it
            names the clip.
    """
    try:
        sound = read_patiently(partial(
            load_audio, clip.path, clip.start / SAMPLE_RATE, clip.num_samples / SAMPLE_RATE))
    except AudioError as error:
        raise ClipError(clip.key, error) from None
    sound = sound[: clip.num_samples]
    return np.pad(sound, (0, clip.length - len(sound)))


def find_classes(recipe: CedRecipe) -> list[str] | None:
    """The classes of a recipe; None where neither a file nor any label says what they are.

    Raises:
        ValueError: the file is missing, or empty, or says a name twice.
    """
    if recipe.data.classes:
        path = Path(recipe.data.classes)
        if not path.is_file():
            raise ValueError(f"data.classes: no file {path}")
        names = read_names(path)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice or not names:
            raise ValueError(f"{path}: expected a class a line, each once, got "
                             + (f"{twice[0]!r} twice" if twice else "none"))
        return names
    splits = (recipe.data.train, recipe.data.validation, recipe.data.test)
    rows = [row for paths in splits for row in load_rows(paths)[0]]
    return sorted({label for row in rows for label in row.labels or ()}) or None


def read_names(path: Path) -> list[str]:
    """Names of classes: a name a line, or AudioSet's table.

    Raises:
        ValueError: a table whose indices do not count from 0, or bytes that are no text.
    """
    lines = read_text(path).split("\n")
    if lines[0].strip() == "index,mid,display_name":
        rows = [row for row in csv.reader(lines[1:]) if row]
        if [row[0] for row in rows] != [str(index) for index in range(len(rows))]:
            raise ValueError(f"{path}: index must count 0, 1, 2, ...")
        return [row[2] for row in rows]
    return [line.strip() for line in lines if line.strip()]


def targets_of(clips: Sequence[Clip], classes: Sequence[str], why: str) -> np.ndarray:
    """Labels as float32 (clips, classes) of 0 and 1.

    Raises:
        ValueError: a clip without labels (`why` they are needed), or a label of no class.
    """
    column_of = {name: index for index, name in enumerate(classes)}
    targets = np.zeros((len(clips), len(classes)), np.float32)
    without = dict.fromkeys(clip.row for clip in clips if clip.labels is None)
    if without:
        num_rows = len(dict.fromkeys(clip.row for clip in clips))
        raise ValueError(f"row {next(iter(without))} has no `labels` in its manifest; "
                         f"{len(without):,} of {num_rows:,} rows have none; {why}")
    for number, clip in enumerate(clips):
        for label in clip.labels:
            if label not in column_of:
                near = get_close_matches(label, classes, 1)
                raise ValueError(f"row {clip.row}: label {label!r} is none of the {len(classes)} "
                                 + (f"classes, did you mean {near[0]!r}? Else " if near else
                                    "classes; ") + "add it to data.classes")
            targets[number, column_of[label]] = 1.0
    return targets
