"""Audio in: any file libsndfile reads becomes float32 mono at 16 kHz.

    samples = load_audio("clip.ogg", offset=1.5, duration=10.0)

Whatever cannot be used raises `AudioError` with a short `reason`, so that callers can count what
they drop instead of stopping (or, worse, training on silence).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000  # Hz, the only rate Whisper and our taggers know
WINDOW_SECONDS = 30.0  # Whisper's receptive field: longer input is cut without a word by the model
WINDOW_SAMPLES = int(WINDOW_SECONDS * SAMPLE_RATE)


class AudioError(ValueError):
    """Audio that cannot be used. `reason` is one of a few fixed words, for counting."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

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
    import soundfile  # here, so that --help and config errors stay fast

    name = "<bytes>" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise AudioError("missing_file", name)
    try:
        handle = io.BytesIO(source) if isinstance(source, bytes) else source
        with soundfile.SoundFile(handle) as file:
            rate = file.samplerate
            file.seek(min(round(offset * rate), file.frames))
            frames = -1 if duration is None else round(duration * rate)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError("unreadable", f"{name}: {error}") from error
    if len(samples) == 0:
        raise AudioError("empty", f"{name}: no samples at {offset:.2f} s")
    if duration is not None and len(samples) < (duration - 0.05) * rate:
        got = len(samples) / rate
        raise AudioError("truncated", f"{name}: {got:.2f} s of the {duration:.2f} s expected")
    samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise AudioError("not_finite", f"{name}: NaN or infinite samples")
    return resample(samples, rate)


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
