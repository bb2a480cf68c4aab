"""Audio in: any file libsndfile reads becomes float32 mono at 16 kHz.

    samples = load_audio("clip.ogg", offset=1.5, duration=10.0)
    for samples in audio_blocks("hour.mp3", offset=0.0, duration=3600.0): ...

Whatever cannot be used raises `AudioError` with a short `reason`, so that callers can count what
they drop instead of stopping (or, worse, training on silence).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000  # Hz, the only rate Whisper and our taggers know
WINDOW_SECONDS = 30.0  # Whisper's receptive field: longer input is cut without a word by the model
WINDOW_SAMPLES = int(WINDOW_SECONDS * SAMPLE_RATE)
BLOCK_SECONDS = 60.0  # of a long file that are in memory at once


# Faults of the moment, not of the file: a disk that is not mounted, a share that hangs, a package
# that is not installed. Nothing may be settled on them: the next run tries again what met one.
TRANSIENT = frozenset({"missing_file", "cannot_open", "needs_ffmpeg"})


class AudioError(ValueError):
    """Audio that cannot be used. `reason` is one of a few fixed words, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def is_transient(self) -> bool:
        """Whether another run may well be able to read it."""
        return self.reason in TRANSIENT

    def __reduce__(self):  # the default would call AudioError(message) in a worker's parent
        return AudioError, (self.reason, self.detail)


def load_audio(
    source: str | Path | bytes, offset: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """Decode, mix down to mono, resample.

    Args:
        source: a path, or the bytes of an audio file (wav, flac, ogg, opus, mp3, ...).
        offset: seconds to skip.
        duration: seconds to read; None reads to the end.

    Returns:
        float32 (samples,) at 16 kHz.

    Raises:
        AudioError: `missing_file`, `unreadable`, `empty`, `not_finite`, or `truncated` (the file
            ends more than 50 ms before offset + duration).
    """
    with _open_audio(source) as file:
        rate = file.samplerate
        file.seek(min(round(offset * rate), file.frames))
        frames = -1 if duration is None else round(duration * rate)
        samples = file.read(frames, dtype="float32", always_2d=True)
    _check_length(source, len(samples) / rate, offset, duration)
    return resample(_mono(source, samples), rate)


def audio_blocks(
    source: str | Path | bytes, offset: float, duration: float
) -> Iterator[np.ndarray]:
    """What `load_audio` returns, in blocks of about a minute, for files of hours.

    Raises:
        AudioError: as `load_audio` does, where the fault is met.
    """
    import soxr

    with _open_audio(source) as file:
        rate, got, wanted = file.samplerate, 0, round(duration * file.samplerate)
        file.seek(min(round(offset * rate), file.frames))
        stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1) if rate != SAMPLE_RATE else None
        while got < wanted:
            size = min(wanted - got, int(BLOCK_SECONDS * rate))
            samples = _mono(source, file.read(size, dtype="float32", always_2d=True))
            if len(samples) == 0:
                break
            got += len(samples)
            yield samples if stream is None else stream.resample_chunk(samples)
    _check_length(source, got / rate, offset, duration)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def _open_audio(source: str | Path | bytes):
    """An open `SoundFile`; what libsndfile and the system complain about becomes an AudioError."""
    import soundfile  # here, so that --help and config errors stay fast

    if not isinstance(source, bytes) and not Path(source).is_file():
        raise AudioError("missing_file", _name(source))
    try:
        handle = io.BytesIO(source) if isinstance(source, bytes) else source
        with soundfile.SoundFile(handle) as file:
            yield file
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError("unreadable", f"{_name(source)}: {error}") from error


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


def audio_info(path: str | Path) -> tuple[float, int]:
    """(duration in seconds, sample rate in Hz) from the header alone.

    Raises:
        AudioError: `missing_file`, `unreadable` or `empty`.
    """
    import soundfile

    if not Path(path).is_file():
        raise AudioError("missing_file", str(path))
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError("unreadable", f"{path}: {error}") from error
    if info.frames == 0:
        raise AudioError("empty", f"{path}: zero-length audio")
    return info.frames / info.samplerate, info.samplerate
