"""A file that is read from a place of its own: what all such files do alike."""

from __future__ import annotations

import io


class Seekable(io.RawIOBase):
    """Subclasses give `readinto`, which reads at `place` and moves it.

    Args:
        length: bytes.
    """

    def __init__(self, length: int):
        self.length, self.place = length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        self.place = max(0, base + offset)
        return self.place
