"""Lengths of audio files that were measured, kept beside the manifest while an import runs.

    with Journal(out / ".train.progress.jsonl") as journal:
        seconds = journal.seconds_of(path)

An import that was stopped goes through its source anew: what rows say is read again, and only what
takes long is not done again. So nothing of the source is believed without a look at it, and the
result is that of a run that was not stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from distill.data.audio import audio_info

_HEADER = {"made_by": "audio-distill", "kind": "progress of an import"}


class Journal:
    """One JSON line for each file: {"file": its path, size and dates, hashed, "seconds"}, and for
    each that was stored {"stored": path}. Survives a kill.

    Attributes:
        num_known: files that were measured before.
    """

    def __init__(self, path: Path):
        self.path = path
        self._seconds: dict[bytes, float] = {}
        end = self._read()
        self.num_known = len(self._seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        if end:  # the torn last line of a killed run goes
            os.truncate(path, end)
        self._file = open(path, "a" if end else "w", encoding="utf-8")  # noqa: SIM115 (__exit__)
        if not end:
            self._write(_HEADER)

    def seconds_of(self, path: Path) -> float:
        """Length of a file: that of before, if it is still the same file, else measured.

        Raises:
            AudioError: see `audio_info`. It is not kept: the next run tries again.
        """
        try:
            key = _key(path)
        except OSError:
            return audio_info(path)[0]  # says what is wrong with it
        if key not in self._seconds:
            self._seconds[key] = audio_info(path)[0]
            self._write({"file": key.hex(), "seconds": self._seconds[key]})
        return self._seconds[key]

    def stored(self, path: str) -> None:
        """Note a file before it is written, relative to the output folder."""
        self._write({"stored": path})

    def read_stored(self) -> Iterator[str]:
        """What was noted by this run and those before it."""
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                if path := json.loads(line).get("stored"):
                    yield path

    def remove(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _read(self) -> int:
        """Where the last whole line ends; 0: there is no journal of ours."""
        end = 0
        if not is_journal(self.path):
            return end
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    raw = json.loads(line)
                    if not line.endswith(b"\n"):
                        break
                    if "file" in raw:
                        self._seconds[bytes.fromhex(raw["file"])] = float(raw["seconds"])
                except (ValueError, KeyError, TypeError):
                    break
                end += len(line)
        return end

    def _write(self, value: dict) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def is_journal(path: Path) -> bool:
    """Whether a file is a journal of ours."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.readline()) == _HEADER
    except (OSError, ValueError):
        return False


def _key(path: Path) -> bytes:
    """What tells a file from the one that was there before: `st_ctime` changes even where a copy
    keeps the date."""
    status = os.stat(path)
    words = (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b("\0".join(map(str, words)).encode(errors="surrogateescape"),
                           digest_size=12).digest()
