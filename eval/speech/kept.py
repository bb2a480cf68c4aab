"""A model's transcripts of the test split, kept batch by batch: a run that is stopped goes on.

One file a model, `eval/.<role>.said.jsonl` of a run (`distill.kept_lines`): a line for each
batch of windows with its seconds, and at the end a line with the facts of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from distill.kept_lines import append, begin
from distill.whisper.decoding.sequences import Hypothesis


class Kept:
    """Hypotheses of one model by window, in memory and on disk.

    Args:
        key: of everything they depend on; a file of another key is begun anew.

    Attributes:
        found: hypotheses by the id of their window.
        seconds: that finding them took.
        facts: of the model, once all windows are done.
    """

    def __init__(self, path: Path, key: str):
        self.path = path
        self.found: dict[str, list[Hypothesis]] = {}
        self.seconds = 0.0
        self.facts: dict | None = None
        for line in begin(path, key):
            self._take(line)

    def missing(self, ids: Sequence[str]) -> bool:
        """Whether one of these windows is still to be decoded."""
        return any(name not in self.found for name in ids)

    def add(self, found: dict[str, list[Hypothesis]], seconds: float) -> None:
        """Keep the hypotheses of some windows."""
        self._write({"found": {name: [asdict(each) for each in hypotheses]
                               for name, hypotheses in found.items()}, "seconds": seconds})

    def finish(self, facts: dict) -> None:
        """All windows are done: the model need not be loaded again."""
        self._write({"facts": facts})

    def _write(self, line: dict) -> None:
        append(self.path, line)
        self._take(line)

    def _take(self, line: dict) -> None:
        self.facts = line.get("facts", self.facts)
        self.seconds += line.get("seconds", 0.0)
        for name, hypotheses in line.get("found", {}).items():
            self.found[name] = [Hypothesis(**each) for each in hypotheses]
