"""Merge small shards into large ones: fewer files to open, to map and to copy; forget views."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distill.data.files import sync_folder
from distill.data.teacher_store.disk import StoreError
from distill.data.teacher_store.shard import (
    MAX_METADATA_BYTES,
    Content,
    Shard,
    digests_of,
    encode,
    write_shard,
)
from distill.data.teacher_store.store import TeacherStore

Kept = dict[str, np.ndarray]  # name of a shard: which of its views to keep, (views,) bool


def repack(folder: str | Path, megabytes: float = 256, show_progress: bool = False) -> TeacherStore:
    """Merge shards of less than half of `megabytes` (10^6 bytes) into shards of about that size.

    Checks all checksums before. Holds one new shard in memory. Killed at any moment it leaves a
    store that reads the same: the new shards are complete before an old one goes. Copies of a view
    are dropped but for the one that is read.

    Returns:
        the store as it is now.

    Raises:
        StoreError: a broken shard, or a full disk; the store reads as before then.
    """
    if megabytes <= 0:
        raise StoreError(f"megabytes must be > 0, got {megabytes}")
    store = TeacherStore(folder)
    store.check(show_progress)
    kept = _kept(store)
    small = megabytes * 1e6 / 2
    old = [s for s in store.shards if s.data_bytes < small or not kept[s.name].all()]
    if len(old) < 2 and all(kept[shard.name].all() for shard in old):
        return store
    new = []
    for group in _groups(old, megabytes * 1e6):
        group = [shard for shard in group if kept[shard.name].any()]
        if group:
            content = _merged(group, kept)
            new.append(write_shard(store.folder, content, store.settings_hash, _metadata(group)))
    _replace(store, old, new)
    return TeacherStore(folder)


def discard(folder: str | Path, texts: Sequence[str]) -> TeacherStore:
    """Forget some views, all copies of them: they are missing then. Killed at any moment it leaves
    a store in which they are there or missing, and all others are there.

    Returns:
        the store as it is now.

    Raises:
        StoreError: a broken shard, or a full disk.
    """
    store = TeacherStore(folder)
    store.check()
    unwanted = digests_of([encode(text) for text in texts])
    kept = {shard.name: ~np.isin(shard.read_digests(), unwanted) for shard in store.shards}
    old = [shard for shard in store.shards if not kept[shard.name].all()]
    new = [write_shard(store.folder, _merged([shard], kept), store.settings_hash, shard.metadata)
           for shard in old if kept[shard.name].any()]
    _replace(store, old, new)
    return TeacherStore(folder)


def _replace(store: TeacherStore, old: list[Shard], new: list[Shard]) -> None:
    """Seal the new shards, then remove the old ones."""
    names = {shard.name for shard in new}
    old = [shard for shard in old if shard.name not in names]
    gone = {shard.name for shard in old} | names
    store.write_index([*new, *(shard for shard in store.shards if shard.name not in gone)])
    # Two processes may have stored different copies of a view; the first by name is the one that
    # is read, and the one merged. Going backwards, it is never the other one's turn.
    for shard in sorted(old, key=lambda shard: shard.name, reverse=True):
        shard.path.unlink(missing_ok=True)
    sync_folder(store.folder)


def _kept(store: TeacherStore) -> Kept:
    """The views of each shard that are read: all but copies."""
    kept = {shard.name: np.zeros(shard.num_views, bool) for shard in store.shards}
    for name, local in store.split(store.all_rows()):
        kept[name][local] = True
    return kept


def _groups(shards: list[Shard], target_bytes: float) -> Iterator[list[Shard]]:
    """Consecutive shards of about `target_bytes` together."""
    group, size = [], 0
    for shard in shards:
        if group and size + shard.data_bytes > target_bytes:
            yield group
            group, size = [], 0
        group.append(shard)
        size += shard.data_bytes
    if group:
        yield group


def _merged(shards: list[Shard], kept: Kept) -> Content:
    content = Content()
    for shard in shards:
        content.extend(_content(shard, kept[shard.name]))
    return content


def _content(shard: Shard, keep: np.ndarray) -> Content:
    """Some views of a shard; not copied when they are all of them."""
    mapped = shard.map()
    counts = np.diff(np.asarray(mapped.offsets))
    drawn_counts = np.diff(np.asarray(mapped.drawn_offsets))
    rows, letters = slice(None), slice(None)
    if not keep.all():
        rows, letters = np.repeat(keep, counts), np.repeat(keep, drawn_counts)
    return Content(
        digests=[shard.read_digests()[keep]], counts=[counts[keep]],
        drawn=[mapped.drawn[letters]], drawn_counts=[drawn_counts[keep]],
        columns={name: [values[rows]] for name, values in mapped.columns},
    )


def _metadata(shards: list[Shard]) -> str:
    """Metadata of a merged shard: that of its parts where it is the same, else as many as fit."""
    texts, left_out = set(), 0
    for shard in shards:
        value = json.loads(shard.metadata)
        if "merged" in value:
            left_out += value["left_out"]
        parts = value.get("merged", [value])
        texts |= {json.dumps(part, sort_keys=True, ensure_ascii=False) for part in parts}
    if len(texts) == 1 and not left_out:
        return texts.pop()
    merged, room = [], MAX_METADATA_BYTES - 100
    for text in sorted(texts):
        room -= len(text.encode()) + 2
        if room >= 0:
            merged.append(text)
    left_out += len(texts) - len(merged)
    return f'{{"merged": [{", ".join(merged)}], "left_out": {left_out}}}'
