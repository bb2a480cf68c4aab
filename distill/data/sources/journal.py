"""What was measured of audio files, kept beside the manifest while an import runs.

    with Journal(out / ".train.progress.jsonl") as journal:
        seconds = journal.seconds_of(path)

An import that was stopped goes through its source anew: what rows say is read again, and only what
takes long is not done again. So nothing of the source is believed without a look at it, and the
result is that of a run that was not stopped.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from distill.data.audio import audio_info

T = TypeVar("T")
_HEADER = {"made_by": "audio-distill", "kind": "progress of an import"}


class Journal:
    """One JSON line for each file: {"file": its path, size and dates, hashed, "is": what was
    measured}, and for each that was stored {"stored": path}. Survives a kill.

    Attributes:
        num_known: files that were measured before.

    Raises:
        ValueError: another process has it open: two imports would write over each other.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[bytes, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(path)
        end = self._read()
        self.num_known = len(self._known)
        os.truncate(path, end)  # the torn last line of a killed run goes
        if not end:
            self._write(_HEADER)

    def seconds_of(self, path: Path) -> float:
        """Length of a file, measured or known.

        Raises:
            AudioError: see `audio_info`. It is not kept: the next run tries again.
        """
        return self.of(path, lambda each: audio_info(each)[0])

    def of(self, path: Path, measure: Callable[[Path], T]) -> T:
        """What `measure` says of a file (anything JSON can hold): what it said before, if it is
        still the same file."""
        try:
            key = _key(path)
        except OSError:
            return measure(path)  # says what is wrong with it
        if key not in self._known:
            self._known[key] = measure(path)
            self._write({"file": key.hex(), "is": self._known[key]})
        return self._known[key]

    def stored(self, path: str) -> None:
        """Note a file before it is written, relative to the output folder."""
        self._write({"stored": path})

    def making(self, *names: str) -> None:
        """Note files of the output folder that will be written now: if this run is killed before
        it has noted their hashes, they are ours nevertheless (`made_by`)."""
        self._write({"making": names})

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
                        self._known[bytes.fromhex(raw["file"])] = raw["is"]
                except (ValueError, KeyError, TypeError):
                    break
                end += len(line)
        return end

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _open_alone(path: Path) -> TextIO:
    """A file to append to, which no other process has open in this way."""
    while True:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by who asks)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                raise ValueError(f"another import writes to {path.parent} under this name at the "
                                 "moment: wait until it ends, or say another output folder"
                                 ) from None  # else the file system has no locks
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
        file.close()  # it was done, and took its journal away


def is_journal(path: Path) -> bool:
    """Whether a file is a journal of ours."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.readline()) == _HEADER
    except (OSError, ValueError):
        return False


def made_by(path: Path) -> set[str]:
    """Names that the journal of a run that was killed says are ours; none if it is no journal."""
    if not is_journal(path):
        return set()
    names: set[str] = set()
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith('{"making"') and line.endswith("\n"):
                names.update(json.loads(line)["making"])
    return names


def _key(path: Path) -> bytes:
    """What tells a file from the one that was there before: `st_ctime` changes even where a copy
    keeps the date."""
    status = os.stat(path)
    words = (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.blake2b("\0".join(map(str, words)).encode(errors="surrogateescape"),
                           digest_size=12).digest()
