"""Audio files that a user names: files and folders, and where what is said of each is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from distill.data.find_files import find_audio


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
    by_place: dict[str, Path] = {}  # by its real folder: a link to a file is a file of its own
    for file, place in places.items():
        other = by_place.setdefault(_real(place), file)
        if _real(other) != _real(file):
            raise ValueError(f"{other} and {file} would both be written to {place}: "
                             "run the command once for each, with another --output-dir")
    return {file: places[file] for file in by_place.values()}


def _real(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)


def printable(path: Path) -> str:
    """A file's name for a text or the screen: on a disk it need not be UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()
