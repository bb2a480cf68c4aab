"""The bytes of audio: where they are, how many, and what tells them from others. How it is written
where they are: `distill.data.formats.addresses`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.data.formats.addresses import PART, Place, is_remote, local_path
from distill.data.formats.errors import pointer
from distill.data.formats.remote import size_of
from distill.data.formats.tar_members import find_member

_READ = 1 << 20  # bytes at a time
_BLOCK = 8192  # bytes; of fingerprints: files of up to three are read whole


def place_of(audio: str | Path) -> Place:
    """The bytes that are meant.

    Raises:
        OSError: a tar file has to be looked at, and cannot be; or has no such member.
        AudioError: `unreadable`: it is no tar file, or a compressed one.
    """
    text = local_path(str(audio))
    found = PART.fullmatch(text)
    if found is None:
        return Place(text)
    if found["member"] is None:
        return Place(found["path"], int(found["start"]), int(found["size"]))
    return Place(found["path"], *find_member(found["path"], found["member"]))


def stat_of(audio: str | Path) -> tuple[int, int]:
    """Bytes, and when they were changed in ns; 0 behind URLs, where files are taken to stay as they
    are.

    Raises:
        OSError, AudioError: as `place_of`, and what the file system says.
    """
    place = place_of(audio)
    if place.is_remote:
        return size_of(place.path) if place.size is None else place.size, 0
    found = os.stat(place.path)
    return found.st_size if place.size is None else place.size, found.st_mtime_ns


def blocks_of(place: Place, starts: list[int] | None = None, size: int = _READ) -> Iterator[bytes]:
    """Bytes of a place on a disk.

    Args:
        starts: where in the place blocks of `size` bytes begin; None: all of it, block by block.
    """
    with open(place.path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        end = end if place.size is None else min(end, place.start + place.size)
        for start in range(0, end - place.start, size) if starts is None else starts:
            file.seek(place.start + start)
            yield file.read(min(size, end - place.start - start))


def fingerprint(path: str | Path) -> str | None:
    """What tells a file (or a part of one, `distill.data.formats.places`) from another one of its
    name, without reading all of a long one: its size and a hash of three blocks. A copy, or a file
    with a new date, is the same. None: unreadable, not fetched (`pointer`), or behind a URL, where
    nobody looks."""
    digest = hashlib.sha256()
    try:
        if is_remote(path):
            return None
        place, size = place_of(path), stat_of(path)[0]
        starts = sorted({0, max(0, (size - _BLOCK) // 2), max(0, size - _BLOCK)})
        for block in blocks_of(place, starts, _BLOCK):
            if pointer(block):
                return None
            digest.update(block)
    except (OSError, ValueError):
        return None
    return f"{size}-{digest.hexdigest()[:16]}"


def fingerprints(paths: Iterable[str]) -> dict[str, str | None]:
    """`fingerprint` of each path; files that are named several times are read once."""
    return {path: fingerprint(path) for path in dict.fromkeys(paths)}
