"""Copies of what was read from behind URLs, on a disk, as many as there is room for.

    descriptor = open_copy(Place("https://host/000042.tar", 1536, 204800))

AUDIO_DISTILL_CACHE_GB says how many GB may lie there (default 20; 0: no copies),
AUDIO_DISTILL_CACHE in which folder (default ~/.cache/audio-distill). Processes share them. What was
not read for the longest time goes first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from distill.data.files import hash_of, write_atomic
from distill.data.formats.addresses import Place
from distill.data.formats.remote import read_range, size_of

_FOLDER, _LIMIT = "AUDIO_DISTILL_CACHE", "AUDIO_DISTILL_CACHE_GB"
_DEFAULT_GB = 20.0
_SHARE = 0.05  # of the limit that a process adds before it looks again at what lies there
_KEEP = 0.9  # of the limit that is left where there was too much
_TORN_SECONDS = 3600.0  # after which a half-written copy is a dead process's
_added = {"bytes": float("inf")}  # by this process since it looked; it has not yet


def cache_folder() -> Path:
    """Where copies and lists of members lie."""
    if os.environ.get(_FOLDER):
        return Path(os.environ[_FOLDER])
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "audio-distill"


def limit_bytes() -> float:
    """How much may lie there.

    Raises:
        ValueError: the environment says something else than a number.
    """
    text = os.environ.get(_LIMIT) or str(_DEFAULT_GB)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"{_LIMIT} must be a number of GB, got {text!r}")
    return number * 1e9


def open_copy(place: Place) -> int:
    """A descriptor of a file with the bytes of a place behind a URL, and nothing else.

    Raises:
        OSError: they cannot be read now.
    """
    size = size_of(place.path) if place.size is None else place.size
    limit = limit_bytes()
    path = _path(place, size)
    if limit:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_size == size:
                with suppress(OSError):  # somebody may just be removing it
                    os.utime(path)
                return descriptor
            os.close(descriptor)
    data = read_range(place.path, place.start, size)
    if len(data) == size <= limit:
        try:
            _keep(path, data, limit)
        except OSError as error:  # a home that is read-only, a full disk
            _say_once(f"Audio behind URLs is not kept: {cache_folder()}: {error.strerror}; "
                      f"{_FOLDER} says where it may be")
    return _nameless(data)


def _keep(path: Path, data: bytes, limit: float) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomic(path, write)
    _added["bytes"] += len(data)
    if _added["bytes"] > _SHARE * limit:
        _added["bytes"] = 0.0
        _shrink(limit)


@cache
def _say_once(sentence: str) -> None:
    print(sentence, flush=True)


def _path(place: Place, size: int) -> Path:
    name = hash_of([place.path, place.start, size])
    return cache_folder() / "audio" / name[:2] / name


def _nameless(data: bytes) -> int:
    """A file in memory that is gone when it is closed."""
    descriptor = os.memfd_create("audio", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _shrink(limit: float) -> None:
    """Remove what was not read for the longest time, if there is too much."""
    found = sorted(_copies())
    total = sum(size for _, size, _ in found)
    if total <= limit:
        return
    for _, size, path in found:
        if total <= _KEEP * limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _copies() -> Iterator[tuple[int, int, Path]]:
    """(when it was read last, bytes, path); half-written ones of dead processes are removed."""
    for path in (cache_folder() / "audio").glob("*/*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if not path.name.startswith("."):
                yield status.st_mtime_ns, status.st_size, path
            elif time.time() - status.st_mtime > _TORN_SECONDS:
                path.unlink()
