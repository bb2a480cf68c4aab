"""Rows of a table -> clips: file, part of it, text, speaker, language, labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.data.formats.errors import AudioError
from distill.data.sources.clips import Clip, Columns
from distill.data.sources.layouts.tree import Finder, stem
from distill.data.sources.tables.json_rows import Record
from distill.data.sources.tables.table import Table, checked
from distill.data.sources.tables.times import Times


@dataclass(frozen=True)
class Layout:
    """How a table's rows are read.

    Attributes:
        name: of the dataset, for messages.
        file: the column with the audio's name.
        labels: the column with classes, used where neither texts nor labels were asked for.
        file_of: the audio's name by a row, where the column is not enough.
        id_of: a row's id, where it is not the file's name.
        change: what is known of the clip besides its columns.
        has_times: False: columns called `start` and `end` are not of this file.
    """

    name: str
    file: str
    labels: str | None = None
    file_of: Callable[[dict[str, Any]], str] | None = None
    id_of: Callable[[dict[str, Any]], str] | None = None
    change: Callable[[Clip, dict[str, Any]], Clip] | None = None
    has_times: bool = True


def clips_of_table(
    table: Table, layout: Layout, columns: Columns, finder: Finder
) -> Iterator[Clip]:
    """Clips in the order of the rows; a row that is none has a problem.

    Raises:
        ValueError: a column that was named is not there, or there are no transcripts (at once).
    """
    table = checked(table)
    names = [name for name in table.names if name]
    if layout.labels and columns.text is None and columns.labels is None:
        columns = replace(columns, text="none", labels=layout.labels)
    asked, columns = columns, columns.resolve(names, str(table.path))
    if layout.id_of and asked.id is None:
        columns = replace(columns, id=None)  # a column `id` is of something else
    times = Times.among(names, columns.offset) if layout.has_times else Times()
    return (_clip(table, row, layout, columns, times, finder) for row in table.rows())


def _clip(
    table: Table, row: Record, layout: Layout, columns: Columns, times: Times, finder: Finder
) -> Clip:
    where = table.where(row)
    if row.problem:
        return Clip(where, name=str(table.path), problem=row.problem)
    cells = row.cells
    name = ""
    try:
        name = layout.file_of(cells) if layout.file_of else _file_name(cells.get(layout.file))
        path = finder.find(name)
        offset, duration = times.of(cells)
    except AudioError as error:
        identity = _id(cells, columns, layout) or stem(name) or where
        return Clip(identity, name=name, problem=(error.reason, f"{where}: {error.detail}"))
    identity = _id(cells, columns, layout) or _natural_id(name, path, finder)
    if times.offset is not None and columns.id is None and not layout.id_of:
        identity += f"-{round(offset * 1000):07d}"  # parts of one file
    clip = columns.clip(cells, identity, name=name, where=where)
    if times.offset is None:
        clip = replace(clip, path=path, said_seconds=duration)
    else:
        clip = replace(clip, path=path, offset=offset, duration=duration)
    return layout.change(clip, cells) if layout.change and not clip.problem else clip


def _id(cells: dict[str, Any], columns: Columns, layout: Layout) -> str | None:
    value = cells.get(columns.id) if columns.id else layout.id_of and layout.id_of(cells)
    text = "" if value is None or isinstance(value, list | dict) else str(value).strip()
    return text or None


def _natural_id(name: str, path: Path, finder: Finder) -> str:
    """The file's name as the table has it; of an absolute one, what is below the source."""
    name = name.strip().replace("\\", "/")
    if re.match(r"/|[A-Za-z]:/|file:", name) and path.is_relative_to(finder.tree.root):
        name = path.relative_to(finder.tree.root).as_posix()
    return stem(Path(name).as_posix() if "./" in name or "//" in name else name)


def _file_name(value: Any) -> str:
    """A file's name from a cell: a text, a number, or {"path": text}.

    Raises:
        AudioError: `no_file_name` or `bad_file_name`.
    """
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        value = value["path"]
    if value is None:
        raise AudioError("no_file_name", "the row names no file")
    if isinstance(value, bool | list | dict | float):
        raise AudioError("bad_file_name", f"expected the name of a file, got {value!r}")
    return str(value)
