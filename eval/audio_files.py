"""Audio files that a user names: files and folders, and where what is said of each is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from distill.data.audio import AudioError, audio_info
from distill.data.find_files import find_audio
from distill.data.media import can_convert, media_seconds, to_flac

T = TypeVar("T")


def output_places(inputs: Sequence[Path], folder: Path | None) -> dict[Path, Path]:
    """{audio file: its output, to which the format's suffix is added}.

    Files of a folder keep their place below it.

    Raises:
        ValueError: something is not there, there is no audio in a folder, or two files would be
            written to one.
    """
    places: dict[Path, Path] = {}
    for path in inputs:
        if not path.exists():
            raise ValueError(f"no such file or folder: {path}")
        inside = find_audio(path) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"no audio in {path}: no name ends with .wav, .flac, .mp3, .m4a or "
                             "the like")
        for file in inside:
            below = file.relative_to(path if path.is_dir() else path.parent)
            places.setdefault(file, file if folder is None else folder / below)
    by_place: dict[Path, Path] = {}
    for file, place in places.items():
        other = by_place.setdefault(place.resolve(), file)
        if other.resolve() != file.resolve():
            raise ValueError(f"{other} and {file} would both be written to {place}: "
                             "take them one after the other, with another --output-dir")
    return {by_place[place.resolve()]: place for place in places.values()}


def readable(path: Path, scratch: Path) -> Path:
    """The file, or, if libsndfile cannot read it, a copy in `scratch` that it can.

    Raises:
        AudioError: it is no audio, or nothing is in it.
    """
    return _by_either(path, lambda: audio_info(path) and path, lambda: to_flac(path, scratch))


def seconds_of(path: Path) -> tuple[float | None, bool]:
    """Length of a file by its header, None where that does not say, and whether it has to be
    converted (`readable`).

    Raises:
        AudioError: it is no audio, or nothing is in it.
    """
    return _by_either(path, lambda: (audio_info(path)[0], False),
                      lambda: (media_seconds(path), True))


def _by_either(path: Path, libsndfile: Callable[[], T], ffmpeg: Callable[[], T]) -> T:
    try:
        return libsndfile()
    except AudioError as error:
        if error.reason != "unreadable":
            raise
        if not can_convert():
            hint = "; other formats need `pip install 'audio-distill[media]'`"
            raise AudioError(error.reason, error.detail + hint) from None
        try:
            return ffmpeg()
        except AudioError:  # libsndfile's word on it is the plainer one
            raise error from None
