"""Sound of files that libsndfile cannot read (m4a, mp4, webm, wma, ...), by PyAV where it is there.

    path = to_flac("talk.m4a", folder)      # mono, 16 kHz, 16 bit

PyAV is FFmpeg in a wheel: `pip install 'audio-distill[media]'`.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from distill.data.audio import SAMPLE_RATE, AudioError

MEDIA_SUFFIXES = {".m4a", ".mp4", ".webm", ".mkv", ".mka", ".mov", ".aac", ".wma", ".amr", ".3gp"}


def can_convert() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def media_seconds(path: str | Path) -> float | None:
    """Length of a file by its header; None where that does not say.

    Raises:
        AudioError: `unreadable`.
    """
    import av

    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError("unreadable", f"{path}: there is no sound in it")
            return container.duration / av.time_base if container.duration else None
    except av.FFmpegError as error:
        raise AudioError("unreadable", f"{path}: {error}") from error


def to_flac(path: str | Path, folder: Path) -> Path:
    """Decode the first sound of a file into a new FLAC file, in blocks.

    Raises:
        AudioError: `unreadable` or `empty`; nothing is left behind.
    """
    path = Path(path)
    name = hashlib.blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    target = folder / f"{name}.flac"
    try:
        if _decode(path, target) == 0:
            raise AudioError("empty", f"{path}: zero-length audio")
    except AudioError:
        target.unlink(missing_ok=True)
        raise
    return target


def _decode(path: Path, target: Path) -> int:
    """Samples written."""
    import av
    import soundfile

    frames = 0
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    try:
        with (av.open(str(path), metadata_errors="ignore") as container,
              soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16") as file):
            if not container.streams.audio:
                raise AudioError("unreadable", f"{path}: there is no sound in it")
            for frame in chain(container.decode(audio=0), [None]):  # None: what is left inside
                for block in resampler.resample(frame):
                    file.write(block.to_ndarray()[0])
                    frames += block.samples
    except (av.FFmpegError, soundfile.LibsndfileError) as error:
        raise AudioError("unreadable", f"{path}: {error}") from error
    return frames
