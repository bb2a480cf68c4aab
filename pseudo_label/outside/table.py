"""A table of texts that another system has written (`pseudo_label.backend: table`).

    {"id": "train-0", "text": "Please hold.", "confidence": 0.93,
     "words": [{"word": "Please", "start": 0.4, "end": 0.7}, {"word": "hold.", ...}]}

JSON lines, or CSV with the same columns (words as JSON in their cell). What is wrong with a table
ends the command with one sentence that names the first places; a clip without a usable row is left
out and counted. Rows may come, go and change between two runs: a clip of another text is labelled
again.
"""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from distill.data.files import hash_of
from distill.data.json_rows import BadLines
from distill.data.manifest import Row
from distill.data.sources.tables.table import open_table
from distill.data.speech.windows import is_long
from distill.whisper.recipe import PseudoLabelConfig

Word = tuple[str, float, float]  # as it is written, start and end in seconds from the clip's start
_OPTIONAL = ("confidence", "words")
_NEAR = 0.75  # names so alike are typing errors


@dataclass(frozen=True)
class Said:
    """What the system wrote of a clip. `confidence` in [0, 1]."""

    text: str
    confidence: float | None = None
    words: tuple[Word, ...] | None = None

    @property
    def logprob(self) -> float | None:
        return None if self.confidence is None else math.log(max(self.confidence, 1e-9))

    @property
    def hash(self) -> str:
        return hash_of([self.text, self.confidence, self.words])


@dataclass(frozen=True)
class Texts:
    """The rows of a table that are of clips.

    Attributes:
        said: {clip: what was said}, of all clips that can be labelled.
        drops: clips that cannot, by reason: `no_label` (no row), `empty_text`, `no_word_times`
            (longer than a window, and nobody says when its words come).
        notes: sentences on what was not read.
    """

    said: dict[str, Said]
    drops: Counter
    notes: tuple[str, ...]


def texts_of(config: PseudoLabelConfig, rows: Sequence[Row]) -> Texts:
    """The texts of clips.

    Raises:
        ValueError: the table is not there or is wrong (see `read_table`); an id is that of several
            clips, or none of them is a clip's.
    """
    path = Path(config.table.path)
    if not path.is_file():
        raise ValueError(f"pseudo_label.table.path: there is no file {path}")
    stat = path.stat()
    table, notes = read_table(path, config.table.id_column, config.table.text_column,
                              (stat.st_size, stat.st_mtime_ns))
    names = _names(path, table, rows)
    said, drops = {}, Counter()
    for row in rows:
        found = table.get(names[row.id])
        if found is None:
            drops["no_label"] += 1
        elif not found.text:
            drops["empty_text"] += 1
        elif is_long(row, config.window_seconds) and not found.words:
            drops["no_word_times"] += 1
        else:
            said[row.id] = found
    if drops["no_label"] == len(rows):
        raise ValueError(f"{path}: no id in it is that of a clip in data.train: the table has "
                         f"{_some(table)}, the clips are {_some(row.id for row in rows)}")
    unused = len(table) - len(table.keys() & set(names.values()))
    if unused:
        notes = (*notes, f"{unused:,} rows are of no clip in data.train")
    return Texts(said, drops, notes)


def _names(path: Path, table: dict[str, Said], rows: Sequence[Row]) -> dict[str, str]:
    """{clip: its id in the table}: with several manifests a clip's id has the manifest's in front,
    which the table need not have."""
    names = {row.id: row.id if row.id in table else row.id.split(":", 1)[-1] for row in rows}
    counts = Counter(name for name in names.values() if name in table)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        clips = _some(clip for clip, name in names.items() if name == twice[0])
        raise ValueError(f"{path}: the id {twice[0]} is that of several clips ({clips}); write "
                         "these whole ids into the table")
    return names


@lru_cache(maxsize=1)
def read_table(
    path: Path, id_column: str, text_column: str, version: tuple[int, int]
) -> tuple[dict[str, Said], tuple[str, ...]]:
    """The rows of a table by id, and sentences on what was not read. Not to be changed.

    Args:
        version: size and time of the file, so that it is read again when it was changed.

    Raises:
        BadLines: rows without an id or with one that has another text elsewhere, values of a wrong
            type, broken lines; the first three are named, the others counted.
        ValueError: it is empty, or a column is not there.
    """
    table = open_table(path)
    notes = _check_columns(path, table.names, id_column, text_column)
    said: dict[str, Said] = {}
    places: dict[str, int] = {}
    problems, repeated = [], 0
    for record in table.rows():
        place = f"{table.unit} {record.line}"
        try:
            if record.problem:
                raise ValueError(record.problem[1].removeprefix(f"{table.where(record)}: "))
            name = _id(record.cells.get(id_column), id_column)
            row = _said(record.cells, text_column)
            if said.get(name, row) != row:
                raise ValueError(f"the id {name} has another text in {table.unit} {places[name]}")
        except ValueError as error:
            problems.append((place, str(error)))
            continue
        repeated += name in said
        said[name] = row
        places.setdefault(name, record.line)
    if problems:
        raise BadLines(path, problems)
    if repeated:
        notes.append(f"{repeated:,} rows are there twice")
    return said, tuple(notes)


def _check_columns(path: Path, names: Sequence[str], id_column: str, text_column: str) -> list[str]:
    for key, name in (("id_column", id_column), ("text_column", text_column)):
        if name not in names:
            raise ValueError(f"{path}: no column {name}; there are {', '.join(names)}: say "
                             f"pseudo_label.table.{key}=NAME")
    known = [id_column, text_column, *_OPTIONAL]
    others = [name for name in names if name and name not in known]
    for name in others:
        near = difflib.get_close_matches(name, [k for k in _OPTIONAL if k not in names], 1, _NEAR)
        if near:
            raise ValueError(f"{path}: unknown column {name}; did you mean {near[0]}?")
    return [f"columns that are not read: {', '.join(others)}"] if others else []


def _id(value: object, column: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{column} must be the id of a clip, got {value!r}")
    return value.strip()


def _said(cells: dict, text_column: str) -> Said:
    text = cells.get(text_column)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{text_column} must be a text, got {text!a:.60}")
    return Said(" ".join((text or "").split()), _confidence(cells.get("confidence")),
                _words(cells.get("words")))


def _confidence(value: object) -> float | None:
    if value in (None, ""):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"confidence must be a number from 0 to 1, got {value!a:.60}")
    return number


def _words(value: object) -> tuple[Word, ...] | None:
    if value in (None, ""):
        return None
    try:
        found = json.loads(value) if isinstance(value, str) else value
        words = tuple((str(each["word"]).strip(), float(each["start"]), float(each["end"]))
                      for each in found)
        if not all(0 <= start <= end < math.inf for _, start, end in words):
            raise ValueError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("words must be a list of {word, start, end} in seconds, got "
                         f"{value!a:.60}") from None
    return tuple(sorted(words, key=lambda word: word[1:]))


def _some(names: Iterable[str]) -> str:
    """The first three."""
    first = list(islice(names, 4))
    return ", ".join(first[:3]) + ", ..." * (len(first) > 3)
