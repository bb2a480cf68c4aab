"""A reader of what only FFmpeg reads: m4a, mp4, webm, amr, wma, ... by PyAV, FFmpeg in a wheel:
`pip install 'audio-distill[media]'`.

Positions are counted in samples from the beginning: times in containers are rounded, guessed or
missing, and a decoder that starts in the middle gives other samples. Who goes on behind the place
where somebody stopped does not begin again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from distill.data.audio import AudioError
from distill.data.audio_source import Piece, Source

_idle: list[MediaReader] = []  # the last one, open where somebody stopped


class MediaReader:
    """The first sound of a file, (frames, channels) float32, at the rate of its first frame."""

    def __init__(self, source: Source):
        # Another file handle: the source is closed while this one may be kept.
        fd = None if source.fd is None else os.dup(source.fd)
        self._source = source if fd is None else Source(source.name, fd)
        # of this process: decoders do not live through a fork
        self.key = source.key and (os.getpid(), source.key)
        self.rate, self._container, self._place = 0, None, 0
        self._begin()

    def _begin(self) -> None:
        self.close_container()
        self._blocks, self._rest, self._place = self._decode(), np.zeros((0, 1), np.float32), 0
        self._rest = next(self._blocks, self._rest)
        if len(self._rest) == 0:
            raise AudioError("empty", f"{self._source.name}: zero-length audio")

    def close_container(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def close(self) -> None:
        self.close_container()
        if self._source.fd is not None:
            os.close(self._source.fd)
            self._source.fd = None

    def frames(self) -> int:
        self.seek(1 << 62)
        return self._place

    def seek(self, frame: int) -> None:
        if frame < self._place:
            self._begin()
        while self._place < frame and self._fill():
            count = min(frame - self._place, len(self._rest))
            self._rest, self._place = self._rest[count:], self._place + count

    def read(self, frames: int | None) -> np.ndarray:
        found, left = [], 1 << 62 if frames is None else frames
        while left > 0 and self._fill():
            found.append(self._rest[:left])
            self._rest = self._rest[len(found[-1]):]
            left -= len(found[-1])
            self._place += len(found[-1])
        if len({block.shape[1] for block in found}) > 1:  # channels may come and go
            found = [block.mean(axis=1, keepdims=True) for block in found]
        return np.concatenate(found) if found else np.zeros((0, 1), np.float32)

    def _fill(self) -> bool:
        while len(self._rest) == 0:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._rest = block
        return True

    def _decode(self) -> Iterator[np.ndarray]:
        import av

        name = self._source.name
        try:
            self._container = container = av.open(Piece(self._source), metadata_errors="ignore")
            if not container.streams.audio:
                raise AudioError("unreadable", f"{name}: there is no sound in it")
            stream = container.streams.audio[0]
            good = bad = 0
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    bad += 1
                    yield from self._silence(packet, good)
                    continue
                for frame in frames:
                    good += 1
                    yield self._samples(frame)
        except av.FFmpegError as error:
            if self._source.error is None:
                raise AudioError("unreadable", f"{name}: {error.strerror}") from error
        if self._source.error is not None:
            raise self._source.error
        if bad > good:
            raise AudioError("unreadable", f"{name}: {bad} of {bad + good} packets are damaged")

    def _silence(self, packet, good: int) -> Iterator[np.ndarray]:
        """In place of a damaged packet, so that what follows keeps its time."""
        if good and packet.duration:
            count = round(packet.duration * packet.time_base * self.rate)
            yield np.zeros((count, 1), np.float32)

    def _samples(self, frame) -> np.ndarray:
        values = frame.to_ndarray()
        channels = frame.layout.nb_channels
        if not frame.format.is_planar:
            values = values.reshape(-1, channels).T
        if values.dtype == np.uint8:
            values = values.astype(np.float32) / 128 - 1
        elif values.dtype.kind == "i":
            values = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
        samples = values.T.astype(np.float32)
        self.rate = self.rate or frame.sample_rate
        if frame.sample_rate != self.rate:
            import soxr

            samples = soxr.resample(samples, frame.sample_rate, self.rate)
        return samples


@contextmanager
def open_media(source: Source) -> Iterator[MediaReader]:
    """The reader of a file.

    Raises:
        AudioError: `unreadable` or `empty`.
    """
    key = source.key and (os.getpid(), source.key)
    reader = _idle.pop() if _idle else None
    if reader is not None and reader.key != key:
        reader.close()
        reader = None
    reader = reader or MediaReader(source)
    try:
        yield reader
    except BaseException:
        reader.close()
        raise
    if key is None or _idle:
        reader.close()
    else:
        _idle.append(reader)
