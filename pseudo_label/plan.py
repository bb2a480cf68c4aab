"""What will be labelled: windows in shards, the same for every rank, run and resumption."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distill.data.audio import WINDOW_SECONDS, AudioError
from distill.data.files import hash_of, read_json, write_json
from distill.data.unreadable import Unreadable
from distill.data.windows import Recording, Window, is_long
from distill.whisper.corpus import (
    is_recording,
    load_clips,
    split_clips,
    training_windows,
    whole_recordings,
)
from distill.whisper.recipe import PseudoLabelConfig, WhisperRecipe, teacher_task


@dataclass
class LabelPlan:
    """Shards of windows.

    Attributes:
        shards: shard `i` becomes `part-0000i.jsonl`; windows of like length share a shard.
        recordings: clips longer than a window that became windows of their own.
        notes: clips dropped or split before labelling, by reason.
        unheard: why there is nothing of some long clips, by their ids.
    """

    shards: list[list[Window]]
    recordings: list[Recording]
    notes: Counter
    unheard: dict[str, AudioError]
    num_clips: int

    @property
    def num_windows(self) -> int:
        return sum(map(count_windows, self.shards))

    @property
    def seconds(self) -> float:
        return sum(window.duration for shard in self.shards for window in shard)


def make_plan(recipe: WhisperRecipe, rank: int = 0, world: int = 1) -> LabelPlan:
    """Pack the training clips; reads manifests, and the audio of clips over 30 s only.

    Raises:
        UnreadableError: such audio cannot be opened now, so nobody knows what its windows are.
    """
    config = recipe.pseudo_label
    rows, drops = load_clips(recipe.data.train)
    folder = Path(recipe.labels_dir)
    clips, recordings, unheard = split_clips(rows, config, folder, rank, world)
    _check_all_heard(unheard, len(rows), recipe.data.max_unreadable)
    windows = training_windows(clips, recordings, config, recipe.seed)
    if config.long_audio == "sequential":
        windows += whole_recordings([row for row in rows if is_long(row)])
    # Rows of a batch end together when they are equally long; the longest come first so that the
    # estimate of the time left errs on the safe side. Ties by id keep the order fixed.
    windows.sort(key=lambda window: (-window.duration, window.id))
    shards = _shards(windows, config.shard_size)
    notes = Counter(error.reason for error in unheard.values())
    notes["split_long"] = sum(is_long(row, config.window_seconds) for row in rows) - len(unheard)
    return LabelPlan(shards, recordings, drops + +notes, unheard, len(rows))


def _check_all_heard(unheard: dict[str, AudioError], total: int, max_share: float) -> None:
    faults = Unreadable(total, max_share, "finding speech")
    for clip, error in unheard.items():
        if error.is_transient:
            faults.add(clip, error)
    faults.check()
    faults.finish("data.train")


def count_windows(windows: Sequence[Window]) -> int:
    """A recording that will be cut while it is labelled counts for the least it can become."""
    return sum(math.ceil(window.duration / WINDOW_SECONDS) if is_recording(window) else 1
               for window in windows)


def _shards(windows: Sequence[Window], size: int) -> list[list[Window]]:
    """In order, up to `size` windows in each, or one recording."""
    shards: list[list[Window]] = []
    room = 0
    for window in windows:
        count = count_windows([window])
        if count > room:
            shards.append([])
            room = max(size, count)
        shards[-1].append(window)
        room -= count
    return shards


def label_settings(recipe: WhisperRecipe, revision: str, plan: LabelPlan) -> dict:
    """Everything that decides what the label files hold; its hash stands in every row."""
    windows = [
        [w.id, [[p.id, p.offset, p.duration, p.text] for p in w.pieces]]
        for shard in plan.shards
        for w in shard
    ]
    return {
        "teacher": recipe.teacher.model,
        "revision": revision,
        "language": recipe.language,
        "task": teacher_task(recipe),
        "normalizer": recipe.evaluation.normalizer,
        "pseudo_label": _settings_of(recipe.pseudo_label),
        "windows": hash_of(windows),
        "num_shards": len(plan.shards),
    }


def _settings_of(config: PseudoLabelConfig) -> dict:
    """All but `long_audio`: `windows` says what has come of it."""
    return {key: value for key, value in asdict(config).items() if key != "long_audio"}


def check_settings(folder: Path, settings: dict) -> None:
    """Write the settings into a new label folder, or compare them with those of an old one.

    Raises:
        ValueError: the folder holds labels of other settings; the differing keys are named.
    """
    path = folder / "settings.json"
    if not path.is_file():
        write_json(path, settings)
        return
    before = read_json(path)
    # keys that came with later versions were at what is their default now
    before["pseudo_label"] = _settings_of(PseudoLabelConfig()) | before["pseudo_label"]
    if before != settings:
        keys = sorted(k for k in settings.keys() | before.keys()
                      if settings.get(k) != before.get(k))
        changes = ", ".join(f"{k}: {before.get(k)!r} -> {settings.get(k)!r}" for k in keys)
        raise ValueError(
            f"{folder} holds labels made with other settings ({changes}); "
            "remove it (make NAME.clean) or choose another output_dir"
        )
