"""What a training run cannot read: printed, counted once a clip, kept for when it is stopped.

A fault of the file costs its clip; a fault of the moment ends the run, whose checkpoints stay: with
the file back, the same command ends with the same weights as if nothing had happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from distill.ced.data.clips import ClipError
from distill.ced.data.view_source import ViewSource
from distill.ced.teachers.scores import READABLE
from distill.data.files import read_json, write_json
from distill.data.formats.errors import TRANSIENT
from distill.data.manifest import counts_text
from distill.data.unreadable import UnreadableError


class TrainingFaults:
    """Clips of a run that cannot be read.

    Args:
        run: runs/NAME; each rank keeps what it met in `unreadable-RANK.json` there.
        scores: folder of a store that the run learns from; None: there is none.

    Raises:
        UnreadableError: a file is not there; too many clips cannot be read; scores of clips that
            could not be opened for a moment.
    """

    def __init__(self, source: ViewSource, run: Path, rank: int, scores: Path | None):
        self.source, self.run, self.rank = source, run, rank
        self._files = {clip.key: content[-1] for clip, content in
                       zip(source.clips, source.contents, strict=True)}
        self._met: dict[str, list] = {}
        self._epoch: int | None = None
        self.faults = source.faults("training")
        self.faults.begin("data.train")
        if scores is not None:
            for clip, reason in settled(scores, self._files).items():
                self.faults.note(clip, reason)
        self._recall()
        self.faults.check()

    def _recall(self) -> None:
        """What ranks met before, of files that are the same still."""
        for path in sorted(self.run.glob("unreadable-*.json")):
            for clip, (reason, file) in read_json(path).items():
                if clip in self._files and self._files[clip] == file:
                    self.faults.note(clip, reason)
                    if path.name == f"unreadable-{self.rank}.json":
                        self._met[clip] = [reason, file]

    def take(self, errors: Iterable[ClipError], epoch: int = 0) -> None:
        """Count faults of a batch of an epoch.

        Raises:
            ClipError: a fault of the moment.
            UnreadableError: there are too many.
        """
        if self._epoch is not None and epoch > self._epoch and self.faults.counts:
            print(f"Clips left out so far, by reason: {self.faults.text()}", flush=True)
        self._epoch = epoch if self._epoch is None else max(epoch, self._epoch)
        for error in errors:
            if error.is_transient:
                raise error
            if error.clip not in self._met:
                self._met[error.clip] = [error.reason, self._files.get(error.clip)]
                write_json(self.run / f"unreadable-{self.rank}.json", self._met)
            self.faults.add(error.clip, error.error)
            self.faults.check()

    @property
    def reasons(self) -> dict[str, str]:
        """{clip: reason}, of all ranks."""
        self._recall()
        return self.faults.reasons


def settled(scores: Path, clips: Iterable[str]) -> dict[str, str]:
    """{clip: reason} of clips that a store says nobody can read.

    Raises:
        UnreadableError: some could not be opened for a moment only.
    """
    path, known = scores / "unreadable.json", set(clips)
    found: dict[str, str] = read_json(path) if path.is_file() else {}
    moment = Counter(why for why in found.values() if why in (READABLE, *TRANSIENT))
    if moment:
        counts = counts_text(moment)
        raise UnreadableError(
            f"{scores}: clips could not be opened when they were scored, see {path} ({counts}); "
            "run `make NAME.label`: with their files there, their blocks are scored again")
    reasons = {}
    for fault, reason in found.items():  # `clip KEY: /path: what is wrong`, and keys may have ": "
        parts = fault.removeprefix("clip ").split(": ")
        keys = (": ".join(parts[:end]) for end in range(1, len(parts) + 1))
        if key := next((key for key in keys if key in known), None):
            reasons[key] = reason
    return reasons
