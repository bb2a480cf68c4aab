"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
import time


class GiveBack:
    """Call it after every piece of work; it acts now and then.

    Arrays of every size come and go while audio is read. glibc keeps what is freed between others
    that live on, and a process grows for as long as it runs. Pages that were given back are slow to
    write to again, so not after every shard.
    """

    def __init__(self, every_seconds: float = 30.0):
        self.every_seconds, self.last = every_seconds, time.monotonic()
        self.trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's

    def __call__(self) -> None:
        if self.trim is not None and time.monotonic() - self.last >= self.every_seconds:
            self.trim(0)
            self.last = time.monotonic()
