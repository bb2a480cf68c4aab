"""Members of tar files that are not compressed: where each lies, so that reading is one seek."""

from __future__ import annotations

import io
import os
import tarfile
from functools import lru_cache
from typing import BinaryIO

from distill.data.files import hash_of, read_json, write_json
from distill.data.formats.addresses import is_remote
from distill.data.formats.copies import cache_folder
from distill.data.formats.errors import AudioError
from distill.data.formats.remote import RemoteFile, size_of

_KEPT = 64  # lists of members in memory; of a corpus in thousands of shards, ranges need none
_HEAD_BYTES = 1 << 14  # read at a time behind URLs, where headers are looked for


def find_member(path: str, member: str) -> tuple[int, int]:
    """(first byte, bytes) of a member.

    Raises:
        FileNotFoundError: there is no such file, or no such member in it.
        OSError: it cannot be opened now.
        AudioError: `unreadable`: it is no tar file, or a compressed one.
    """
    if is_remote(path):
        members = _remote_members(path)
    else:
        status = os.stat(path)
        members = _local_members(path, status.st_size, status.st_mtime_ns)
    found = members.get(_plain(member))
    if found is None:
        raise FileNotFoundError(f"{path}: no member {member}")
    return found


@lru_cache(_KEPT)
def _local_members(path: str, _size: int, _time: int) -> dict[str, tuple[int, int]]:
    with open(path, "rb") as file:
        return list_members(file, path)


@lru_cache(_KEPT)
def _remote_members(path: str) -> dict[str, tuple[int, int]]:
    """The headers lie all over the file: the list is kept on the disk."""
    kept = cache_folder() / "members" / f"{hash_of([path, size_of(path)])}.json"
    if kept.is_file():
        return {name: (start, size) for name, (start, size) in read_json(kept).items()}
    members = list_members(RemoteFile(path, _HEAD_BYTES), path)
    write_json(kept, members)
    return members


def list_members(file: BinaryIO | io.RawIOBase, name: str) -> dict[str, tuple[int, int]]:
    """{member: (first byte, bytes)} of an open tar file."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            return {_plain(each.name): (each.offset_data, each.size) for each in tar
                    if each.isfile() and not each.issparse()}
    except tarfile.TarError as error:
        raise AudioError("unreadable", f"{name}: no tar file that is not compressed, or a broken "
                         f"one: {error}") from None


def _plain(name: str) -> str:
    return name.removeprefix("./")
