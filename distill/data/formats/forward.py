"""A reader of sound that can only be decoded from its beginning.

Times in containers are rounded, guessed or missing, and a decoder that starts in the middle gives
other samples: positions are counted instead. So that a long file is not decoded anew for each of
its windows, the last files stay open where somebody stopped, with what was heard shortly before.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import numpy as np

from distill.data.formats.errors import AudioError
from distill.data.formats.source import Source

KEEP_SECONDS = 40.0  # the next window may begin 30 s before the end of the last
KEEP_FILES = 16

# what decodes a source: the rate in Hz, and the next samples
Decode = Callable[[Source], Generator[tuple[int, np.ndarray]]]
_Key = tuple[int, Decode, tuple[str, int, int, int, int]]  # process, decoder, `Source.key`
_idle: dict[_Key, ForwardReader] = {}


class ForwardReader:
    """One channel; see `distill.data.formats.readers` for what a reader has."""

    def __init__(self, source: Source, decode: Decode):
        # its own handle: `source` is closed sooner
        self._fd = None if source.fd is None else os.dup(source.fd)
        self._source = source if self._fd is None else source.again(self._fd)
        self._decode = decode
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        self._blocks = self._decode(self._source)
        self._kept: deque[tuple[int, np.ndarray]] = deque()  # where they begin, samples
        self._end = self._place = self.rate = 0
        if self._next() is None:
            raise AudioError("empty", f"{self._source.name}: zero-length audio")

    def close(self) -> None:
        self._blocks.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def frames(self) -> int:
        while self._next() is not None:
            pass
        return self._end

    def seek(self, frame: int) -> None:
        if frame < self._kept[0][0]:
            self._begin()
        self._place = frame

    def read(self, frames: int | None) -> np.ndarray:
        first, last = self._place, None if frames is None else self._place + frames
        found = [np.zeros(0, np.float32)]
        for start, block in self._from(first):
            if last is not None and start >= last:
                break
            found.append(block[max(first - start, 0) : None if last is None else last - start])
        samples = np.concatenate(found)
        self._place = first + len(samples)
        return samples[:, None]

    def _from(self, frame: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks that end behind a frame."""
        yield from [(start, block) for start, block in self._kept if start + len(block) > frame]
        while (found := self._next()) is not None:
            if self._end > frame:
                yield found

    def _next(self) -> tuple[int, np.ndarray] | None:
        found = next(self._blocks, None)
        if self._source.error is not None:
            raise self._source.error
        if found is None:
            return None
        self.rate, block = found
        self._kept.append((self._end, block))
        self._end += len(block)
        while len(self._kept) > 1 and self._end - self._kept[1][0] >= KEEP_SECONDS * self.rate:
            self._kept.popleft()
        return self._kept[-1]


@contextmanager
def open_forward(source: Source, decode: Decode) -> Iterator[ForwardReader]:
    """The reader of a file: one that is still open, or a new one.

    Raises:
        AudioError: `empty`, and what `decode` raises.
    """
    # decoders do not live through a fork
    key = None if source.key is None else (os.getpid(), decode, source.key)
    idle = None if key is None else _idle.pop(key, None)
    reader = idle or ForwardReader(source, decode)
    try:
        yield reader
    except BaseException:
        reader.close()
        raise
    if key is None or key in _idle:
        reader.close()
        return
    _idle[key] = reader
    for oldest in list(_idle)[:-KEEP_FILES]:
        if (other := _idle.pop(oldest, None)) is not None:
            other.close()
