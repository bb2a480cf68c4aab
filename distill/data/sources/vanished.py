"""Clips of a finished import that its source has no longer: deleted, or on a disk that is away."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distill.data.formats.addresses import is_remote, split_part
from distill.data.sources.rows import hash_of_text, read_rows

_SHARE = 0.05  # of the clips, from which on it is no longer a file or two that somebody deleted
_MANY = 20


def refuse_vanished(manifests: Iterable[Path], parts: Callable[[], set[int]]) -> None:
    """Refuse to write manifests that lack many clips of those that are there, whose audio is gone.

    A folder that is not mounted is empty: more than 5 % of the clips, in folders that have none any
    longer, are many. So are more than 5 % that are at least 20, and more than half. A clip that
    left a table, whose file is still there, was taken out by somebody.

    Args:
        parts: `part_of_row` of the rows that will be written.

    Raises:
        ValueError: with their number, and a folder of them.
    """
    total, gone, kept = 0, [], set()
    there: set[int] | None = None
    for manifest in manifests:
        for row in read_rows(manifest) if manifest.is_file() else ():
            there = parts() if there is None else there
            total += 1
            file, _ = split_part(row["audio_filepath"])
            path = manifest.parent / file
            is_copy = row["audio_filepath"].startswith("audio/")
            folder = manifest.parent / "audio" if is_copy else path.parent
            if part_of_row(row) in there or (
                    not is_copy and (is_remote(file) or path.exists())):
                kept.add(folder)
            else:
                gone.append(folder)
    emptied = [folder for folder in gone if folder not in kept]
    if len(gone) <= _SHARE * total or not (
            len(emptied) > _SHARE * total or len(gone) >= _MANY or len(gone) > total / 2):
        return
    folder, count = Counter(emptied or gone).most_common(1)[0]
    raise ValueError(
        f"{len(gone)} of {total} clips of the manifest are there no longer ({count} of them in "
        f"{os.path.normpath(folder)}), so it stays as it is. Is a disk not mounted? With these "
        "files back the same command goes on; if they are gone for good, say allow_gone=true")


def part_of_row(row: dict[str, Any]) -> int:
    """Which part of which file a row of a manifest is, hashed; whatever its id."""
    return hash_of_text(f"{row['audio_filepath']} {row.get('offset', 0)}")
