"""Which table of a folder is meant, for a split or for all of it, and its clips."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from distill.data.find_files import is_left_out
from distill.data.sources.clips import FILE_COLUMNS, Clip, Columns, column_of
from distill.data.sources.layouts.file_lists import may_be_list
from distill.data.sources.layouts.sounds import sound_layout
from distill.data.sources.layouts.speech import is_list, without_names
from distill.data.sources.layouts.splits import (
    ALL,
    SPLIT_COLUMNS,
    is_same_split,
    is_split_name,
    match,
    split_of,
)
from distill.data.sources.layouts.tree import Finder, Tree, is_of_one_file, key, stem
from distill.data.sources.tables.rows import Layout, clips_of_table
from distill.data.sources.tables.table import (
    PARQUET,
    TABLES,
    has_audio_name,
    is_table,
    open_table,
    table_stem,
    table_suffix,
)
from distill.data.sources.tables.text import read_text

_METADATA = ("metadata", "manifest")
_NO_TABLES = re.compile(r"dataset_infos?|config|package|state|info|languages?", re.IGNORECASE)
# Folders beside the audio that tables lie in.
_FOLDERS = ("meta", "metadata", "manifests", "manifest", "annotations", "transcripts", "labels",
            "tables", "csv", "tsv", "ground_truth", "filelists", "filelist", "lists")


def say(message: str) -> None:
    """A line for the user's eyes: standard error, beside the progress."""
    print(message, file=sys.stderr, flush=True)


def is_metadata(name: str) -> bool:
    """Whether a table is, by its name, of all the audio beside it."""
    return table_stem(name).casefold() in _METADATA


def check_unsplit(source: Path, name: str, split: str) -> None:
    """Nobody gets the same clips for train and for test in silence.

    Args:
        name: the source's own: `corpus/test` is read as test without a word.

    Raises:
        ValueError: test of a source called train, or no usual name of a split: misspelt, perhaps.
    """
    if split == ALL or is_same_split(name, split):
        return
    if is_split_name(name) and split_of(split) != "train":  # the default is no wish
        raise ValueError(f"{source}: no split {split}; it is {name}")
    if not is_split_name(split):
        raise ValueError(f"{source}: no split {split}, nor any other; say split={ALL}")
    say(f"{source}: there are no splits; all of it is read as {split}"
        f"{'' if split_of(split) == 'train' else ', as it would be for train'}")


def tables_in(folder: Path, tree: Tree | None = None) -> list[Path]:
    """Tables of a folder itself, TSV before CSV before JSON before text, then by name; none that
    are of one audio file beside them.

    Args:
        tree: whose audio a text file may name without a suffix, if it is no list of transcripts.
    """
    def is_text_table(name: str) -> bool:
        has = None if tree is None or is_list(name) else tree.has
        return may_be_list(name) and is_table(folder / name, has)

    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_left_out(entry.name)]
    audio = {name for name in names if stem(name) != name}
    stems = set(map(stem, audio))
    names = [name for name in names if not is_of_one_file(name, audio)
             and not (table_stem(name) in stems and _is_sidecar(folder / name))]
    order = {suffix: number for number, suffix in enumerate(TABLES)}
    paths = [folder / name for name in names
             if (table_suffix(name) in order or is_text_table(name))
             and (is_metadata(name) or table_suffix(name) not in PARQUET)]
    paths = [path for path in paths if path.is_file()]
    last = len(order)
    return sorted(paths, key=lambda path: (order.get(table_suffix(path), last), path.name))


def _is_sidecar(path: Path) -> bool:
    """Whether a.json beside a.wav is one object, which says something of it."""
    if table_suffix(path) != ".json" or split_of(table_stem(path)) or is_metadata(path.name):
        return False
    try:
        value = json.loads(read_text(path))
    except (ValueError, OSError, RecursionError):
        return False  # lines of several objects
    if not isinstance(value, dict):
        return False
    named = value.get(column_of(FILE_COLUMNS, list(value)) or "")
    return not isinstance(named, str) or stem(os.path.basename(named)) == table_stem(path)


def tables_near(folder: Path, tree: Tree | None = None) -> Iterator[list[Path]]:
    """Tables of the folder, then of those in it that hold tables."""
    yield tables_in(folder, tree)
    for name in sorted(os.listdir(folder)):
        if name.casefold() in _FOLDERS and (folder / name).is_dir():
            yield tables_in(folder / name, tree)


def names_files(path: Path, tree: Tree) -> bool:
    """Whether a table says of rows which audio they are; one that cannot be read may do so."""
    try:
        table = open_table(path)
    except (ValueError, OSError):
        return table_suffix(path) != ".json"
    if table.file_column is not None or table.header is None:
        return table.file_column is not None
    cells = table.header.cells
    return has_audio_name(cells) or (len(cells) in (2, 3) and tree.has(cells[0]))


def tables_of_split(folder: Path, tree: Tree, split: str) -> list[Path]:
    """The table of that name; else the one with that word in its name, or AudioSet's several.

    Raises:
        ValueError: several tables might be meant.
    """
    for tables in tables_near(folder, tree):
        if exact := [path for path in tables if table_stem(path).casefold() == split.casefold()]:
            return _first(exact)
        stems = match([table_stem(path) for path in tables], split)
        found = [path for path in tables if table_stem(path) in stems and names_files(path, tree)]
        plain = [path for path in found if is_split_name(table_stem(path))]
        found = plain or found
        found = [path for path in found if table_suffix(path) == table_suffix(found[0])]
        if len(found) > 1 and not all(table_stem(path).endswith("_segments") for path in found):
            raise ValueError(
                f"{folder}: several tables may be {split}: {', '.join(p.name for p in found)}. "
                f"Say which: SOURCE={found[0]}")
        if found:
            return found
    return []


def _first(tables: list[Path]) -> list[Path]:
    """Of tables of one name: the same in two formats, as a rule."""
    if len(tables) > 1:
        say(f"{tables[0]} is read; not read: {', '.join(path.name for path in tables[1:])}")
    return tables[:1]


def split_named_tables(folder: Path, tree: Tree) -> list[Path]:
    """Tables that are splits by their names, one a name."""
    found: dict[str, Path] = {}
    for path in tables_in(folder, tree):
        stem = table_stem(path)
        if split_of(stem) and (is_split_name(stem) or names_files(path, tree)):
            found.setdefault(stem, path)
    return list(found.values())


def metadata_table(folder: Path, tree: Tree) -> Path | None:
    """The table of a whole folder: `metadata`, or the only one that names files.

    Raises:
        ValueError: several do.
    """
    for tables in tables_near(folder, tree):
        if named := [path for path in tables if is_metadata(path.name)]:
            return _first(named)[0]
        found = [path for path in tables
                 if not split_of(table_stem(path)) and names_files(path, tree)]
        if len(found) > 1:
            raise ValueError(f"{folder}: several tables name audio: "
                             f"{', '.join(path.name for path in found[:8])}. Say split=NAME for "
                             f"NAME{table_suffix(found[0])}, or which: SOURCE={found[0]}")
        if found:
            return found[0]
    return None


def split_counts(path: Path) -> tuple[str, Counter[str]] | None:
    """The column that says each row's split, and how many rows of each there are."""
    try:
        table = open_table(path)
    except ValueError:
        return None  # said by who reads it
    column = column_of(SPLIT_COLUMNS, table.names)
    if column is None:
        return None
    counts = Counter(str(row.cells.get(column) or "").strip()
                     for row in table.rows() if not row.problem)
    return (column, counts) if any(map(is_split_name, counts)) else None


def keep_split(path: Path, split: str) -> Callable[[dict[str, Any]], bool] | None:
    """Which rows of a table are of a split by its column; None where no column says so.

    Raises:
        ValueError: no row is of this split.
    """
    found = split_counts(path) if split != ALL else None
    if found is None:
        return None
    column, counts = found
    names = match([name for name in counts if name], split)
    listed = ", ".join(f"{name or '(nothing)'} {number}" for name, number in counts.most_common())
    if not names:
        raise ValueError(f"{path}: no split {split} in the column {column}; there are {listed}. "
                         f"Say split={ALL} for all of them")
    say(f"{path}: split {split} is the rows with {column} {' or '.join(names)}, of {listed}")
    return lambda cells: str(cells.get(column) or "").strip() in names


def say_unread(folder: Path, tree: Tree, audio: Iterable[str]) -> None:
    """Tables at a folder that is read by the names of its files: they may hold its texts."""
    known = {key(stem(name)) for name in audio}
    found = {}
    for path in chain.from_iterable(tables_near(folder, tree)):
        name = path.relative_to(tree.root).as_posix()
        if key(os.path.splitext(name)[0]) in known or _NO_TABLES.fullmatch(path.stem):
            continue
        try:
            found[name] = ", ".join(open_table(path).names[:8])
        except (ValueError, OSError) as error:
            found[name] = str(error)
    if found:
        shown = "; ".join(f"{name} ({columns})" for name, columns in list(found.items())[:3])
        say(f"{folder}: {len(found)} tables are not read, since none of their columns is called "
            f"like the names of files ({', '.join(FILE_COLUMNS[:4])}, ...): {shown}"
            f"{'; ...' if len(found) > 3 else ''}")


def read_table(
    path: Path, tree: Tree, columns: Columns, keep: Callable[[dict[str, Any]], bool] | None = None
) -> Iterator[Clip]:
    """Clips of a table, those of the rows to `keep`.

    Raises:
        ValueError: no column with the audio's names, or none of those that were named; or the
            table is where an import writes to.
    """
    tree.check(path)
    table = replace(open_table(path), keep=keep)
    finder = Finder(tree, [path.parent, tree.root, *_above(path, tree)])
    layout = sound_layout(table, finder)
    if layout is None and table.file_column is not None:
        layout = Layout("table", table.file_column)
    if layout is None and (found := without_names(table, finder)):
        table, layout = found
    if layout is None:
        raise ValueError(
            f"{path}: no column with the audio's file name (one of {', '.join(FILE_COLUMNS)}); "
            f"there are {', '.join(table.names)}")
    return clips_of_table(table, layout, columns, finder)


def _above(path: Path, tree: Tree) -> Iterable[Path]:
    """The folder above the table's, where its own is one for tables."""
    is_inside = path.parent != tree.root and path.is_relative_to(tree.root)
    is_table_folder = path.parent.name.casefold() in (*_FOLDERS, "fsd50k.ground_truth")
    return [path.parent.parent] if is_inside or is_table_folder else []
