"""Where the audio of parquet files lies, byte for byte: in columns that are not compressed, as
`datasets` writes those of audio since version 5, and others on request.

    places = places_in(["train-00000.parquet"], "audio")
    places[hash_of_bytes(data)]                  # train-00000.parquet#bytes=1536+204800
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distill.data.formats.addresses import is_remote, part_of_file
from distill.data.formats.remote import RemoteFile
from distill.progress import progress

# of a file behind a URL that are asked for at once: pyarrow reads again what was just read
_BLOCK_BYTES = 1 << 26


@dataclass
class Places:
    """Attributes:
        found: {`hash_of_bytes`: place}.
        num_packed: row groups whose audio is compressed: it lies nowhere as it is.
    """

    found: dict[str, str]
    num_packed: int = 0


def hash_of_bytes(data: bytes) -> str:
    """What tells the bytes of an audio file from others."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def places_in(files: Iterable[str], column: str) -> Places:
    """Places of all audio in parquet files.

    Args:
        files: paths, or URLs.
        column: of audio: bytes, or a struct with a field `bytes`.

    Raises:
        OSError, pyarrow.ArrowInvalid: a file cannot be read.
    """
    places, files = Places({}), list(files)
    for file in progress(files, len(files), "looking for audio in parquet", "files"):
        with _opened(file) as raw:
            for start, size, data in _audio_in(raw, column, places):
                places.found.setdefault(hash_of_bytes(data), part_of_file(file, start, size))
    return places


def _opened(file: str) -> io.BufferedReader:
    if is_remote(file):
        return io.BufferedReader(RemoteFile(file, _BLOCK_BYTES))
    return open(file, "rb")


def _audio_in(
    raw: io.BufferedReader, column: str, places: Places
) -> Iterator[tuple[int, int, bytes]]:
    """(first byte, bytes, the bytes) of each value that lies in the file as it is."""
    import pyarrow.parquet as parquet

    table = parquet.ParquetFile(raw)
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        chunk = next((chunk for chunk in map(group.column, range(group.num_columns))
                      if chunk.path_in_schema in (column, f"{column}.bytes")), None)
        if chunk is None:
            continue
        if chunk.compression != "UNCOMPRESSED":
            places.num_packed += 1
            continue
        start, pages = _pages(raw, chunk)
        values = table.read_row_group(number, columns=[chunk.path_in_schema]).column(0)
        at = 0
        for value in values:
            data = value.as_py()
            data = data.get("bytes") if isinstance(data, dict) else data
            if not data:
                continue
            here = pages.find(data, at)
            here = pages.find(data) if here < 0 else here  # of a dictionary
            if here >= 0:
                at = here + len(data)
                yield start + here, len(data), data


def _pages(raw: io.BufferedReader, chunk: Any) -> tuple[int, bytes]:
    """(first byte, bytes) of a column in a row group, headers of its pages included."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    raw.seek(start)
    return start, raw.read(chunk.total_compressed_size)
