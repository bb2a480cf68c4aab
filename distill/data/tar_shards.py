"""Clips of WebDataset shards: tar files whose members `key.flac`, `key.txt`, `key.json` belong
together. Used by hub_dataset; read once from front to end, whatever their size."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from distill.data.audio_folder import Clip, Columns
from distill.data.find_files import AUDIO_SUFFIXES, find_files, is_left_out

SUFFIXES = (".tar", ".tar.gz", ".tgz")


def find_shards(folder: Path, split: str) -> list[Path]:
    """Shards of a split: those whose path in the folder begins with its name; all for split=all.

    Raises:
        ValueError: there are shards, none of this split.
    """
    shards = find_files(folder, SUFFIXES)
    names = [path.relative_to(folder).as_posix() for path in shards]
    found = [path for path, name in zip(shards, names, strict=True)
             if split == "all" or name.startswith(split)]
    if shards and not found:
        raise ValueError(f"{folder}: no shard begins with {split}; there are {', '.join(names[:5])}"
                         f"{', ...' if len(names) > 5 else ''}. Say split=all for all of them")
    return found


def read_shards(shards: list[Path], columns: Columns) -> Iterator[Clip]:
    """Clips in the order of the shards. A sample without audio gives a clip without bytes, and a
    shard that breaks off gives one last clip without any, so that both are counted.

    Raises:
        ValueError: the first sample lacks a column that was asked for.
    """
    resolved = None
    for shard in shards:
        for key, parts in _samples(shard):
            row = _fields(parts)
            if resolved is None:
                resolved = columns.resolve(list(row), str(shard))
            suffix = next((s for s in parts if s in AUDIO_SUFFIXES), "")
            identity = row.get(resolved.id) if resolved.id else None
            yield resolved.clip(row, str(identity or key), parts.get(suffix, b""), key + suffix)


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {suffix: bytes}) of members that follow each other."""
    current, parts = None, {}
    try:
        with tarfile.open(shard, "r|*") as file:
            for member in file:
                if not member.isfile() or is_left_out(member.name):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                key = f"{folder}/{stem}".lstrip("./")
                if key != current and parts:
                    yield current, parts
                if key != current:
                    current, parts = key, {}
                parts[(dot + suffix).lower()] = file.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError):
        # what was being read is not whole; it comes as a clip without audio, which is counted
        yield f"{shard.name}: breaks off after {current}", {}
        return
    if parts:
        yield current, parts


def _fields(parts: dict[str, bytes]) -> dict:
    """Columns of a sample: those of its .json, and its .txt as `text`."""
    row = {}
    if ".json" in parts:
        try:
            row = dict(json.loads(parts[".json"]))
        except (ValueError, TypeError):  # counted as a clip without a text
            row = {}
    if ".txt" in parts:
        row["text"] = parts[".txt"].decode("utf-8", errors="replace")
    return row
