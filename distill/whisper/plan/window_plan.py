"""The windows that clips will make, without listening to any audio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.data.audio import WINDOW_SECONDS, AudioError
from distill.data.manifest import Row
from distill.data.speech.windows import Recording, Window, is_long, pack
from distill.whisper.data.corpus import training_windows
from distill.whisper.data.recordings import known_speech
from distill.whisper.recipe import WhisperRecipe


def plan_training_windows(recipe: WhisperRecipe, rows: Sequence[Row]) -> tuple[list[Window], int]:
    """Windows of all packings, and the clips longer than a window among `rows` that are cut evenly
    here, since nobody has listened to them yet. Without such clips they are those of labelling."""
    config = recipe.pseudo_label
    limit = config.window_seconds
    if config.long_audio == "quiet":
        windows = training_windows(cut_long(rows, limit), [], config, recipe.seed)
        return windows, sum(is_long(row, limit) for row in rows)
    recordings, num_without_speech = [], 0
    for row in (row for row in rows if is_long(row, limit)):
        try:
            recording = None
            if config.long_audio == "speech":
                recording = known_speech(row, Path(recipe.labels_dir), limit)
        except AudioError:  # labelling will count it; a plan is made where audio is not
            recording = None
        num_without_speech += recording is None
        recordings.append(recording or _all_speech(row, limit))
    clips = [row for row in rows if not is_long(row, limit)]
    return training_windows(clips, recordings, config, recipe.seed), num_without_speech


def _all_speech(row: Row, limit: float) -> Recording:
    cut = cut_long([row], limit)
    ends = [row.offset + (index + 1) * part.duration for index, part in enumerate(cut)]
    return Recording(row, tuple(zip([row.offset, *ends], ends, strict=False)))


def evaluation_window_seconds(recipe: WhisperRecipe, rows: Sequence[Row]) -> list[float]:
    """Of each window. Short clips share them if the recipe says so, long ones have theirs to
    themselves."""
    short = [row for row in rows if row.duration <= WINDOW_SECONDS]
    long = [row for row in rows if row.duration > WINDOW_SECONDS]
    packed = pack(short, "plan", "sequential" if recipe.evaluation.pack else "none")
    return [each.duration for each in (*packed, *cut_long(long, WINDOW_SECONDS))]


def cut_long(rows: Sequence[Row], limit: float) -> list[Row]:
    """Clips longer than a window in equal parts. Labelling cuts them at quiet places in the last
    10 s before the limit, which needs the audio; so a part has 25 s of 30 on average."""
    mean = limit - min(10.0, limit / 2) / 2
    result = []
    for row in rows:
        parts = 1 if row.duration <= limit else max(2, math.ceil(row.duration / mean))
        result += [replace(row, duration=row.duration / parts)] * parts
    return result
