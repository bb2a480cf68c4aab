"""Clips that cannot be read: printed as they are met, counted by reason; too many end a stage.

    faults = Unreadable(len(clips), recipe.data.max_unreadable, "labelling")
    faults.stat((clip.id, clip.audio_filepath) for clip in clips)  # before a model is loaded
    faults.add(clip.id, error)                                     # as they are met
    faults.check()                                                 # raises if they are too many
    print(faults.text())                                           # 2 empty, 1 truncated
    faults.finish("data.train")                                    # raises if one may come back

Faults are of two kinds (`AudioError.is_transient`). One of the file stays: its clip is dropped. One
of the moment (a disk that is not mounted) goes away: nothing may be settled on it, and the stage
that met it is not done, however much it got done.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from distill.data.formats.addresses import is_remote, split_part
from distill.data.formats.errors import TRANSIENT, AudioError
from distill.data.formats.places import place_of
from distill.data.formats.remote import size_of
from distill.progress import progress

KEY = "data.max_unreadable"
TOLD = 10  # clips of a reason that are printed; the others are counted
WAITS_SECONDS = (1.0, 4.0)  # before a file that could not be opened is tried again
_NAMED = 3  # clips of a reason in a sentence
_MANY_FILES = 10_000  # from here on, looking at them takes long enough for a line about it
_waited_in_vain = False  # of this process, for the last file that could not be opened

T = TypeVar("T")


class UnreadableError(ValueError):
    """A stage ends here: too much of its audio cannot be read, or some of it not now."""


class Unreadable:
    """What a stage could not read of its clips, each clip once; safe to use from several threads.

    Args:
        total: clips the stage reads altogether.
        max_share: of them that may be unreadable, 0 to 1 (`data.max_unreadable`). A single clip is
            always allowed (unless it is 0): one bad file of ten says nothing about the others.
        stage: for sentences: "labelling".
    """

    def __init__(self, total: int, max_share: float, stage: str):
        self.total, self.max_share, self.stage = total, max_share, stage
        self._reasons: dict[str, str] = {}
        self._printed: Counter = Counter()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_lock": None}  # a worker gets a copy, whose counts nobody reads

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    # What was met

    def add(self, clip: str, error: AudioError) -> None:
        """Count a clip, and print it: the first ten of each reason."""
        if not self.note(clip, error.reason):
            return
        with self._lock:
            self._printed[error.reason] += 1
            count = self._printed[error.reason]
        if count <= TOLD:
            more = f" (further clips that are {error.reason} are only counted)" * (count == TOLD)
            print(f"Cannot read clip {clip}: {error.reason}: {error.detail}{more}", flush=True)

    def note(self, clip: str, reason: str) -> bool:
        """Count a clip that another run or rank has printed; False if it is counted."""
        with self._lock:
            is_new = clip not in self._reasons
            self._reasons.setdefault(clip, reason)
        return is_new

    def stat(self, clips: Iterable[tuple[str, str]]) -> None:
        """Look whether the files are there, without reading them: (clip, path) each.

        Raises:
            UnreadableError: too many are not.
        """
        clips = list(clips)
        found: dict[str, AudioError | None] = {}
        for clip, path in progress(clips, len(clips), "looking for audio files", "clips",
                                   len(clips) >= _MANY_FILES):
            file = split_part(path)[0] if is_remote(path) else path
            if file not in found:
                found[file] = file_fault(file)
            if (error := found[file]) is not None:
                self.add(clip, error)
        self.check()

    # What follows

    @property
    def reasons(self) -> dict[str, str]:
        """{clip: reason}"""
        with self._lock:
            return dict(self._reasons)

    @property
    def counts(self) -> dict[str, int]:
        """Clips by reason."""
        with self._lock:
            return dict(sorted(Counter(self._reasons.values()).items()))

    @property
    def num_transient(self) -> int:
        return sum(self._transient_counts().values())

    def _transient_counts(self) -> dict[str, int]:
        return {reason: n for reason, n in self.counts.items() if reason in TRANSIENT}

    def text(self) -> str:
        """`2 empty, 1 truncated`; "" if there was none."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.items())

    def check(self) -> None:
        """
        Raises:
            UnreadableError: more clips cannot be read than `max_share` of all, or none can.
        """
        count = len(self._reasons)
        if not self.too_many(count):
            return
        back = ("Bring back what is missing (is a disk not mounted?)" if self.num_transient
                else "Look at these files")
        raise UnreadableError(
            f"{self.stage} stops: {count:,} of {self.total:,} clips ({count / self.total:.1%}) "
            f"cannot be read: {self._named(self.counts)}. {back} and run the same command, or "
            f"allow more with {KEY} (now {self.max_share:g}: {self.max_share:.0%})"
        )

    def too_many(self, count: int) -> bool:
        """Whether `count` unreadable clips end the stage."""
        if count and count >= self.total and self.max_share < 1:
            return True
        return count > max(int(self.max_share > 0), self.max_share * self.total)

    def begin(self, where: str) -> None:
        """Before a stage that needs every clip, or none of it can be kept.

        Args:
            where: as for `finish`.

        Raises:
            UnreadableError: clips cannot be opened now.
        """
        counts = self._transient_counts()
        if counts:
            raise UnreadableError(
                f"{self.stage} does not begin: {sum(counts.values()):,} of {self.total:,} clips "
                f"cannot be opened: {self._named(counts)}. With these files back (is a disk not "
                f"mounted?), or taken out of {where}, the same command begins"
            )

    def finish(self, where: str, also_permanent: bool = False) -> None:
        """At the end of the stage.

        Args:
            where: key of the manifests, to take out of it what does not come back.
            also_permanent: nothing can go on without clips that are of no use, either.

        Raises:
            UnreadableError: clips could not be opened that another run may well be able to open.
        """
        counts = self.counts if also_permanent else self._transient_counts()
        if counts:
            verb = "read" if also_permanent else "opened"
            raise UnreadableError(
                f"{self.stage} is not complete: {sum(counts.values()):,} of {self.total:,} clips "
                f"could not be {verb}: {self._named(counts)}. What needs none of them is done "
                f"and kept; with these files back, or taken out of {where}, the same command goes "
                "on"
            )

    def _named(self, counts: dict[str, int]) -> str:
        """`3 missing_file (a, b, c), 12 truncated (d, e, f, ...)`"""
        parts = []
        for reason, count in counts.items():
            names = [clip for clip, why in self._reasons.items() if why == reason][:_NAMED]
            parts.append(f"{count:,} {reason} ({', '.join(names)}{', ...' * (count > _NAMED)})")
        return ", ".join(parts)


def file_fault(path: str | os.PathLike) -> AudioError | None:
    """Why audio cannot be opened, as far as can be told without opening it; None: it is there.
    Behind URLs each file is asked for once in a process."""
    try:
        place = place_of(path)
        if place.is_remote:
            return _remote_fault(place.path)
        os.stat(place.path)
    except (FileNotFoundError, NotADirectoryError):
        return AudioError("missing_file", str(path))
    except OSError as error:
        return AudioError("cannot_open", f"{path}: {error.strerror or error}")
    except AudioError as error:
        return error
    if not os.access(place.path, os.R_OK):
        return AudioError("cannot_open", f"{path}: {os.strerror(errno.EACCES)}")
    return None


def _remote_fault(url: str) -> AudioError | None:
    try:
        size_of(url)
    except FileNotFoundError:
        return AudioError("missing_file", url)
    except OSError as error:
        return AudioError("cannot_open", str(error))
    return None


def read_patiently(read: Callable[[], T]) -> T:
    """`read()`; what could not be opened is tried again after a moment, for a share may hang.

    One that does not come back is waited for once: after that, each file is tried once, until one
    can be opened. Else every clip of a lost disk would take the seconds of all waits.

    Raises:
        AudioError: of the last try.
    """
    global _waited_in_vain
    waits = iter(() if _waited_in_vain else WAITS_SECONDS)
    while True:
        try:
            found = read()
        except AudioError as error:
            if not error.is_transient or error.reason == "needs_ffmpeg":
                raise
            if (seconds := next(waits, None)) is None:
                _waited_in_vain = True
                raise
            time.sleep(seconds)
        else:
            _waited_in_vain = False
            return found
