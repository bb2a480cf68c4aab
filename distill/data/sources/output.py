"""Folders that imports write to: never the user's own, never a file that somebody else wrote.

    refuse_overlap(source, out)                            # the source, in it, or around it
    refuse_foreign(out, ["train.jsonl", "audio"], made)    # made: what we wrote there, {name: hash}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def refuse_overlap(source: str | Path, out: str | Path) -> None:
    """Refuse an output folder that is the source, lies in it, or has it below itself: what is
    written would be clips of the next run, or replace the user's tables.

    Links, relative paths and file systems that ignore case are seen through. A file as `source` (a
    table) only has to lie in another folder.

    Raises:
        ValueError: naming a better folder.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output {out} is a file; say a folder, such as {_better(source)}")
    if source.is_file():
        reason = "is the folder of" if _same(source.parent, out) else None
    elif _same(source, out):
        reason = "is"
    elif _is_within(out, source):
        reason = "lies in"
    else:
        reason = "contains" if _is_within(source, out) else None
    if reason:
        raise ValueError(
            f"the output folder {out} {reason} the source {source}, which is never written to: say "
            f"another one, such as {_better(source)}")


def refuse_foreign(out: str | Path, writes: Iterable[str], made: Mapping[str, str | None]) -> None:
    """Refuse to write over what is not ours.

    Args:
        writes: names in the folder `out` that will be written.
        made: of them those that we wrote before, with `hash_of_file`; None: it was not noted.

    Raises:
        ValueError: a file of such a name is somebody else's, or was changed since.
    """
    out = Path(out)
    for name in writes:
        path = out / name
        if not os.path.lexists(path):
            continue
        if name not in made:
            raise ValueError(
                f"{path} is there already and was not made by this command, which would write over "
                f"it: say another output folder, such as {out.parent / f'{out.name}-manifests'}")
        if made[name] is not None and path.is_file() and hash_of_file(path) != made[name]:
            raise ValueError(
                f"{path} was changed since it was made, and would be written over: move it away, "
                f"or say another output folder, such as {out.parent / f'{out.name}-2'}")


def refuse_other_rows(path: str | Path, fields: Iterable[str]) -> None:
    """Refuse to write rows over a file that holds something else.

    Args:
        fields: that the first row (or the object that the file is) has of what the command writes,
            and no manifest of clips.

    Raises:
        ValueError: it is a manifest of clips, or somebody else's.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            text = file.readline() if path.suffix == ".jsonl" else file.read()
        is_ours = not text.strip() or set(fields) <= json.loads(text).keys()
    except (OSError, ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{path} is there already and was not made by this command, which would "
                         "write over it: say another place to write to")


def place_from(out: str | Path, source: str | Path) -> str:
    """Where a source lies, seen from the output folder: the same for `in`, `in/` and the whole path
    of it, in whatever folder the command is run. A Hub id or a URL is itself."""
    if not os.path.exists(source):
        return str(source)
    return os.path.relpath(os.path.realpath(source), os.path.realpath(out))


def relative_to(out: str | Path, folder: str | Path) -> str:
    """A folder seen from another one, which may be a link, or lie in one (`data` on another disk):
    what a system finds there, and not what the names say."""
    found = os.path.relpath(folder, out)
    if os.path.realpath(os.path.join(out, found)) != os.path.realpath(folder):
        found = os.path.relpath(os.path.realpath(folder), os.path.realpath(out))
    return Path(found).as_posix()


def is_same_source(said: Mapping[str, Any], out: str | Path, source: str | Path) -> bool:
    """Whether what a report says is of this source, as far as one knows.

    Args:
        said: its `place`; older ones have only a `source`, as it was given.
    """
    before = said.get("place") or place_from(out, said.get("source", source))
    return before == place_from(out, source)


class Outside:
    """Whether files lie outside a folder, links seen through."""

    def __init__(self, out: str | Path):
        self.out = out
        self._real = Path(os.path.realpath(out))
        self._is_inside: dict[Path, bool] = {}

    def check(self, path: Path) -> None:
        """
        Raises:
            ValueError: a file of the source lies in the output folder.
        """
        folder = path.parent
        if folder not in self._is_inside:
            self._is_inside[folder] = Path(os.path.realpath(folder)).is_relative_to(self._real)
        if self._is_inside[folder]:
            raise ValueError(f"{path}, which the source leads to, lies in the output folder "
                             f"{self.out}: say another one")


def hash_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _better(source: Path) -> Path:
    """A folder beside the source."""
    folder = source.parent if source.is_file() else source
    name = folder.name if folder.name not in ("", "..") else folder.resolve().name
    parent = folder.parent if folder.name not in ("", "..") else folder / ".."
    return Path(os.path.normpath(parent / f"{name}-manifests"))


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:  # one of them is not there (yet)
        return os.path.realpath(first) == os.path.realpath(second)


def _is_within(path: Path, folder: Path) -> bool:
    real = Path(os.path.realpath(path))
    return any(_same(parent, folder) for parent in real.parents)
