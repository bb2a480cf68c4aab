"""What a long measurement has computed so far, in a file: a run that is stopped goes on from there.

    lines = begin(path, key)
    append(path, {"start": 0, ...})

JSON lines: the first holds the key of everything that the others depend on. Who reads it removes
the file once the results are written.
"""
from __future__ import annotations

import json
import os
from pathlib import Path

from distill.data.files import read_jsonl, write_jsonl


def begin(path: Path, key: str) -> list[dict]:
    """Lines that an earlier run kept under the same key; a file of another key is begun anew.

    Rewrites the file: half a line of a killed run is dropped, and a full disk is noticed at once.
    """
    lines = _read(path)
    if not lines or lines[0] != {"key": key}:
        lines = [{"key": key}]
    write_jsonl(path, lines)
    return lines[1:]


def append(path: Path, line: dict) -> None:
    """Add a line; it is on disk when this returns."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> list[dict]:
    try:
        return read_jsonl(path, may_be_torn=True)
    except (FileNotFoundError, ValueError):
        return []
