"""One shard: an immutable HDF5 file of a teacher's records of some views.

Layout, all datasets contiguous and uncompressed, for `n` views of `rows` rows together:

    digests        (n,)        uint64   blake2b of each view's text
    offsets        (n + 1,)    int64    rows of view i: offsets[i] to offsets[i + 1]
    drawn          (bytes,)    uint8    the views' texts, UTF-8, one after the other
    drawn_offsets  (n + 1,)    int64
    columns/NAME   (rows, ...) any number type

HDF5 says where each array lies; it is then read through one memory map of the file, which is safe
in forked workers and many times faster than h5py. The file's name is its SHA-256: equal content is
an equal file, on any machine and in any order of writing.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill.data.teacher_store.disk import StoreError, publish

FORMAT = "audio-distill teacher store"
SCHEMA_VERSION = 1
PATTERN = "shard-*.h5"
SCORE_AGAIN = "remove it and run `make NAME.label`: only its views are scored again"
_FIXED = ("digests", "offsets", "drawn", "drawn_offsets")
MAX_METADATA_BYTES = 32_768  # HDF5 keeps attributes in a header of 64 KiB
_ALIGNMENT = 64  # bytes, a cache line: NumPy and torch are slow, or refuse, where data is unaligned


@dataclass(frozen=True)
class Record:
    """What the teacher gave for one view.

    Args:
        key: canonical JSON of everything drawn for the view: its identity (see `view_key`).
        columns: arrays (rows, ...), the same number of rows in all, which may be 0.
    """

    key: str
    columns: dict[str, np.ndarray]


def view_key(drawn: dict) -> str:
    """Canonical JSON of what was drawn for a view: equal draws give equal texts."""
    return json.dumps(drawn, sort_keys=True, separators=(",", ":"), ensure_ascii=False,
                      allow_nan=False)


def encode(text: str) -> bytes:
    # ids made of file names may hold halves of a surrogate pair
    return text.encode("utf-8", "surrogatepass")


def digest_of(text: str) -> int:
    """64-bit name of a view's text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(encode(text), digest_size=8).digest(), "little")


def digests_of(encoded: Sequence[bytes]) -> np.ndarray:
    """`digest_of` of many encoded texts: (n,) uint64."""
    digests = (hashlib.blake2b(data, digest_size=8).digest() for data in encoded)
    return np.frombuffer(b"".join(digests), "<u8")


@dataclass
class Content:
    """Views to be written: each array in pieces, joined one after the other when written."""

    digests: list[np.ndarray] = field(default_factory=list)  # (n,) uint64
    counts: list[np.ndarray] = field(default_factory=list)  # (n,) int64, rows of each view
    drawn: list[np.ndarray] = field(default_factory=list)  # (bytes,) uint8
    drawn_counts: list[np.ndarray] = field(default_factory=list)  # (n,) int64
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)  # (rows, ...)

    def extend(self, other: Content) -> None:
        for name in ("digests", "counts", "drawn", "drawn_counts"):
            getattr(self, name).extend(getattr(other, name))
        for name, pieces in other.columns.items():
            self.columns.setdefault(name, []).extend(pieces)


Types = dict[str, tuple[np.dtype, tuple[int, ...]]]  # column: type, shape of one row


def content_of(records: Sequence[Record], types: Types) -> Content:
    """Records as the arrays of a shard.

    Args:
        types: of the columns already in the store; filled from the first record when empty.

    Raises:
        StoreError: a record whose columns do not fit together, or not those of the store.
    """
    content = Content()
    encoded = [encode(record.key) for record in records]
    counts = [_num_rows(record, types) for record in records]
    content.digests.append(digests_of(encoded))
    content.counts.append(np.array(counts, np.int64))
    content.drawn.append(np.frombuffer(b"".join(encoded), np.uint8))
    content.drawn_counts.append(np.array([len(data) for data in encoded], np.int64))
    if records:
        content.columns = {
            name: [np.asarray(record.columns[name]) for record in records]
            for name in sorted(types)
        }
    return content


def _num_rows(record: Record, types: Types) -> int:
    """Rows of a record, after checking its columns."""
    where = f"view {record.key}"
    arrays = {name: np.asarray(values) for name, values in record.columns.items()}
    if not arrays:
        raise StoreError(f"{where} has no columns; a teacher store holds at least one")
    for name, values in arrays.items():
        if not name or "/" in name or name == ".":
            raise StoreError(f"{where}: {name!r} cannot name a column: HDF5 reads it as a path")
        if values.ndim == 0 or values.dtype.kind not in "iufc":
            raise StoreError(f"{where}: column {name!r} must be numbers of shape (rows, ...), got "
                             f"{values.dtype} of shape {values.shape}")
    counts = {name: len(values) for name, values in arrays.items()}
    if len(set(counts.values())) > 1:
        raise StoreError(f"{where}: all columns need the same number of rows, got {counts}")
    got = {name: (_native(values.dtype), values.shape[1:]) for name, values in arrays.items()}
    check_types(where, got, types)
    return next(iter(counts.values()))


def check_types(where: str, got: Types, types: Types) -> None:
    """Raise unless columns are those of the store; an empty store takes them as its own."""
    if not types:
        types.update(got)
    if got != types:
        raise StoreError(f"{where} has columns {_types_text(got)}; the others in this store have "
                         f"{_types_text(types)}")


def _types_text(types: Types) -> str:
    return ", ".join(f"{name} {dtype}{list(shape) if shape else ''}"
                     for name, (dtype, shape) in sorted(types.items()))


def _native(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("=")


def write_shard(folder: Path, content: Content, settings_hash: str, metadata: str) -> Shard:
    """Write a shard, whole or not at all; the same content gives the same file.

    Raises:
        StoreError: the disk is full.
    """
    # HDF5 writes to memory and plain Python to disk: with a full disk HDF5 2.0 prints pages of
    # errors and ends the process with a segmentation fault.
    image = _image(content, settings_hash, metadata)
    digest = hashlib.sha256(image).hexdigest()
    path = folder / f"shard-{digest[:32]}.h5"
    publish(path, image)
    return read_layout(path, settings_hash)


def _image(content: Content, settings_hash: str, metadata: str) -> memoryview:
    """The bytes of a shard."""
    import h5py

    if len(metadata.encode()) > MAX_METADATA_BYTES:
        raise StoreError(f"metadata of a shard must fit {MAX_METADATA_BYTES:,} bytes, got "
                         f"{len(metadata.encode()):,}")
    offsets, drawn_offsets = _offsets(content.counts), _offsets(content.drawn_counts)
    arrays = {
        "digests": _joined(content.digests), "offsets": offsets,
        "drawn": _joined(content.drawn), "drawn_offsets": drawn_offsets,
        **{f"columns/{name}": pieces for name, pieces in content.columns.items()},
    }
    attributes = {
        "format": FORMAT, "schema_version": SCHEMA_VERSION, "settings_hash": settings_hash,
        "num_views": len(offsets) - 1, "num_rows": int(offsets[-1]), "metadata": metadata,
    }
    buffer = io.BytesIO()
    # The oldest layout that has checksums of its own; fixed, so that bytes do not change with the
    # version of HDF5.
    with h5py.File(buffer, "w", libver=("v108", "v108"), alignment_threshold=1,
                   alignment_interval=_ALIGNMENT) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        file.create_group("columns")
        for name, values in arrays.items():
            values = _joined(values) if isinstance(values, list) else values
            file.create_dataset(name, data=values, track_times=False)
    return buffer.getbuffer()


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    joined = np.concatenate(pieces)
    return joined.astype(_native(joined.dtype), copy=False)


def _offsets(counts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])


class Extent(NamedTuple):
    """Where an array lies in a file."""

    offset: int  # bytes; 0 for an array of size 0, which HDF5 does not place
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def of(self, buffer: mmap.mmap) -> np.ndarray:
        """The array; a plain ndarray, since slicing an np.memmap takes 10 times longer."""
        if not self.num_bytes:
            return np.frombuffer(b"", self.dtype).reshape(self.shape)
        count = self.num_bytes // self.dtype.itemsize
        return np.frombuffer(buffer, self.dtype, count, self.offset).reshape(self.shape)


class Mapped(NamedTuple):
    """A shard's arrays, read-only, in a memory map of the file."""

    offsets: memoryview  # its items are Python ints: faster to slice with than NumPy's, no copy
    columns: list[tuple[str, np.ndarray]]
    drawn: np.ndarray
    drawn_offsets: memoryview


@dataclass
class Shard:
    """A shard on disk: where its arrays lie."""

    path: Path
    num_bytes: int
    metadata: str
    extents: dict[str, Extent]
    mapped: Mapped | None = None  # kept here by the store while it is in use
    gone: bool = False  # removed by another process

    def __getstate__(self) -> dict:
        return {**self.__dict__, "mapped": None}  # a spawned worker maps the file itself

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def num_views(self) -> int:
        return self.extents["digests"].shape[0]

    @property
    def num_rows(self) -> int:
        columns = [extent for name, extent in self.extents.items() if "/" in name]
        return columns[0].shape[0] if columns else 0

    @property
    def data_bytes(self) -> int:
        """Of its arrays; the file has about 7 kB more."""
        return sum(extent.num_bytes for extent in self.extents.values())

    @property
    def types(self) -> Types:
        return {name.removeprefix("columns/"): (extent.dtype, extent.shape[1:])
                for name, extent in self.extents.items() if "/" in name}

    def map(self) -> Mapped:
        """Map the file into memory.

        Raises:
            StoreError: it is gone, or shorter than when the store was opened.
        """
        try:
            with open(self.path, "rb") as file:
                check_size(self.path, os.fstat(file.fileno()).st_size, self.num_bytes)
                buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise self.vanished() from None
        arrays = {name: extent.of(buffer) for name, extent in self.extents.items()}
        return Mapped(
            offsets=memoryview(arrays["offsets"]),
            columns=[(name.removeprefix("columns/"), values)
                     for name, values in arrays.items() if "/" in name],
            drawn=arrays["drawn"], drawn_offsets=memoryview(arrays["drawn_offsets"]),
        )

    def read_digests(self) -> np.ndarray:
        extent = self.extents["digests"]
        try:
            return np.fromfile(self.path, extent.dtype, self.num_views, offset=extent.offset)
        except FileNotFoundError:
            raise self.vanished() from None

    def vanished(self) -> StoreError:
        return StoreError(f"{self.path} is gone since the store was opened (merged by `repack`, or "
                          "removed): start the command again")


def read_layout(path: Path, settings_hash: str, listed_bytes: int | None = None) -> Shard:
    """Open a shard, check it without reading its data, and close it again.

    Args:
        settings_hash: of the store it lies in.
        listed_bytes: its size by index.json, None where it is not listed.

    Raises:
        FileNotFoundError
        StoreError: it is truncated, no shard, or a shard of another store.
    """
    import h5py

    size = path.stat().st_size
    if listed_bytes is not None:
        check_size(path, size, listed_bytes)
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            check_attributes(path, attributes, settings_hash)
            extents = {name: _extent(path, file[name]) for name in _FIXED}
            for name, dataset in file["columns"].items():
                extents[f"columns/{name}"] = _extent(path, dataset)
    except (FileNotFoundError, StoreError):
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # all of h5py's
        _raise_unopened(path, size, error)
    end = max(extent.offset + extent.num_bytes for extent in extents.values())
    check_size(path, size, end, at_least=True)
    shard = Shard(path, size, str(attributes["metadata"]), extents)
    stated = (int(attributes["num_views"]), int(attributes["num_rows"]))
    if stated != (shard.num_views, shard.num_rows):
        raise StoreError(f"{path}: it says {stated} views and rows, its arrays have "
                         f"{(shard.num_views, shard.num_rows)}; {SCORE_AGAIN}")
    return shard


def _extent(path: Path, dataset) -> Extent:
    extent = Extent(dataset.id.get_offset() or 0, dataset.shape, dataset.dtype)
    if extent.num_bytes and not extent.offset:
        raise StoreError(f"{path}: {dataset.name} is not contiguous: another program wrote this "
                         f"file; {SCORE_AGAIN}")
    return extent


def check_size(path: Path, size: int, expected: int, at_least: bool = False) -> None:
    if size < expected:
        raise StoreError(f"{path}: truncated: {size:,} of {expected:,} bytes; {SCORE_AGAIN}")
    if size > expected and not at_least:
        raise StoreError(f"{path}: {size:,} bytes, where {expected:,} were written; {SCORE_AGAIN}")


def check_attributes(path: Path, attributes: dict, settings_hash: str) -> None:
    """Raise unless a shard is of our format and of the store it lies in."""
    if attributes.get("format") != FORMAT:
        raise StoreError(f"{path}: not a shard of a teacher store; move it out of this folder")
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; "
                         f"{SCORE_AGAIN}")
    if attributes.get("settings_hash") != settings_hash:
        raise StoreError(
            f"{path}: a shard of another store: its settings have the hash "
            f"{attributes.get('settings_hash')}, this store's {settings_hash}; move it back"
        )


def _raise_unopened(path: Path, size: int, error: Exception) -> None:
    stated = re.search(r"stored_eof = (\d+)", str(error))
    if stated:
        check_size(path, size, int(stated[1]), at_least=True)
    raise StoreError(f"{path}: cannot be opened ({size:,} bytes; {error}); {SCORE_AGAIN}") from None
