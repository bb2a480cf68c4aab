"""Tables of users: CSV of any delimiter, TSV, JSON lines, JSON, parquet; read a row at a time.

    table = open_table(Path("metadata.csv"))
    table.names                                   # columns
    for row in table.rows(): row.line, row.cells, row.problem

The delimiter is found from the header, never from cells. A row that cannot be read whole (a cell
too many or too few, a quotation mark without its other half, bytes that are no text, a broken line
of JSON) is a row with a `problem`: counted, and never cut to what fits.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distill.data.find_files import AUDIO_SUFFIXES
from distill.data.sources.clips import FILE_COLUMNS, column_of
from distill.data.sources.tables.json_rows import Record, read_json_rows
from distill.data.sources.tables.parquet_rows import read_parquet_rows
from distill.data.sources.tables.text import Line, read_lines

DELIMITED = (".tsv", ".csv", ".psv", ".tab")
JSON = (".jsonl", ".json", ".ndjson")
PARQUET = (".parquet",)  # only metadata.parquet, as of an audiofolder
TABLES = DELIMITED + JSON + PARQUET
_DELIMITERS = "\t,;|"
_PEEK = 100  # rows of JSON that the columns are seen from, lines that a delimiter is checked by

csv.field_size_limit(2**31 - 1)  # characters of a cell; the default is 131,072


@dataclass(frozen=True)
class Header:
    """The first line of a table: where it is, from 1, and its cells."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """A table whose rows are read once.

    Attributes:
        header: the first line; None for JSON.
        names: columns; some may have no name ("").
        unit: what `Record.line` counts.
        keep: rows to leave out without a word, by their cells; None keeps all.
    """

    path: Path
    names: list[str]
    records: Iterator[Record]
    header: Header | None = None
    unit: str = "line"
    keep: Callable[[dict[str, Any]], bool] | None = None

    @property
    def file_column(self) -> str | None:
        return column_of(FILE_COLUMNS, self.names)

    def where(self, row: Record) -> str:
        return f"{self.path} {self.unit} {row.line}"

    def without_header(self, names: list[str]) -> Table:
        """The table whose first line is a row."""
        assert self.header is not None  # of JSON there is none
        first = Record(self.header.line, values=self.header.cells)
        return replace(self, names=names, records=chain([first], self.records))

    def rows(self) -> Iterator[Record]:
        """Rows by column; their problems say file and line."""
        for row in self._rows():
            if row.problem or self.keep is None or self.keep(row.cells):
                yield row

    def _rows(self) -> Iterator[Record]:
        for record in self.records:
            if record.problem:
                reason, detail = record.problem
                yield replace(record, problem=(reason, f"{self.where(record)}: {detail}"))
            elif record.values is None:
                yield record
            elif record.values != self.names and any(cell.strip() for cell in record.values):
                # a header may come again where tables were joined
                yield self._by_name(record, record.values)

    def _by_name(self, record: Record, cells: list[str]) -> Record:
        # Behind the last column that has a name there is nothing, or the end of a text.
        count = max((number for number, name in enumerate(self.names, 1) if name), default=0)
        if len(cells) < count or any(cell.strip() for cell in cells[count:]):
            detail = (f"{self.where(record)}: {len(cells)} cells, expected {count} "
                      f"({', '.join(self.names[:count])}); a text with the delimiter in it needs "
                      "quotation marks")
            return Record(record.line, {}, ("bad_row", detail))
        return Record(record.line, dict(zip(self.names, cells, strict=False)))


def open_table(path: Path) -> Table:
    """A table, by its name's ending and what the file holds.

    Raises:
        ValueError: empty, no rows, a header that cannot be read, or not one row that can.
        OSError: it cannot be opened.
    """
    if table_suffix(path) in PARQUET:
        names, rows = read_parquet_rows(path)
        return Table(path, names, rows, None, "row")
    if table_suffix(path) in JSON:
        records, unit = read_json_rows(path)
        ahead = list(islice(records, _PEEK))
        if not ahead:
            raise ValueError(f"{path}: no rows")
        readable = [record for record in ahead if not record.problem]
        if not readable:
            fault = (ahead[0].problem or ("", ""))[1]
            raise ValueError(f"{path} {unit} {ahead[0].line}: {fault}")
        names = list(dict.fromkeys(name for record in readable for name in record.cells))
        return Table(path, names, chain(ahead, records), None, unit)
    header, lines, delimiter = _header(path)
    first = list(islice(lines, _PEEK))
    dialect = _dialect(path, header.text, [line.text for line in first], delimiter)
    try:
        names = [cell.strip() for cell in next(dialect.reader([header.text]))]
    except csv.Error:
        raise ValueError(f"{path} line {header.number}: a quotation mark of the header has no "
                         "other half") from None
    records = _records(dialect, chain(first, lines))
    if not dialect.is_quoted:
        records = _without_broken_cells(records)
    return Table(path, names, records, Header(header.number, names))


def table_suffix(path: Path | str) -> str:
    """`.csv` of train.csv and of train.CSV.gz."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def table_stem(path: Path | str) -> str:
    """`train` of train.csv and of train.csv.gz."""
    name = Path(path).name
    return Path(name[:-3] if name.lower().endswith(".gz") else name).stem


def is_table(path: Path, is_audio: Callable[[str], bool] | None = None) -> bool:
    """Whether the first line of a .txt is a header or a row, with | or a tab between its cells.

    Args:
        is_audio: whether there is audio of a name that has no suffix.
    """
    try:
        line = next((line for line in read_lines(path) if line.text.strip()), None)
    except (OSError, ValueError):
        return False
    if line is None or line.fault:
        return False
    for delimiter in "\t|":
        cells = line.text.split(delimiter)
        if len(cells) > 1 and (has_audio_name(cells[:1]) or column_of(FILE_COLUMNS, cells)
                               or (is_audio and is_audio(cells[0].strip()))):
            return True
    return False


def checked(table: Table) -> Table:
    """The table, if its header says which column is which and there are rows.

    Raises:
        ValueError: a name twice, or nothing below the header.
    """
    twice = [name for name in table.names if name and table.names.count(name) > 1]
    if twice and table.header:
        raise ValueError(f"{table.path} line {table.header.line}: two columns are called "
                         f"{twice[0]}; there are {', '.join(table.names)}")
    first = next(table.records, None)
    if first is None:
        raise ValueError(f"{table.path}: no rows")
    return replace(table, records=chain([first], table.records))


def has_audio_name(cells: Iterable[str]) -> bool:
    """Whether one of them is the name of an audio file: no header has that."""
    return any(Path(cell.strip()).suffix.lower() in AUDIO_SUFFIXES for cell in cells)


def _header(path: Path) -> tuple[Line, Iterator[Line], str | None]:
    """The line with the names, those behind it, and the delimiter where Excel says it."""
    lines = read_lines(path)
    delimiter, comment = None, None
    for line in lines:
        if line.fault:
            raise ValueError(f"{path} line {line.number}: {line.fault}")
        if declared := re.fullmatch(r"sep=(.)", line.text.strip("\r\n ")):
            delimiter = declared[1]
        elif line.text.startswith("#"):
            comment = line
        elif line.text.strip():
            names = replace(comment, text=comment.text.lstrip("# ")) if comment else None
            if names and _knows_column(names.text):  # AudioSet's is a comment
                return names, chain([line], lines), delimiter
            return line, lines, delimiter
    raise ValueError(f"{path}: the file is empty")


def _split(line: str, delimiter: str) -> list[str]:
    return [cell.strip(' "') for cell in line.split(delimiter)]


def _knows_column(line: str) -> bool:
    return any(column_of(FILE_COLUMNS, _split(line, each)) for each in _DELIMITERS)


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    is_quoted: bool

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self.delimiter, strict=True,
                          quoting=csv.QUOTE_MINIMAL if self.is_quoted else csv.QUOTE_NONE,
                          skipinitialspace=self.delimiter != "\t")


def _dialect(path: Path, header: str, ahead: list[str], delimiter: str | None) -> _Dialect:
    usual = "\t" if table_suffix(path) in (".tsv", ".tab") else ","
    order = sorted(_DELIMITERS, key=lambda each: each != usual)
    if delimiter is None:
        known = [each for each in order if column_of(FILE_COLUMNS, _split(header, each))]
        steady = [each for each in order if header.count(each) and all(
            line.count(each) == header.count(each) for line in ahead if line.strip())]
        # Without a name that is known the first line may be a row: all rows have as many cells.
        delimiter = max(known or steady or order, key=header.count)
    # Bare quotation marks are part of Common Voice's sentences; elsewhere they hold a cell.
    is_quoted = delimiter in ",;" or all(
        re.fullmatch(r'\s*".*"\s*', cell) for cell in header.split(delimiter))
    return _Dialect(delimiter, is_quoted)


# Rows

class _Taken:
    """Lines as text, remembering those that were taken for the row being read."""

    def __init__(self, lines: Iterator[Line]):
        self._lines = lines
        self.lines: list[Line] = []

    def __iter__(self) -> _Taken:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.lines.append(line)
        return line.text + "\n"


def _records(dialect: _Dialect, lines: Iterator[Line]) -> Iterator[Record]:
    taken = _Taken(lines)
    reader = dialect.reader(taken)
    while True:
        taken.lines = []
        try:
            cells: list[str] | None = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = None
        if len(taken.lines) == 1 or (cells is not None and _is_one_row(dialect, taken.lines)):
            yield from _record(dialect, taken.lines, cells)
        else:  # a quotation mark without its other half took all of these
            for line in taken.lines:
                yield from _record(dialect, [line], _alone(dialect, line))


def _is_one_row(dialect: _Dialect, lines: list[Line]) -> bool:
    """Whether lines are one row with a line break in a cell, and not several with a quotation mark
    too many: then a line behind the first is a row by itself."""
    return not any(cells and len(cells) > 1 and has_audio_name(cells)
                   for cells in (_alone(dialect, line) for line in lines[1:]))


def _alone(dialect: _Dialect, line: Line) -> list[str] | None:
    try:
        return next(dialect.reader([line.text]), [])
    except csv.Error:
        return None


def _record(dialect: _Dialect, lines: list[Line], cells: list[str] | None) -> Iterator[Record]:
    number = lines[0].number
    fault = next((line.fault for line in lines if line.fault), None)
    if fault:
        yield Record(number, problem=("bad_text", fault))
    elif cells is None:
        yield Record(number, problem=("bad_row", 'a quotation mark (") without its other half'))
    elif cells:
        values = cells if dialect.is_quoted else [_unquoted(cell) for cell in cells]
        yield Record(number, values=values)


def _without_broken_cells(records: Iterator[Record]) -> Iterator[Record]:
    """Where marks are part of texts, a cell with a line break is cut by it: its first line, which
    looks whole, is told by its open mark and by the shorter line behind it."""
    held: Record | None = None
    for record in records:
        if held is not None:
            cells, behind = held.values, record.values  # None: the row has a problem
            is_cut = (cells and behind and len(behind) < len(cells)
                      and cells[-1].startswith('"') and cells[-1].count('"') % 2)
            yield replace(held, values=None, problem=("bad_row", "a line break in a cell")
                          ) if is_cut else held
        held = record
    if held is not None:
        yield held


def _unquoted(cell: str) -> str:
    # A program doubles the marks inside of its own; `"Wedi` and `"Yes"` are what was said.
    inner = cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else ""
    is_doubled = '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_doubled else cell
