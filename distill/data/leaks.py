"""What a student is measured on must not be what it learned from, or was chosen by.

    check_splits({"train": [...], "validation": [...], "test": [...]}, allow_overlap=False)

A clip of the test or validation split leaks if a training clip is the same part of the same file,
or of a file with the same bytes under another name; and a test clip, if a validation clip is. Cheap
for a million files: they are told apart by their sizes, then by a few blocks; only what is still
alike is read as a whole. The same words in another recording are no leak.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from distill.data.files import hash_of, read_json, write_json
from distill.data.formats.addresses import is_remote
from distill.data.formats.places import blocks_of, fingerprint, place_of, stat_of
from distill.data.manifest import Row, counts_text, load_rows, open_manifest

KEY = "data.allow_overlap"
_KNOWN = "what is measured on them says nothing about other sounds"
_CHOSEN = "what is measured on them looks too good: the weights that are kept are chosen by them"
# (split that is measured, split it is compared with, what is wrong with it)
_PAIRS = (("validation", "train", _KNOWN), ("test", "train", _KNOWN),
          ("test", "validation", _CHOSEN))
TOLERANCE_SECONDS = 0.1  # neighbouring segments share as much where their times are rounded
REMEMBERED = 1000  # files whose blocks were compared: from here on it is not done twice
_NAMED = 3  # clips in a sentence
_THREADS, _BLOCK = 16, 64  # that look at so many files each: a disk, or a network, takes long


class LeakError(ValueError):
    """Clips that a student would be measured on are clips that it learns from, or is chosen by."""


def check_splits(
    splits: dict[str, Sequence[str]], allow_overlap: bool, seen: Path | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Open all manifests, say what is left out of them, and compare the splits.

    Args:
        splits: manifests of `train`, `validation` and `test`.
        allow_overlap: leaks are printed, not refused.
        seen: file that remembers files found to differ, so that they are not read again.

    Raises:
        ValueError: see `open_manifest`.
        LeakError: a measured clip is a training clip, or a test clip is a validation clip.
    """
    for path in dict.fromkeys(path for paths in splits.values() for path in paths):
        found = open_manifest(path)
        notes = [f"left out: {counts_text(found.drops)}"] if found.drops else []
        if found.num_renamed:
            notes.append(f"{found.num_renamed:,} ids were not unique: a hash of file and place "
                         "stands behind them")
        notes += [f"{count:,} have {names}, which is not read (hub_dataset imports such rows)"
                  for names, count in found.num_unread.items()]
        if notes:
            tell(f"{path}: {len(found.rows):,} clips; {'; '.join(notes)}")
    rows = {split: load_rows(paths)[0] for split, paths in splits.items()}
    pairs = [pair for pair in _PAIRS if rows.get(pair[0]) and rows.get(pair[1])]
    if not pairs:
        return
    known = same_files(list(rows.values()), seen)
    for split, other, wrong in pairs:
        leaks = find_leaks(rows[other], rows[split], known)
        if leaks and not allow_overlap:
            raise LeakError(f"{_sentence(split, other, leaks, len(rows[split]))}; {wrong}. Take "
                            f"them out of one of the two, or allow it with {KEY}=true")
        if leaks:
            tell(f"{_sentence(split, other, leaks, len(rows[split]))} ({KEY} is true)")


def find_leaks(
    others: Sequence[Row], measured: Sequence[Row], same: dict[str, str] | None = None
) -> list[tuple[Row, Row]]:
    """(measured, other clip) of each measured clip that is among the others (those that are trained
    on), too.

    Args:
        same: from `same_files`: path -> the first path of a file with these bytes.
    """
    same = same or {}
    files = {same.get(row.audio_filepath, row.audio_filepath) for row in measured}
    parts = defaultdict(list)
    for row in others:
        file = same.get(row.audio_filepath, row.audio_filepath)
        if file in files:
            parts[file].append(row)
    tracks = {file: _Track(rows) for file, rows in parts.items()}
    found = []
    for row in measured:
        track = tracks.get(same.get(row.audio_filepath, row.audio_filepath))
        other = track and track.find(row)
        if other:
            found.append((row, other))
    return found


class _Track:
    """Clips of one file, by where they begin."""

    def __init__(self, rows: list[Row]):
        self.rows = sorted(rows, key=lambda row: row.offset)
        self.starts = [row.offset for row in self.rows]
        ends = (row.offset + row.duration for row in self.rows)
        self.last_ends = list(accumulate(ends, max))

    def find(self, row: Row) -> Row | None:
        """One that shares more than `TOLERANCE_SECONDS` (of short clips: half) with a clip."""
        end = row.offset + row.duration
        for number in range(bisect_left(self.starts, end) - 1, -1, -1):
            if self.last_ends[number] <= row.offset:
                return None  # nor does any before it reach that far
            other = self.rows[number]
            shared = min(end, other.offset + other.duration) - max(row.offset, other.offset)
            if shared > min(TOLERANCE_SECONDS, row.duration / 2, other.duration / 2):
                return other
        return None


def same_files(splits: Sequence[Sequence[Row]], seen: Path | None = None) -> dict[str, str]:
    """{path: the first path with the same bytes} of files that are in one split under one name and
    in another split under another. Files that are not there, and empty ones, are nobody's: others
    say what is wrong with them."""
    paths_of = [{row.audio_filepath for row in rows} for rows in splits]
    stats = _of_each(_stat, set().union(*paths_of))
    sizes: dict[int, list[str]] = defaultdict(list)
    for path, (size, _) in stats.items():
        if size:
            sizes[size].append(path)
    alike = [paths for paths in sizes.values() if _in_several(paths, paths_of)]
    key = hash_of(sorted((path, *stats[path]) for paths in alike for path in paths))
    if seen is not None and _read(seen).get("differ") == key:
        return {}
    count = sum(map(len, alike))
    for look in (fingerprint, _content):
        found = _of_each(look, [path for paths in alike for path in paths])
        kinds: dict[str, list[str]] = defaultdict(list)
        for path, kind in found.items():
            if kind is not None:
                kinds[kind].append(path)
        alike = [paths for paths in kinds.values() if _in_several(paths, paths_of)]
    if not alike and seen is not None and count >= REMEMBERED:
        with suppress(OSError):  # it only saves time; what has to be written will say so
            write_json(seen, {"differ": key})
    return {path: min(paths) for paths in alike for path in paths}


def _in_several(paths: Sequence[str], paths_of: Sequence[set[str]]) -> bool:
    """Whether a file of one split may be one of another under another name."""
    return len(paths) > 1 and sum(not split.isdisjoint(paths) for split in paths_of) > 1


def _of_each(look: Callable, paths: Iterable[str]) -> dict:
    """{path: what is seen of it}."""
    paths = list(paths)
    blocks = [paths[at : at + _BLOCK] for at in range(0, len(paths), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda block: [look(path) for path in block], blocks)
        return dict(zip(paths, (each for block in found for each in block), strict=True))


def _stat(path: str) -> tuple[int, int]:
    try:  # behind a URL, it is known by its address alone
        return (0, 0) if is_remote(path) else stat_of(path)
    except (OSError, ValueError):
        return 0, 0


def _content(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        for block in blocks_of(place_of(path)):
            digest.update(block)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def _read(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _sentence(split: str, other: str, leaks: Sequence[tuple[Row, Row]], total: int) -> str:
    named = ", ".join(f"{_named(row)} is {_named(found)}" for row, found in leaks[:_NAMED])
    more = ", ..." * (len(leaks) > _NAMED)
    kind = "training" if other == "train" else other
    return (f"data.{split}: {len(leaks):,} of {total:,} clips are also {kind} clips: "
            f"{named}{more}")


def _named(row: Row) -> str:
    """`a (audio/a.wav, 1.50 to 4.25 s)`"""
    path = "/".join(Path(row.audio_filepath).parts[-2:])
    return f"{row.id} ({path}, {row.offset:.2f} to {row.offset + row.duration:.2f} s)"
