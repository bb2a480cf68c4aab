"""How it is written where audio lies: in a file, or in a part of one; on a disk, or behind a URL.

    a/clip.flac                                 a file
    shards/000042.tar#bytes=1536+204800         204,800 bytes of a file, from byte 1536 on
    shards/000042.tar#member=a/clip.flac        a member of an uncompressed tar file
    https://host/000042.tar#bytes=1536+204800   the same behind a URL: https://, s3://, hf://, ...

A manifest may also say it in fields of their own (`byte_offset` and `num_bytes`, or `member`); rows
in memory have it as one text, so that nobody else has to know.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)  # RFC 8089
PART = re.compile(r"(?P<path>.+)#(?:bytes=(?P<start>\d+)\+(?P<size>\d+)|member=(?P<member>.+))",
                  re.DOTALL)


@dataclass(frozen=True)
class Place:
    """`size` bytes of a file from `start` on; None: to its end."""

    path: str
    start: int = 0
    size: int | None = None

    @property
    def is_remote(self) -> bool:
        return is_remote(self.path)

    def __str__(self) -> str:
        return self.path if self.size is None else part_of_file(self.path, self.start, self.size)


def is_remote(audio: str | Path) -> bool:
    """Whether it is behind a URL."""
    return bool(_URL.match(str(audio))) and not _FILE_URL.match(str(audio))


def local_path(audio: str) -> str:
    """The path of a `file:` URL, in which letters may be written as %20; others as they are."""
    found = _FILE_URL.match(audio)
    if found is None:
        return audio
    path = audio[found.end():]
    is_coded = "%" in path and path.startswith("/") and not os.path.exists(path)
    return unquote(path) if is_coded else path


def part_of_file(path: str, start: int, size: int) -> str:
    """How a range of bytes is written."""
    return f"{path}#bytes={start}+{size}"


def member_of_file(path: str, member: str) -> str:
    """How a member of a tar file is written."""
    return f"{path}#member={member}"


def split_part(audio: str) -> tuple[str, str]:
    """(file, what of it: `#bytes=1536+204800`; "" is all of it)."""
    found = PART.fullmatch(audio)
    return (audio, "") if found is None else (found["path"], audio[len(found["path"]):])


class Resolver:
    """Absolute paths without links, as `Path.resolve`; each folder is looked at once."""

    def __init__(self, folder: Path):
        self._folder = str(folder.absolute())
        self._known: dict[str, str] = {}

    def __call__(self, audio: str) -> str:
        if is_remote(audio):
            return audio
        file, part = split_part(audio)
        return self._resolve(local_path(file)) + part

    def _resolve(self, audio: str) -> str:
        folder, name = os.path.split(os.path.join(self._folder, audio))
        if name in ("", ".", ".."):
            return os.path.realpath(os.path.join(folder, name))
        if folder not in self._known:
            self._known[folder] = os.path.realpath(folder)
        path = os.path.join(self._known[folder], name)
        return os.path.realpath(path) if os.path.islink(path) else path
