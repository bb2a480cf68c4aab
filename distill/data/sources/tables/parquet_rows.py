"""Rows of a table in parquet, a group of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.formats.errors import pointer
from distill.data.sources.tables.json_rows import Record


def read_parquet_rows(path: Path) -> tuple[list[str], Iterator[Record]]:
    """(columns, rows; they are counted from 1).

    Raises:
        ValueError: it is no parquet.
        OSError: it cannot be opened.
    """
    import pyarrow
    import pyarrow.parquet

    with open(path, "rb") as opened:
        if told := pointer(opened.read(64)):
            raise ValueError(f"{path}: {told}")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}") from None
    return file.schema_arrow.names, _rows(file)


def _rows(file: Any) -> Iterator[Record]:
    number = 0
    for batch in file.iter_batches():
        for cells in batch.to_pylist():
            number += 1
            yield Record(number, cells)
