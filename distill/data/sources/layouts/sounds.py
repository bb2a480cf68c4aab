"""Tables of datasets of sounds, known by their columns wherever they lie.

    ESC-50          meta/esc50.csv                    filename, fold, category
    UrbanSound8K    metadata/UrbanSound8K.csv         slice_file_name, fold, class
    FSD50K          FSD50K.ground_truth/{dev,eval}.csv  fname, labels, split
    AudioSet        *_segments.csv                    # YTID, start_seconds, ..., positive_labels
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from distill.data.audio import audio_info
from distill.data.formats.errors import AudioError
from distill.data.sources.clips import Clip, column_of, folded
from distill.data.sources.layouts.tree import Finder, stem
from distill.data.sources.tables.rows import Layout
from distill.data.sources.tables.table import Table, open_table, table_stem

_SLACK_SECONDS = 1.0  # that a clip cut from a video may be longer than its row says


def sound_layout(table: Table, finder: Finder) -> Layout | None:
    """How a table of a known dataset is read; None for any other."""
    names = {folded(name) for name in table.names}
    if {"filename", "fold", "category"} <= names:
        return Layout("ESC-50", _column(table, "filename"), labels=_column(table, "category"))
    if {"slice_file_name", "fold", "class"} <= names:
        return _urbansound8k(table)
    if {"fname", "labels"} <= names:
        return _fsd50k(table)
    if {"ytid", "start_seconds", "end_seconds", "positive_labels"} <= names:
        return _audioset(table, finder)
    return None


def _column(table: Table, name: str) -> str:
    """How a column that is there is written."""
    column = column_of([name], table.names)
    assert column is not None, name
    return column


def _urbansound8k(table: Table) -> Layout:
    """Its `start` and `end` are of the recording that a clip was cut from."""
    name, fold = (_column(table, each) for each in ("slice_file_name", "fold"))

    def file_of(row: dict[str, Any]) -> str:
        file = row[name].strip()
        return f"fold{row[fold].strip()}/{file}" if file else ""

    return Layout("UrbanSound8K", name, labels=_column(table, "class"), has_times=False,
                  file_of=file_of, id_of=lambda row: stem(row[name].strip()))


def _fsd50k(table: Table) -> Layout:
    """Names without suffix; the table's own name says which folder they lie in."""
    name = _column(table, "fname")
    part = "eval" if table_stem(table.path).casefold() == "eval" else "dev"
    root = table.path.parent.parent
    folder = f"FSD50K.{part}_audio"
    prefix = f"{folder}/" if (root / folder).is_dir() else ""

    def file_of(row: dict[str, Any]) -> str:
        if not row[name].strip():
            raise AudioError("no_file_name", "the row names no file")
        return f"{prefix}{row[name].strip()}"

    return Layout("FSD50K", name, labels=_column(table, "labels"), file_of=file_of,
                  id_of=lambda row: row[name], has_times=False)


def _audioset(table: Table, finder: Finder) -> Layout:
    """Sounds of videos: cut to the row's seconds, or whole, which their length says."""
    name, start, end, labels = (_column(table, each) for each in (
        "ytid", "start_seconds", "end_seconds", "positive_labels"))
    display = _display_names(table.path)
    files = {stem(PurePosixPath(each).name): each for each in reversed(finder.tree.audio)}

    def file_of(row: dict[str, Any]) -> str:
        video = row[name].strip()
        if not video:
            raise AudioError("no_file_name", "the row names no video")
        # Whole paths: the names of two videos may differ in the case of their letters alone.
        names = _file_names(video, row[start], row[end])
        file = next((files[each] for each in names if each in files), f"{video}.wav")
        return str(finder.tree.root / file)

    def change(clip: Clip, row: dict[str, Any]) -> Clip:
        mids = [each.strip() for each in row[labels].split(",") if each.strip()]
        clip = replace(clip, labels=tuple(display.get(mid, mid) for mid in mids))
        try:
            offset, duration = float(row[start]), float(row[end]) - float(row[start])
            total = audio_info(clip.path)[0] if clip.path and os.path.isfile(clip.path) else 0.0
        except ValueError:  # AudioError, too: counted where it is read
            return clip
        if total > duration + _SLACK_SECONDS:
            return replace(clip, offset=offset, duration=duration)
        return clip

    return Layout("AudioSet", name, labels=labels, file_of=file_of, change=change, has_times=False,
                  id_of=lambda row: row[name])


def _file_names(video: str, start: str, end: str) -> list[str]:
    """What tools call the sound of a video."""
    try:
        first, last = float(start), float(end)
    except ValueError:
        return [video, f"Y{video}"]
    times = (f"{first:.0f}_{last:.0f}", f"{first:.3f}_{last:.3f}", f"{first}_{last}",
             f"{first * 1000:.0f}_{last * 1000:.0f}", f"{first:.0f}", f"{first * 1000:.0f}",
             f"{first:.3f}")
    stems = (video, f"Y{video}")
    return [*stems, *(f"{each}_{time}" for each in stems for time in times)]


def _display_names(path: Path) -> dict[str, str]:
    """{"/m/09x0r": "Speech"} of class_labels_indices.csv beside the table or above it."""
    for folder in (path.parent, path.parent.parent):
        indices = folder / "class_labels_indices.csv"
        if indices.is_file():
            return {row.cells["mid"].strip(): row.cells["display_name"].strip()
                    for row in open_table(indices).rows()
                    if {"mid", "display_name"} <= row.cells.keys()}
    print(f"{path}: labels stay as they are (/m/...): no class_labels_indices.csv beside it")
    return {}
