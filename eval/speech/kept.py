"""What a model said of the test split, kept as it is said: a run that is stopped goes on.

One file a model, `eval/.<role>.said.jsonl` of a run: its first line says what for, each further
one what came of a batch of windows and how long that took, the last one what the model costs. It
goes once results.json is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from distill.data.files import read_jsonl, write_jsonl
from distill.whisper.decoding.sequences import Hypothesis


class Kept:
    """Hypotheses of one model by window, in memory and on disk.

    Args:
        key: of everything they depend on; a file of another key is begun anew.
    """

    def __init__(self, path: Path, key: str):
        self.path = path
        self.found: dict[str, list[Hypothesis]] = {}
        self.seconds = 0.0  # that finding them took
        self.facts: dict | None = None  # of the model, once all windows are done
        lines = _read(path)
        if not lines or lines[0] != {"key": key}:
            lines = [{"key": key}]
        for line in lines[1:]:
            self._take(line)
        write_jsonl(path, lines)  # without a half line of a killed run; says a full disk at once

    def missing(self, ids: Sequence[str]) -> bool:
        """Whether one of these windows is still to be decoded."""
        return any(name not in self.found for name in ids)

    def add(self, found: dict[str, list[Hypothesis]], seconds: float) -> None:
        """Keep what was said of some windows."""
        self._write({"found": {name: [asdict(each) for each in said]
                               for name, said in found.items()}, "seconds": seconds})

    def finish(self, facts: dict) -> None:
        """All windows are done: the model need not be loaded again."""
        self._write({"facts": facts})

    def _write(self, line: dict) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    def _take(self, line: dict) -> None:
        self.facts = line.get("facts", self.facts)
        self.seconds += line.get("seconds", 0.0)
        for name, said in line.get("found", {}).items():
            self.found[name] = [Hypothesis(**each) for each in said]


def _read(path: Path) -> list[dict]:
    try:
        return read_jsonl(path, may_be_torn=True)
    except (FileNotFoundError, ValueError):
        return []
