"""Rows of JSON lines, of a JSON array, or of an object that holds one, whatever the file's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distill.data.find_files import AUDIO_SUFFIXES
from distill.data.sources.clips import FILE_COLUMNS, column_of
from distill.data.sources.tables.text import Line, read_lines, read_text


@dataclass(frozen=True)
class Record:
    """A row: cells by column, or (reason, detail) of what cannot be read. `line` is where it
    begins, from 1; `values` are the cells in order where columns have no names yet."""

    line: int
    cells: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None
    values: list[str] | None = None


def read_json_rows(path: Path) -> tuple[Iterator[Record], str]:
    """Rows, and whether they are counted by "line" or by "row".

    Raises:
        ValueError: empty, or an array that is not whole.
    """
    lines = (line for line in read_lines(path) if line.text.strip() or line.fault)
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{path}: the file is empty")
    ahead = [first, *islice(lines, 1)]
    if first.fault or (isinstance(_parsed(first.text), dict) and len(ahead) > 1):
        return map(_record, chain(ahead, lines)), "line"
    whole = _whole(path, first)
    if whole is None or whole == [_parsed(first.text)]:
        return map(_record, chain(ahead, lines)), "line"
    return (Record(number, row) if isinstance(row, dict) else _no_object(number, row)
            for number, row in enumerate(whole, 1)), "row"


def _whole(path: Path, first: Line) -> list[Any] | None:
    """The array that the file is; None if it is lines."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        is_array = first.text.lstrip().startswith("[") and not isinstance(
            _parsed(first.text), list)
        if is_array:
            raise ValueError(f"{path} line {error.lineno}: {error.msg}") from None
        return None
    except RecursionError:
        raise ValueError(f"{path}: JSON that is nested too deeply") from None
    if isinstance(value, dict) and not _is_row(value):  # {"data": [...]}
        lists = [each for each in value.values() if isinstance(each, list)
                 and each and isinstance(each[0], dict)]
        return lists[0] if len(lists) == 1 else [value]
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else None


def _is_row(value: dict[str, Any]) -> bool:
    """Whether an object names its audio; a list in it (of words with their times) holds no rows."""
    column = column_of(FILE_COLUMNS, list(value))
    name = value[column] if column is not None else None
    return isinstance(name, dict) or (
        isinstance(name, str) and Path(name).suffix.lower() in AUDIO_SUFFIXES)


def _record(line: Line) -> Record:
    if line.fault:
        return Record(line.number, {}, ("bad_text", line.fault))
    try:
        row = json.loads(line.text)
    except json.JSONDecodeError as error:
        return Record(line.number, {}, ("bad_row", f"no JSON: {error.msg} at column {error.colno}"))
    except (ValueError, RecursionError) as error:
        return Record(line.number, {}, ("bad_row", f"no JSON: {error}"))
    return Record(line.number, row) if isinstance(row, dict) else _no_object(line.number, row)


def _no_object(number: int, row: Any) -> Record:
    kind = {str: "a text", list: "a list", type(None): "null"}.get(type(row), "a number")
    return Record(number, {}, ("bad_row", f"expected an object {{...}}, got {kind}"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
