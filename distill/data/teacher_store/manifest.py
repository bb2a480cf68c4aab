"""manifest.json: what the teacher's word depends on; written once, compared at every opening."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from distill.data.files import hash_of, read_json
from distill.data.teacher_store.disk import StoreError, publish_json, remove_leftovers
from distill.data.teacher_store.shard import FORMAT, SCHEMA_VERSION

_ABSENT = "nothing"


def create_manifest(folder: Path, settings: dict | None) -> None:
    """Make a store where there is none; of several processes the first one's settings stay."""
    if settings is None:
        raise StoreError(f"{folder}: a new store needs `settings`: what the teacher's word "
                         "depends on")
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    settings = _plain(settings)
    if not (folder / "manifest.json").exists():
        publish_json(
            folder / "manifest.json",
            {"format": FORMAT, "schema_version": SCHEMA_VERSION, "settings": settings,
             "settings_hash": hash_of(settings)},
            replace=False,
        )


def read_settings(folder: Path, asked: dict | None) -> dict:
    """Settings of a store, after comparing them with those asked for.

    Raises:
        StoreError: no store, none this program can read, or one of other settings.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise StoreError(f"no teacher store in {folder} (it has no manifest.json); run "
                         "`make NAME.label` to make one")
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path}: not the manifest of a teacher store")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(f"{path}: schema version {manifest.get('schema_version')}, this program "
                         f"reads {SCHEMA_VERSION}; score again into another folder")
    settings = manifest["settings"]
    if hash_of(settings) != manifest["settings_hash"]:
        raise StoreError(f"{path} was edited: its settings do not match its settings_hash; the "
                         "shards are of the settings before")
    if asked is not None:
        _compare(folder, settings, _plain(asked))
    return settings


def _compare(folder: Path, stored: dict, asked: dict) -> None:
    """Raise with every key that differs."""
    ours, theirs = dict(_flat(stored)), dict(_flat(asked))
    lines = [
        f"  {key}: the store has {ours.get(key, _ABSENT)}, asked for {theirs.get(key, _ABSENT)}"
        for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)
    ]
    if lines:
        raise StoreError(f"{folder} was scored with other settings:\n" + "\n".join(lines)
                         + "\nuse the store's settings, score into another folder (scores.dir), or "
                         "delete this one to score anew")


def _flat(settings: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as JSON."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, sort_keys=True, ensure_ascii=False)


def _plain(settings: dict) -> dict:
    """As JSON gives it back: tuples become lists, keys strings."""
    return json.loads(json.dumps(settings))
