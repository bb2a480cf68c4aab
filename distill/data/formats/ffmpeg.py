"""Sound of what only FFmpeg reads (m4a, mp4, webm, amr, wma, ...), by PyAV, which is FFmpeg in a
wheel: `pip install 'audio-distill[media]'`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from distill.data.formats.errors import AudioError
from distill.data.formats.source import Piece, Source


def decode_media(source: Source) -> Generator[tuple[int, np.ndarray]]:
    """The first sound of a file from its beginning: the rate of its first frame in Hz, and blocks
    (samples,) in float32, mixed down. A damaged packet is silence, so that what follows keeps its
    time.

    Raises:
        AudioError: `unreadable`: not FFmpeg's either, without sound, or most of it damaged.
    """
    import av

    rate = good = bad = 0
    try:
        with av.open(Piece(source), "r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError("unreadable", f"{source.name}: there is no sound in it")
            for packet in container.demux(container.streams.audio[0]):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    bad += 1
                    if rate and packet.duration:
                        count = round(packet.duration * packet.time_base * rate)
                        yield rate, np.zeros(count, np.float32)
                    continue
                for frame in frames:
                    good += 1
                    rate = rate or frame.sample_rate
                    yield rate, _samples(frame, rate)
    except av.FFmpegError as error:
        if source.error is None:
            raise AudioError("unreadable", f"{source.name}: {error.strerror}") from error
    if bad > good:
        raise AudioError("unreadable", f"{source.name}: {bad} of {bad + good} packets are damaged")


def _samples(frame: Any, rate: int) -> np.ndarray:
    """A frame of any sample format as float32 (samples,) at `rate`."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        values = values.astype(np.float32) / 128 - 1
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    samples = values.astype(np.float32).mean(axis=0)
    if frame.sample_rate != rate:
        import soxr

        samples = soxr.resample(samples, frame.sample_rate, rate)
    return samples
