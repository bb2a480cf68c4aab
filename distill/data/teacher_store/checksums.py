"""Whether the shards of a store are whole: index.json lists them, .checked.json those whose
checksum was compared and that have not changed since."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.data.files import read_json
from distill.data.teacher_store.disk import StoreError, publish_json, sha256_of
from distill.data.teacher_store.shard import FORMAT, PATTERN, SCHEMA_VERSION, SCORE_AGAIN, Shard

Stamps = dict[str, list[int]]  # name of a shard: its size and time when its checksum was right


class Checksums:
    """Of the shards in a folder. A shard's name has its checksum."""

    def __init__(self, folder: Path):
        self.folder = folder

    def listed(self) -> dict[str, dict[str, Any]]:
        """Entries of index.json by name; none before the store is sealed.

        Raises:
            StoreError: it cannot be read.
        """
        path = self.folder / "index.json"
        try:
            return {entry["name"]: entry for entry in read_json(path)["shards"]}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} cannot be read ({error!r}); remove it and run "
                             "`make NAME.label`: it is written again") from None

    def write_index(self, shards: Sequence[Shard], settings_hash: str) -> None:
        """Write index.json: every shard with its size and checksum, and the totals.

        Raises:
            StoreError: a shard does not match its checksum.
        """
        listed, checked, entries = self.listed(), self._checked(), []
        for shard in sorted(shards, key=lambda shard: shard.name):
            if shard.name in listed:
                digest = listed[shard.name]["sha256"]
            else:
                stamp, digest = _stamp(shard), sha256_of(shard.path)
                if shard.name != _name_of(digest):
                    raise self._broken([shard])
                checked[shard.name] = stamp
            entries.append({"name": shard.name, "sha256": digest, "bytes": shard.num_bytes,
                            "views": shard.num_views, "rows": shard.num_rows})
        totals = {key: sum(entry[key] for entry in entries) for key in ("views", "rows", "bytes")}
        publish_json(self.folder / "index.json", {
            "format": FORMAT, "schema_version": SCHEMA_VERSION,
            "settings_hash": settings_hash, "num_shards": len(entries), **totals,
            "shards": entries,
        })
        self._remember(checked)

    def check(self, shards: Sequence[Shard], show_progress: bool, remember: bool) -> None:
        """Compare every shard with its checksum, and index.json with what is there.

        Args:
            remember: skip shards that have neither size nor time changed since they were checked,
                and note the others in `.checked.json`. False reads everything.

        Raises:
            StoreError: broken shards, or shards of index.json that are gone; all are named.
        """
        from tqdm import tqdm

        gone = sorted(set(self.listed()) - {shard.name for shard in shards})
        if gone:
            raise StoreError(
                f"{self.folder}: {len(gone)} of the shards in index.json are gone: "
                f"{', '.join(gone)}; put back what is missing or run `make NAME.label`: only its "
                "views are scored again"
            )
        checked = self._checked() if remember else {}
        todo = [(shard, _stamp(shard)) for shard in shards]
        todo = [(shard, stamp) for shard, stamp in todo if checked.get(shard.name) != stamp]
        broken = []
        for shard, stamp in tqdm(todo, "checksums", unit="shard", leave=False,
                                 disable=None if show_progress else True):
            if _name_of(sha256_of(shard.path)) == shard.name:
                checked[shard.name] = stamp
            else:
                broken.append(shard)
        if remember and todo:
            self._remember(checked)
        if broken:
            raise self._broken(broken)

    def _broken(self, shards: Sequence[Shard]) -> StoreError:
        if len(shards) == 1:
            return StoreError(
                f"{shards[0].path}: its content does not match its checksum; {SCORE_AGAIN}"
            )
        names = ", ".join(shard.name for shard in shards)
        return StoreError(
            f"{self.folder}: the content of {len(shards)} shards does not match their checksums: "
            f"{names}; remove them and run `make NAME.label`: only their views are scored again"
        )

    def _checked(self) -> Stamps:
        try:
            checked = read_json(self.folder / ".checked.json")
        except (OSError, ValueError):
            return {}
        return checked if isinstance(checked, dict) else {}

    def _remember(self, checked: Stamps) -> None:
        here = {path.name for path in self.folder.glob(PATTERN)}
        checked = {name: stamp for name, stamp in sorted(checked.items()) if name in here}
        with suppress(OSError, StoreError):  # a read-only or full disk: it is checked again
            publish_json(self.folder / ".checked.json", checked)


def _name_of(sha256: str) -> str:
    return f"shard-{sha256[:32]}.h5"


def _stamp(shard: Shard) -> list[int]:
    try:
        status = shard.path.stat()
    except FileNotFoundError:
        raise shard.vanished() from None
    return [status.st_size, status.st_mtime_ns]
