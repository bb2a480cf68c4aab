"""How long the systems of a family take for a clip.

One clip at a time, all systems in turn on the same clips, so that a busy machine slows all of them.
What is measured is kept, clip by clip.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from distill.data.files import hash_of
from distill.data.model_files import model_stamp
from distill.data.speech.windows import load_patiently
from distill.kept_lines import append, begin
from distill.progress import progress
from distill.whisper.recipe import WhisperRecipe, silence_setting
from eval.family.errors import Split
from eval.family.models import Models, System, cut
from eval.machine import this_machine

NUM_CLIPS = 12
ROUNDS = 2  # each clip is timed so often, and the faster time counts
_VERSION = 1


def time_all(recipe: WhisperRecipe, systems: Sequence[System], split: Split, path: Path,
             models: Callable[[], Models]) -> dict[str, list[float]]:
    """Seconds of each clip, by the systems' names.

    Args:
        split: the clips are cut from its speech, one after the other.
        path: where they are kept.
    """
    lines = begin(path, key_of(recipe, systems))
    if len(lines) < NUM_CLIPS:
        audios = clips_of(recipe, split)
        ways = {system.name: models().way(system) for system in systems}
        for way in ways.values():
            way(audios[0])  # untimed: the first pays for threads, kernels and caches
        for number in progress(range(len(lines), NUM_CLIPS), NUM_CLIPS,
                               "timing, one clip at a time", "clips", initial=len(lines)):
            # forwards and backwards: nobody always comes after the slowest
            names = list(ways) if number % 2 else list(ways)[::-1]
            line = {name: min(models().seconds(ways[name], audios[number]) for _ in range(ROUNDS))
                    for name in names}
            append(path, line)
            lines.append(line)
    return {system.name: [line[system.name] for line in lines] for system in systems}


def key_of(recipe: WhisperRecipe, systems: Sequence[System]) -> str:
    """Of everything that times depend on."""
    return hash_of([_VERSION, NUM_CLIPS, ROUNDS, recipe.family.budget.clip_seconds,
                    recipe.data.validation, silence_setting(recipe),
                    recipe.evaluation.on_loop, recipe.language, recipe.task, this_machine(),
                    [[system.name, model_stamp(system.folder)] for system in systems]])


def clips_of(recipe: WhisperRecipe, split: Split) -> list:
    """NUM_CLIPS clips of `family.budget.clip_seconds`, float32 at 16 kHz."""
    seconds, audios, found = recipe.family.budget.clip_seconds, [], 0.0
    for window in split.windows:
        if found >= NUM_CLIPS * seconds:
            break
        audios.append(load_patiently(window))
        found += window.duration
    return cut(audios, seconds, NUM_CLIPS)


def time_alone(recipe: WhisperRecipe, system: System, split: Split,
               models: Callable[[], Models]) -> float:
    """Median milliseconds of a clip, of one system by itself on the same clips."""
    way, audios = models().way(system), clips_of(recipe, split)
    way(audios[0])
    return milliseconds([min(models().seconds(way, audio) for _ in range(ROUNDS))
                         for audio in progress(audios, len(audios), "timing, by itself", "clips")])


def milliseconds(seconds: Sequence[float]) -> float:
    """The median."""
    return 1000 * statistics.median(seconds)
