"""Audio in: any file libsndfile or FFmpeg reads becomes float32 mono at 16 kHz.

    samples = load_audio("clip.ogg", offset=1.5, duration=10.0)
    for samples in audio_blocks("hour.mp3", offset=0.0, duration=3600.0): ...

Whatever cannot be used raises `AudioError` with a short `reason`, so that callers can count what
they drop instead of stopping (or, worse, training on silence).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.data.formats.errors import AudioError
from distill.data.formats.readers import open_reader

SAMPLE_RATE = 16_000  # Hz, the only rate Whisper and our taggers know
WINDOW_SECONDS = 30.0  # Whisper's receptive field: longer input is cut without a word by the model
WINDOW_SAMPLES = int(WINDOW_SECONDS * SAMPLE_RATE)
BLOCK_SECONDS = 60.0  # of a long file that are in memory at once


def load_audio(
    source: str | Path | bytes, offset: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """Decode, mix down to mono, resample.

    Args:
        source: a path, or the bytes of an audio file (wav, flac, ogg, opus, mp3, m4a, ...). Its
            content says what it is, never its name.
        offset: seconds to skip.
        duration: seconds to read; None reads to the end.

    Returns:
        float32 (samples,) at 16 kHz.

    Raises:
        AudioError: `missing_file`, `cannot_open`, `needs_ffmpeg`, `unreadable`, `empty`,
            `not_finite`, or `truncated` (the file ends more than 50 ms before offset + duration).
    """
    with open_reader(source) as reader:
        rate = reader.rate
        reader.seek(round(offset * rate))
        samples = reader.read(None if duration is None else round(duration * rate))
    _check_length(source, len(samples) / rate, offset, duration)
    samples = resample(_mono(source, samples), rate)
    if len(samples) == 0:
        raise AudioError("empty", f"{_name(source)}: shorter than a sample at 16 kHz")
    return samples


def audio_blocks(
    source: str | Path | bytes, offset: float, duration: float
) -> Iterator[np.ndarray]:
    """What `load_audio` returns, in blocks of about a minute, for files of hours.

    Raises:
        AudioError: as `load_audio` does, where the fault is met.
    """
    import soxr

    with open_reader(source) as reader:
        rate, got, wanted = reader.rate, 0, round(duration * reader.rate)
        reader.seek(round(offset * rate))
        stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None
        while got < wanted:
            size = min(wanted - got, int(BLOCK_SECONDS * rate))
            samples = _mono(source, reader.read(size))
            if len(samples) == 0:
                break
            got += len(samples)
            yield samples if stream is None else stream.resample_chunk(samples)
    _check_length(source, got / rate, offset, duration)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _name(source: str | Path | bytes) -> str:
    return "<bytes>" if isinstance(source, bytes) else str(source)


def _check_length(source, seconds: float, offset: float, duration: float | None) -> None:
    name = _name(source)
    if seconds == 0:
        raise AudioError("empty", f"{name}: no samples at {offset:.2f} s")
    if duration is not None and seconds < duration - 0.05:
        raise AudioError("truncated", f"{name}: {seconds:.2f} s of the {duration:.2f} s expected")


def _mono(source, samples: np.ndarray) -> np.ndarray:
    """(time, channels) -> (time,)"""
    samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise AudioError("not_finite", f"{_name(source)}: NaN or infinite samples")
    return samples


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """`samples` (time,) at `rate` Hz -> float32 (time,) at 16 kHz."""
    if rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def audio_info(source: str | Path | bytes) -> tuple[float, int]:
    """(duration in seconds, sample rate in Hz) of all the sound of a file: from its header where
    that can be trusted, else by counting or decoding.

    Raises:
        AudioError: as `load_audio`.
    """
    with open_reader(source) as reader:
        frames, rate = reader.frames(), reader.rate
    if frames == 0:
        raise AudioError("empty", f"{_name(source)}: zero-length audio")
    return frames / rate, rate
