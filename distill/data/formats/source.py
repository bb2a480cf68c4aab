"""The bytes of an audio file by position, for those who look before they decode.

    with open_source("clip.mp3") as source:
        source.read_at(0, 4)
        Piece(source, start=100, end=source.size)     # a part of it as a file of its own
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.data.formats.addresses import Place, is_remote
from distill.data.formats.copies import limit_bytes, open_copy
from distill.data.formats.errors import AudioError
from distill.data.formats.places import place_of
from distill.data.formats.seekable import Seekable

_THREADS = 16  # requests at a time
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


class Source:
    """An open file or a part of one, or bytes.

    Attributes:
        name: for messages.
        key: equal for the same content of the same file, in one process; None for bytes.
        error: what the system said while somebody was reading a `Piece`, who cannot raise it.
    """

    def __init__(self, source: str | Path | bytes, fd: int | None, start: int = 0,
                 size: int | None = None):
        self.fd, self.start, self.is_whole = fd, start, size is None
        self.error: OSError | None = None
        self.key: tuple[str, int, int, int, int] | None = None
        self._data = source if isinstance(source, bytes) else b""
        if fd is None:
            self.name, self.size = "<bytes>", len(self._data)
            return
        about = os.fstat(fd)
        self.name, self.size = str(source), about.st_size if size is None else size
        self.key = (str(source), about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        if start + self.size > about.st_size:
            raise AudioError("truncated", f"{self.name}: the file has {about.st_size:,} bytes")

    def read_at(self, position: int, count: int) -> bytes:
        """Up to `count` bytes, fewer at the end; nobody's place in the file is moved."""
        if self.fd is None:
            return self._data[position : position + count]
        return os.pread(self.fd, max(0, min(count, self.size - position)), self.start + position)

    def again(self, fd: int) -> Source:
        """The same by another handle."""
        return Source(self.name, fd, self.start, None if self.is_whole else self.size)

    def rewound(self) -> int | io.RawIOBase | io.BytesIO:
        """What `SoundFile` reads from the beginning."""
        if self.fd is None:
            return io.BytesIO(self._data)
        if not self.is_whole:
            return Piece(self)
        os.lseek(self.fd, 0, os.SEEK_SET)
        return self.fd


@contextmanager
def open_source(source: str | Path | bytes) -> Iterator[Source]:
    """A `Source`; the name is not looked at, so that only the content decides what it is.

    Args:
        source: bytes, or a path as `distill.data.formats.places` has it.

    Raises:
        AudioError: `missing_file`, `cannot_open`, `empty`, `truncated` for a part that its file
            does not reach, or `unreadable` for what is no file.
    """
    place = None if isinstance(source, bytes) else _place(source)
    fd = None if place is None else _open(place)
    try:
        if place is None:
            opened = Source(source, None)
        elif place.is_remote:
            opened = Source(source, fd)  # a copy of the part alone
            _check_whole(opened, place)
        else:
            opened = Source(source, fd, place.start, place.size)
        if opened.size == 0:
            raise AudioError("empty", f"{opened.name}: a file of 0 bytes")
        yield opened
    except OSError as error:
        raise AudioError("cannot_open", f"{opened.name}: {error.strerror or error}") from error
    finally:
        if fd is not None:
            os.close(fd)


def _place(source: str | Path) -> Place:
    try:
        return place_of(source)
    except FileNotFoundError as error:
        raise AudioError("missing_file", str(error.filename or error)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError("cannot_open", f"{source}: {error}") from error


def _check_whole(opened: Source, place: Place) -> None:
    if place.size is not None and opened.size < place.size:
        raise AudioError("truncated", f"{place}: the file ends before")


def _open(place: Place) -> int:
    path = place.path
    if place.is_remote:
        try:
            return open_copy(place)
        except FileNotFoundError:
            raise AudioError("missing_file", path) from None
        except OSError as error:
            raise AudioError("cannot_open", str(error)) from error
    try:
        # NONBLOCK: nobody may ever write to a FIFO
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise AudioError("missing_file", f"{path!r}: {error}") from None
    except OSError as error:
        if error.errno in _NOT_THERE:
            raise AudioError("missing_file", str(path)) from None
        if error.errno == errno.ENXIO:
            raise AudioError("unreadable", f"{path}: no regular file") from None
        raise AudioError("cannot_open", f"{path}: {error.strerror}") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise AudioError("missing_file", f"{path}: a folder")
        raise AudioError("unreadable", f"{path}: no regular file")
    return fd


class Piece(Seekable):
    """`prefix` and the bytes from `start` to `end` of a source, as a file."""

    def __init__(self, source: Source, start: int = 0, end: int | None = None, prefix: bytes = b""):
        super().__init__(len(prefix) + (source.size if end is None else end) - start)
        self.source, self.prefix, self.start = source, prefix, start

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.length - self.place)
        if count <= 0:
            return 0
        if self.place < len(self.prefix):
            data = self.prefix[self.place : self.place + count]
        else:
            try:
                data = self.source.read_at(self.start + self.place - len(self.prefix), count)
            except OSError as error:  # C code is between us and who asked
                self.source.error = error
                data = b""
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def fetch_ahead(audios: Iterable[str]) -> None:
    """Make copies of audio behind URLs that will be read next, several at a time: one after the
    other, each would wait for the server. What cannot be read is left to who reads it."""
    places = []
    for audio in dict.fromkeys(audio for audio in audios if is_remote(audio)):
        with suppress(OSError, AudioError):
            places.append(place_of(audio))  # here: sixteen threads would list a shard sixteen times
    if not places or not limit_bytes():
        return

    def fetch(place: Place) -> None:
        with suppress(OSError, AudioError):
            os.close(open_copy(place))

    with ThreadPoolExecutor(min(_THREADS, len(places))) as pool:
        list(pool.map(fetch, places))
