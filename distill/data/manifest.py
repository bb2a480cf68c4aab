"""The manifest: one JSON object a line, one clip an object. The contract between stages.

Field names are those of NeMo and of the Open ASR Leaderboard. Audio paths are relative to the
manifest's folder, so that a corpus can be moved.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from distill.data.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Row:
    """A clip. `offset` and `duration` in seconds; `text` is the reference, if there is one."""

    id: str
    audio_filepath: str
    duration: float
    offset: float = 0.0
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    labels: list[str] | None = None


_REQUIRED = ("id", "audio_filepath", "duration")


def read_manifest(path: str | Path) -> tuple[list[Row], Counter]:
    """Read a manifest; rows that can never be used are dropped and counted.

    Returns:
        rows with absolute audio paths, and a Counter of drops by reason (`duplicate_id`,
        `bad_duration`).

    Raises:
        ValueError: the file is missing, or a line lacks a required field.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"manifest not found: {path}")
    known = {field.name for field in fields(Row)}
    rows, drops, seen = [], Counter(), set()
    for number, raw in enumerate(read_jsonl(path), 1):
        missing = [name for name in _REQUIRED if raw.get(name) in (None, "")]
        if missing:
            raise ValueError(
                f"{path}: row {number} lacks {', '.join(missing)}; "
                f"a row needs {', '.join(_REQUIRED)}, it has {', '.join(raw) or 'nothing'}"
            )
        row = Row(**{name: value for name, value in raw.items() if name in known})
        if row.id in seen:
            drops["duplicate_id"] += 1
            continue
        if not (math.isfinite(row.duration) and row.duration > 0):
            drops["bad_duration"] += 1
            continue
        seen.add(row.id)
        audio = str((path.parent / row.audio_filepath).resolve())
        rows.append(Row(**{**asdict(row), "audio_filepath": audio}))
    return rows, drops


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as they are; fields that are None are left out."""
    write_jsonl(
        path,
        ({k: v for k, v in asdict(row).items() if v is not None} for row in rows),
    )
