"""What is computed of clips once and kept on disk: a file for clips that come together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from distill.data.audio import load_audio
from distill.data.files import hash_of, write_atomic
from distill.data.formats.errors import TRANSIENT, AudioError
from distill.data.manifest import Row
from distill.data.unreadable import UnreadableError, read_patiently

Encode = Callable[[list[np.ndarray]], Sequence[np.ndarray]]


def kept_arrays(
    folder: Path, identity: list, rows: Sequence[Row], encode: Encode,
    check: Callable[[np.ndarray], np.ndarray] = lambda wave: wave,
) -> list[np.ndarray]:
    """The array of each row, from `folder` where it is there; else `encode` makes all of them.

    Args:
        identity: all that the arrays depend on; names their file.
        encode: gives an array of each wave, float32 at 16 kHz.
        check: gives a wave back, or raises an AudioError.

    Returns:
        in place of the array of a clip that cannot be read, the reason as one of no dimensions.

    Raises:
        UnreadableError: a file cannot be opened now.
    """
    path = folder / f"{hash_of(identity)}.npz"
    if path.is_file():
        found = load_arrays(path)
        if not any(each.ndim == 0 and str(each).partition(":")[0] in TRANSIENT
                   for each in found):  # as versions before this one wrote them down
            return found
    found = _encode(rows, encode, check)
    save_arrays(path, found)
    return found


def _encode(
    rows: Sequence[Row], encode: Encode, check: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    waves = {}
    for number, row in enumerate(rows):
        try:
            waves[number] = check(read_patiently(partial(
                load_audio, row.audio_filepath, row.offset, row.duration)))
        except AudioError as error:
            if error.is_transient:
                raise UnreadableError(
                    f"row {row.id}: {error}; what the encoder has heard is kept, and with this "
                    "file back (is a disk not mounted?) the same command goes on") from None
            found[number] = np.array(str(error))
    if waves:
        for number, each in zip(waves, encode(list(waves.values())), strict=True):
            found[number] = each
    return found


def load_arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[str(number)] for number in range(len(file.files))]


def save_arrays(path: Path, arrays: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: _save(temporary, arrays))


def _save(path: Path, arrays: Sequence[np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **{str(number): each for number, each in enumerate(arrays)})
