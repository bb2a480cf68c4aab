"""Noises that students hear while they learn: Gaussian ones, other voices, recordings.

    noises = TrainingNoises(["pink", "babble", "recordings"], ["noise/train.jsonl"], clips)
    sound = noises.make("babble", key=augmentation.noise_key, size=48_000)

A sound is a function of its kind, key and size, and of the recordings: `recordings(kind)` is their
hash, which is written down beside the key. What the robustness test mixes is no training noise
(`check_recordings`), or it would say nothing about noise that nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from distill.data.files import hash_of
from distill.data.formats.places import fingerprints
from distill.data.leaks import KEY, LeakError, find_leaks, same_files
from distill.data.manifest import Row, read_manifest
from distill.data.noise.kinds import Noises, rows_of
from distill.data.views.augment import NOISES, make_noise

_RECIPE_KEY = "views.augment.recordings"
_MOST_VOICES = 1000  # clips that babble is made of: more voices are no other noise


class TrainingNoises:
    """
    Args:
        kinds: keys of NOISES, or RECORDED (`distill.data.views.augment`).
        recordings: manifests or folders.
        clips: of the training split.

    Raises:
        ValueError: there is no audio where recordings should be.
        AudioError: a file of a folder cannot be read.
    """

    def __init__(self, kinds: Sequence[str], recordings: Sequence[str], clips: Sequence[Row]):
        every = math.ceil(len(clips) / _MOST_VOICES)
        self._noises = Noises(
            voices=clips[::every] if "babble" in kinds else (),
            folder=read_recordings(recordings) if "recordings" in kinds else ())
        self.recordings = cache(self._recordings)

    def _recordings(self, kind: str | None) -> str:
        """Hash of what a noise is made of; "" of those that are made of numbers."""
        rows = {"babble": self._noises.voices, "recordings": self._noises.folder}.get(kind or "")
        if rows is None:
            return ""
        files = fingerprints(row.audio_filepath for row in rows)
        return hash_of([[row.id, row.offset, row.duration, files[row.audio_filepath]]
                        for row in rows])[:16]

    def make(self, kind: str, key: int, size: int) -> np.ndarray:
        """float (size,) at 16 kHz, as `distill.data.views.augment.make_noise`.

        Raises:
            AudioError: a recording cannot be read.
        """
        if kind in NOISES:
            return make_noise(kind, key, size)
        kind = "folder" if kind == "recordings" else kind
        return self._noises.draw(kind, np.random.Philox(key=key), size)


def read_recordings(places: Sequence[str]) -> list[Row]:
    """Rows of manifests, and of the audio of folders.

    Raises:
        ValueError: a place is neither, or has no audio.
        AudioError: a file of a folder cannot be read.
    """
    found: list[Row] = []
    for place in places:
        rows = rows_of(place, _RECIPE_KEY) if Path(place).is_dir() else read_manifest(place)[0]
        if not rows:
            raise ValueError(f"{_RECIPE_KEY}: no clip in {place}")
        found += rows
    return found


def check_recordings(
    learned: Sequence[Row], measured: Sequence[Row], allow_overlap: bool,
    tell: Callable[[str], None] = print,
) -> None:
    """Compare what training mixes with what the robustness test mixes.

    Args:
        allow_overlap: what is in both is printed, not refused.

    Raises:
        LeakError: a recording, or a part of one, is in both.
    """
    leaks = find_leaks(learned, measured, same_files([learned, measured]))
    if not leaks:
        return
    named = ", ".join(row.id for row, _ in leaks[:3]) + ", ..." * (len(leaks) > 3)
    what = (f"views.augment: {len(leaks):,} of {len(measured):,} recordings of the robustness test "
            f"are also noise of the training: {named}")
    if not allow_overlap:
        raise LeakError(f"{what}; what is measured with them says nothing about other noise. Take "
                        f"them out, or allow it with {KEY}=true")
    tell(f"{what} ({KEY} is true)")
