"""The store: a manifest that says which teacher, and sealed shards of its scores."""

from __future__ import annotations

import json
import resource
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from distill.data.files import hash_of
from distill.data.teacher_store.checksums import Checksums
from distill.data.teacher_store.disk import StoreError
from distill.data.teacher_store.manifest import create_manifest, read_settings
from distill.data.teacher_store.shard import (
    PATTERN,
    Mapped,
    Record,
    Shard,
    Types,
    check_types,
    content_of,
    digests_of,
    encode,
    read_layout,
    write_shard,
)

_LOCAL_BITS = 32
_LOCAL = (1 << _LOCAL_BITS) - 1


class TeacherStore:
    """What a teacher gave for each view.

    Views are found by their texts (`rows`), then read by their row handles (`read`). A handle is
    `shard number << 32 | number in the shard`; it holds for this object and its copies in workers,
    also after `add` and `refresh`. It does not hold for another opening of a folder that has
    changed meanwhile.

    Safe to use after a fork, and to send to a spawned process.
    """

    def __init__(self, folder: str | Path, settings: dict | None = None, create: bool = False):
        """Open a store, and check every shard without reading its data.

        Args:
            settings: what the records depend on (model, tokenizer, temperatures, ...), as
                JSON; compared with those of the store. None takes the store as it is.
            create: make the store where there is none; also removes what killed writers left.

        Raises:
            StoreError: no store, one of other settings, or a shard that is broken or foreign.
        """
        self.folder = Path(folder)
        if create:
            create_manifest(self.folder, settings)
        self.settings: dict = read_settings(self.folder, settings)
        self.settings_hash = hash_of(self.settings)
        self._checksums = Checksums(self.folder)
        self._types: Types = {}
        self._shards: list[Shard] = []
        self._numbers: dict[str, int] = {}  # name of a shard: its place in `_shards`
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._in_use: deque[Shard] = deque()  # mapped, the oldest first
        self.refresh()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_sorted": None, "_in_use": deque()}

    @property
    def shards(self) -> list[Shard]:
        """In the order of their names; those another process has removed are left out."""
        return sorted((s for s in self._shards if not s.gone), key=lambda shard: shard.name)

    @property
    def num_views(self) -> int:
        """Views stored; a copy (two processes scored it at once) counts as another one."""
        return sum(shard.num_views for shard in self.shards)

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of all shards on disk."""
        return sum(shard.num_bytes for shard in self.shards)

    # Filling

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The views not yet stored, each once, in the order given."""
        texts = list(dict.fromkeys(texts))
        _, found = self._find(digests_of([encode(text) for text in texts]))
        return [text for text, is_there in zip(texts, found, strict=True) if not is_there]

    def add(self, records: Sequence[Record], metadata: dict | None = None) -> Path:
        """Seal one shard; it is in this object at once, for others after their `refresh`.

        The shard is built in memory: give about 100 MB at a time, not 10 GB.

        Raises:
            StoreError: records that do not fit the store, or a full disk; nothing is left then.
        """
        text = json.dumps(metadata or {}, sort_keys=True, ensure_ascii=False)
        types = dict(self._types)
        shard = write_shard(self.folder, content_of(records, types), self.settings_hash, text)
        self._types = types
        self._take(shard)
        return shard.path

    def seal(self) -> None:
        """Write index.json: every shard with its size and checksum, and the totals.

        Raises:
            StoreError: a shard does not match its checksum.
        """
        self.refresh()
        self.write_index(self.shards)

    def is_sealed(self) -> bool:
        """Whether index.json lists the shards that are there, and no others."""
        return set(self._checksums.listed()) == {shard.name for shard in self.shards}

    def write_index(self, shards: Sequence[Shard]) -> None:
        """Write index.json of some of the shards; `seal` writes it of all."""
        self._checksums.write_index(shards, self.settings_hash)

    # Finding and reading

    def refresh(self) -> None:
        """See the shards other processes have sealed or removed since."""
        names = {path.name for path in self.folder.glob(PATTERN)}
        for shard in self._shards:
            shard.gone = shard.name not in names
        listed = self._checksums.listed()
        for name in sorted(names - self._numbers.keys()):
            size = listed.get(name, {}).get("bytes")
            with suppress(FileNotFoundError):  # merged into another one by `repack` just now
                self._take(read_layout(self.folder / name, self.settings_hash, size))
        self._sorted = None

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Row handles (n,) int64 of views, for `read`.

        Raises:
            StoreError: views are missing (how many, and one of them), or two views share a digest.
        """
        encoded = [encode(text) for text in texts]
        handles, found = self._find(digests_of(encoded))
        if not found.all():
            missing = self.missing(texts)
            raise StoreError(
                f"{self.folder}: {len(missing):,} of {len(set(texts)):,} views are missing, for "
                f"example {missing[0]}; run `make NAME.label`: it scores only what is missing"
            )
        for index in np.argsort(handles, kind="stable"):  # shard after shard
            row = int(handles[index])
            if self._key(row) != encoded[index]:
                raise StoreError(
                    f"{self.folder}: two views have the same 64-bit digest: {texts[index]} and, "
                    f"stored, {self.key(row)}; change anything drawn for one of them (its id)"
                )
        return handles

    def all_rows(self) -> np.ndarray:
        """Row handles (n,) int64 of every view, each view once."""
        digests, handles = self._index()
        first = np.ones(len(digests), bool)
        first[1:] = digests[1:] != digests[:-1]
        return np.sort(handles[first])

    def split(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Handles by shard: its name, and the numbers (n,) int64 of the views in it."""
        for number in np.unique(rows >> _LOCAL_BITS):
            yield self._shards[number].name, rows[rows >> _LOCAL_BITS == number] & _LOCAL

    def read(self, row: int) -> dict[str, np.ndarray]:
        """The record of a view: read-only arrays (rows, ...), not copied."""
        row = int(row)
        shard = self._shards[row >> _LOCAL_BITS]
        offsets, columns, _, _ = shard.mapped or self._map(shard)
        local = row & _LOCAL
        start, stop = offsets[local], offsets[local + 1]
        return {name: values[start:stop] for name, values in columns}

    def key(self, row: int) -> str:
        """The text of a view."""
        return self._key(int(row)).decode("utf-8", "surrogatepass")

    def _key(self, row: int) -> bytes:
        shard = self._shards[row >> _LOCAL_BITS]
        mapped = shard.mapped or self._map(shard)
        local = row & _LOCAL
        return mapped.drawn[mapped.drawn_offsets[local]:mapped.drawn_offsets[local + 1]].tobytes()

    def _map(self, shard: Shard) -> Mapped:
        """Map a shard. Each map holds a file open, so the oldest is let go when there are many;
        arrays read from it keep it alive as long as they are used."""
        if len(self._in_use) >= _max_maps():
            self._in_use.popleft().mapped = None
        mapped = shard.mapped = shard.map()
        self._in_use.append(shard)
        return mapped

    def _take(self, shard: Shard) -> None:
        """Make a shard part of this object."""
        if shard.num_views:
            check_types(str(shard.path), shard.types, self._types)
        if shard.name not in self._numbers:
            self._numbers[shard.name] = len(self._shards)
            self._shards.append(shard)
        self._sorted = None

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted digests (n,) uint64 and their handles (n,) int64; 16 bytes a view in memory.

        Of several copies of a view that of the first shard by name comes first.
        """
        if self._sorted is None:
            digests, handles = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
            for shard in self.shards:
                digests.append(shard.read_digests())
                first = self._numbers[shard.name] << _LOCAL_BITS
                handles.append(np.arange(first, first + shard.num_views, dtype=np.int64))
            joined = np.concatenate(digests)
            order = np.argsort(joined, kind="stable")
            self._sorted = joined[order], np.concatenate(handles)[order]
        return self._sorted

    def _find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Handles (n,) int64 and whether they were found (n,) bool."""
        known, handles = self._index()
        if not len(known):
            return np.zeros(len(digests), np.int64), np.zeros(len(digests), bool)
        places = np.minimum(np.searchsorted(known, digests), len(known) - 1)
        return handles[places], known[places] == digests

    # Checking

    def check(self, show_progress: bool = False, remember: bool = True) -> None:
        """Compare every shard with its checksum, and index.json with what is there; see
        `Checksums.check`."""
        self.refresh()
        self._checksums.check(self.shards, show_progress, remember)


def _max_maps() -> int:
    """Maps a process may hold: half its open files, and well below Linux's 65,530 maps."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 16_384 if limit == resource.RLIM_INFINITY else max(1, min(16_384, limit // 2))
