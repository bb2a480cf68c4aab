"""Clips of WebDataset shards: tar files whose members `key.flac`, `key.txt`, `key.json` belong
together, in a folder or behind a URL. Used by hub_dataset; read once from front to end, whatever
their size. Of those that are not compressed it is noted where each clip lies."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from distill.data.find_files import AUDIO_SUFFIXES, find_audio, find_files, is_left_out
from distill.data.formats.addresses import part_of_file
from distill.data.formats.remote import RemoteFile, list_files
from distill.data.sources.clips import Clip, Columns
from distill.data.sources.tables.text import decode
from distill.data.sources.tables.times import Times, with_part

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_SIDECARS = (".json", ".txt")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # how gzip, bzip2 and xz begin
_BLOCK_BYTES = 1 << 24  # of a shard behind a URL that are asked for at once
_PATIENCE = 1000  # samples without the columns that were asked for, before it is given up


def find_shards(folder: Path, split: str) -> list[Path]:
    """Shards of a split: those whose path in the folder begins with its name; all for split=all.
    None where loose audio lies beside tar files of other names: then it is a folder of audio.

    Raises:
        ValueError: there are shards, none of this split.
    """
    shards = [path for path in find_files(folder, SUFFIXES)
              if path.name.lower().endswith(SUFFIXES)]
    names = [path.relative_to(folder).as_posix() for path in shards]
    found = [path for path, name in zip(shards, names, strict=True)
             if split == "all" or name.casefold().startswith(split.casefold())]
    loose = len(find_audio(folder)) if shards else 0
    if loose and found:
        print(f"{folder}: {len(found)} shards are read, {loose} audio files beside them are not")
    elif loose:
        print(f"{folder}: read as a folder of audio; {len(shards)} tar files in it are not read "
              f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return []
    if shards and not found:
        raise ValueError(f"{folder}: no shard begins with {split}; there are {', '.join(names[:5])}"
                         f"{', ...' if len(names) > 5 else ''}. Say split=all for all of them")
    return found


def find_remote_shards(url: str, split: str) -> list[str]:
    """Shards behind a URL: a tar file, several as WebDataset writes them (`s-{0000..0012}.tar`), or
    a folder of a storage that can be listed, of which those of a split are taken as `find_shards`
    does.

    Raises:
        ValueError: there are none, or they cannot be listed.
    """
    if counted := re.search(r"\{(\d+)\.\.(\d+)\}", url):
        first, last = counted.groups()
        return [url.replace(counted[0], f"{number:0{len(first)}d}")
                for number in range(int(first), int(last) + 1)]
    if url.lower().endswith(SUFFIXES):
        return [url]
    try:
        shards = [name for name in list_files(url) if name.lower().endswith(SUFFIXES)]
        fault = "" if shards else "it has none"
    except OSError as error:
        fault = str(error)
    if fault:
        raise ValueError(f"{url}: no tar files that can be listed ({fault}); name them, as in "
                         "shards-{0000..0012}.tar")
    wanted = [name for name in shards
              if split == "all" or name.casefold().startswith(split.casefold())]
    if not wanted:
        raise ValueError(f"{url}: no shard begins with {split}; there are "
                         f"{', '.join(shards[:5])}. Say split=all for all of them")
    return [f"{url.rstrip('/')}/{name}" for name in wanted]


def read_shards(
    shards: Sequence[Path | str], columns: Columns, unread: Counter[str]
) -> Iterator[Clip]:
    """Clips in the order of the shards; a sample with several audio members is as many clips. A
    sample without audio or with a broken .json, and a shard that cannot be opened or breaks off,
    give a clip with a `problem`.

    Args:
        unread: members that are neither audio nor .txt nor .json are counted here, by suffix.

    Raises:
        ValueError: the samples lack a column that was asked for.
    """
    asked, waiting = _Asked(columns), []
    for clip in _read(shards, asked, unread):
        if not asked.is_found:  # that columns are wrong is said before anything is written
            waiting.append(clip)
            continue
        yield from waiting
        waiting = []
        yield clip
    asked.finish()
    yield from waiting


def _read(shards: Sequence[Path | str], asked: _Asked, unread: Counter[str]) -> Iterator[Clip]:
    for shard in shards:
        try:
            for key, parts in _samples(shard, unread):
                yield from _clips(shard, key, parts, asked)
        except _BrokenShardError as error:
            yield Clip(str(error), name=str(shard), problem=error.problem)


class _BrokenShardError(Exception):
    def __init__(self, text: str, reason: str, detail: str):
        super().__init__(text)
        self.problem = (reason, detail)


class _Asked:
    """The columns that were asked for, found anew in each kind of sample: not all have all."""

    def __init__(self, columns: Columns):
        self.columns, self.tried, self.is_found = columns, 0, False
        self.error: ValueError | None = None
        self.resolved: dict[tuple[str, ...], Columns | None] = {}

    def find(self, names: tuple[str, ...], where: str) -> Columns | None:
        """None: a sample of this kind lacks one."""
        if names not in self.resolved:
            try:
                self.resolved[names] = self.columns.resolve(names, where)
                self.is_found = True
            except ValueError as error:
                self.resolved[names], self.error = None, self.error or error
        if self.resolved[names] is None:
            self.tried += 1
            if self.tried >= _PATIENCE:
                self.finish()
        return self.resolved[names]

    def finish(self) -> None:
        """
        Raises:
            ValueError: no sample at all had the columns.
        """
        if self.error is not None and not self.is_found:
            raise self.error


@dataclass(frozen=True)
class _Member:
    """`start`: where its bytes lie in the shard; None where that helps nobody."""

    data: bytes
    start: int | None


def _clips(
    shard: Path | str, key: str, parts: dict[str, _Member], asked: _Asked
) -> Iterator[Clip]:
    """Clips of a sample.

    Args:
        parts: {what follows the key: member}, `.left.wav` and `.left.txt` of two microphones.
    """
    audio = [suffix for suffix in parts if _kind(suffix) in AUDIO_SUFFIXES]
    if not audio:
        yield Clip(key, name=key, problem=(
            "no_audio", f"{shard}: {key} has only {', '.join(parts) or 'nothing that is read'}"))
    for suffix in audio:
        stem, member = suffix.removesuffix(_kind(suffix)), parts[suffix]
        sidecars = {kind: parts.get(stem + kind, parts.get(kind)) for kind in _SIDECARS}
        clip = _clip(shard, key + stem, key + suffix, member.data,
                     {kind: None if each is None else each.data
                      for kind, each in sidecars.items()}, asked)
        place = None if member.start is None else part_of_file(
            str(shard), member.start, len(member.data))
        yield replace(clip, place=place)


def _clip(
    shard: Path | str, key: str, name: str, data: bytes, sidecars: dict[str, bytes | None],
    asked: _Asked,
) -> Clip:
    row = {}
    try:
        if sidecars[".json"] is not None:
            row = json.loads(decode(sidecars[".json"]))
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, got {type(row).__name__}")
    except (ValueError, RecursionError) as error:
        return Clip(key, name=name, problem=("bad_json", f"{shard}: {key}.json: {error}"))
    if sidecars[".txt"] is not None:
        try:
            row["text"] = decode(sidecars[".txt"])
        except ValueError as error:
            return Clip(key, name=name, problem=("bad_text", f"{shard}: {key}.txt: {error}"))
    columns = asked.find(tuple(row), str(shard))
    if columns is None:
        lacks = "missing_text" if asked.columns.text is None else "missing_column"
        return Clip(key, name=name, problem=(lacks, f"{shard}: {key}"))
    identity = row.get(columns.id) if columns.id else None
    clip = columns.clip(row, key if identity in (None, "") else str(identity), data, name)
    return with_part(clip, row, Times.among(tuple(row), columns.offset))


def _samples(
    shard: Path | str, unread: Counter[str]
) -> Iterator[tuple[str, dict[str, _Member]]]:
    """(key, {suffix: member}) of members that follow each other.

    Raises:
        _BrokenShardError: it cannot be opened, or breaks off; what was being read is not whole.
    """
    current: str | None = None
    parts: dict[str, _Member] = {}
    name = str(shard).rsplit("/", 1)[-1]
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(_opened(shard))
            is_plain = not raw.peek(6).startswith(_COMPRESSED)
            file = stack.enter_context(tarfile.open(fileobj=raw, mode="r|*"))
            for member in file:
                if not member.isfile() or is_left_out(member.name.removeprefix("./")):
                    continue
                key, suffix = _split_name(member.name)
                if key != current and current is not None:
                    yield current, parts
                if key != current:
                    current, parts = key, {}
                kind = _kind(suffix)
                if kind in AUDIO_SUFFIXES or kind in _SIDECARS:
                    data = file.extractfile(member)
                    assert data is not None  # of a regular file
                    start = member.offset_data if is_plain and not member.issparse() else None
                    parts[suffix] = _Member(data.read(), start)
                else:
                    unread[kind] += 1
    except (tarfile.TarError, EOFError) as error:
        raise _BrokenShardError(f"{name}: breaks off after {current}", "broken_shard",
                                f"{shard}: after {current}: {error}") from None
    except FileNotFoundError:
        raise _BrokenShardError(name, "missing_file", str(shard)) from None
    except OSError as error:
        if error.errno is None:  # of a decompressor: not a gzipped file, a wrong checksum
            raise _BrokenShardError(f"{name}: breaks off after {current}", "broken_shard",
                                    f"{shard}: after {current}: {error}") from None
        raise _BrokenShardError(name, "cannot_open", f"{shard}: {error}") from None
    if current is not None:
        yield current, parts


def _opened(shard: Path | str) -> io.BufferedReader:
    if isinstance(shard, str):
        return io.BufferedReader(RemoteFile(shard, _BLOCK_BYTES))
    return open(shard, "rb")


def _kind(suffix: str) -> str:
    """`.wav` of `.left.wav`."""
    return "".join(suffix.rpartition(".")[1:]) if suffix else ""


def _split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member, `d/a` and `.left.wav`: a name is cut at its first dot."""
    folder, _, name = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{folder}/{stem}".lstrip("/"), (dot + suffix).lower()
