"""What will be labelled: windows in shards, the same for every rank, run and resumption."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.data.audio import WINDOW_SECONDS, AudioError
from distill.data.files import hash_of, read_json, write_json
from distill.data.manifest import Row, counts_text
from distill.data.speech.windows import Window
from distill.data.unreadable import Unreadable
from distill.whisper.data.corpus import (
    is_recording,
    load_clips,
    packing_windows,
    packings_of,
    split_clips,
    whole_recordings,
)
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.outside import label_keys
from distill.whisper.recipe import (
    PseudoLabelConfig,
    WhisperRecipe,
    margin_setting,
    teacher_task,
)
from pseudo_label.labelling.history import (
    Clips,
    History,
    adopt,
    known_of,
    read_history,
    unusable_rows,
)
from pseudo_label.labelling.shards import part_path
from pseudo_label.outside.table import texts_of


@dataclass
class LabelPlan:
    """Shards of windows.

    Attributes:
        shards: shard `i` becomes `part-0000i.jsonl`; windows of like length share a shard. Empty
            where none of its windows is planned any more.
        notes: clips dropped or split before labelling, by reason.
        unusable: why some long clips are in no window (no speech, unreadable), by their ids.
        long_seconds: of clips longer than a window that became windows of their own, and of the
            speech in them.
    """

    shards: list[list[Window]]
    notes: Counter
    unusable: dict[str, AudioError]
    long_seconds: list[tuple[float, float]]
    num_clips: int
    history: History
    clips: Clips

    @property
    def num_windows(self) -> int:
        return sum(map(count_windows, self.shards))

    @property
    def seconds(self) -> float:
        return sum(window.duration for shard in self.shards for window in shard)

    def missing(self, folder: Path) -> list[int]:
        """Shards that are not labelled yet."""
        return [index for index, shard in enumerate(self.shards)
                if shard and not part_path(folder, index).is_file()]

    def changes(self, folder: Path) -> str:
        """What another list of clips than the one before means; empty if it is the same."""
        changes = self.history.changes(self.clips)
        new = sum(count_windows(self.shards[index]) for index in self.missing(folder))
        return changes and (f"{changes}; {self.num_windows - new:,} windows are labelled already, "
                            f"{new:,} are new")

    def save(self, folder: Path) -> None:
        """Remember what is planned."""
        self.history.save(folder, self.clips)


def make_plan(recipe: WhisperRecipe, rank: int = 0, world: int = 1) -> LabelPlan:
    """Pack the training clips that are not in a window yet; reads manifests, and the audio of
    clips over 30 s only.

    Raises:
        UnreadableError: such audio cannot be opened now, so nobody knows what its windows are.
    """
    config, folder = recipe.pseudo_label, Path(recipe.labels_dir)
    rows, drops = load_clips(recipe.data.train)
    said = None
    if config.backend == "table":  # clips without a text are in no window
        texts = texts_of(config, rows)
        said, drops = texts.said, drops + texts.drops
        rows = [row for row in rows if row.id in said]
        for note in texts.notes if rank == 0 else ():
            print(f"{config.table.path}: {note}", flush=True)
        if not rows:
            raise ValueError(f"{config.table.path}: no clip can be labelled: {counts_text(drops)}")
    clips = Clips(rows, config, folder, said and {clip: each.hash for clip, each in said.items()})
    history = read_history(folder)
    plan = _plan(recipe, clips, history or History(), rank, world)
    settings = folder / "settings.json"
    if history is None and settings.is_file():  # of an older version
        before = read_json(settings)
        if before.get("windows") != _hash_of_windows(plan.shards):
            fresh = [window for shard in plan.shards for window in shard]
            history = adopt(folder, clips, fresh, before["num_shards"])
            plan = _plan(recipe, clips, history, rank, world)
    plan.notes += drops
    return plan


def _plan(
    recipe: WhisperRecipe, clips: Clips, history: History, rank: int, world: int
) -> LabelPlan:
    config, rows = recipe.pseudo_label, list(clips.rows.values())
    is_first = not history.windows
    history.rename(clips)
    windows = [clips.window(known) for known in history.choose(clips, Path(recipe.labels_dir))]
    new, unusable, speech = _new_windows(recipe, clips, history, rank, world)
    if not is_first:
        new = _unfollowed(new, clips)
    windows += new
    # Rows of a batch end together when they are equally long; the longest come first so that the
    # estimate of the time left errs on the safe side. Ties by id keep the order fixed.
    windows.sort(key=lambda window: (-window.duration, window.id))
    added = _shards(windows, config.shard_size)
    history.windows += [known_of(window, history.num_shards + index, clips)
                        for index, shard in enumerate(added) for window in shard]
    history.num_shards += len(added)
    unusable |= {clip: AudioError(known[2], f"{clips.rows[clip].audio_filepath}: as before")
                for clip, known in history.unusable.items() if clip not in unusable}
    history.unusable = unusable_rows(unusable, clips)
    long = [row for row in rows if clips.is_long(row) and row.id not in unusable]
    history.speech = {row.id: speech.get(row.id, history.speech.get(row.id, row.duration))
                      for row in long} if config.long_audio == "speech" else {}
    shards: list[list[Window]] = [[] for _ in range(history.num_shards)]
    for known in history.windows:
        if known.counts:
            shards[known.shard].append(clips.window(known))
    notes = Counter(error.reason for error in unusable.values())
    notes["split_long"] = len(long)
    seconds = [(clips.rows[clip].duration, speech) for clip, speech in history.speech.items()]
    return LabelPlan(shards, +notes, unusable, seconds, len(rows), history, clips)


def _new_windows(
    recipe: WhisperRecipe, clips: Clips, history: History, rank: int, world: int
) -> tuple[list[Window], dict[str, AudioError], dict[str, float]]:
    """Windows of what is in none yet; long clips of which there is nothing, and why; seconds of
    speech in the others that were looked at."""
    config, taken = recipe.pseudo_label, history.taken
    way, covered = config.long_audio, {part[:2] for part in history.taken}
    known_parts = history.known_parts(clips) if way == "quiet" else {}
    packings = packings_of(config)

    def is_open(row: Row) -> bool:
        if row.id in history.unusable:
            return False
        if way == "sequential":
            return (0, row.id) not in covered
        if way == "quiet":
            return row.id not in known_parts
        return any((index, row.id) not in covered for index in range(config.num_packings))

    long = [row for row in clips.rows.values() if clips.is_long(row) and is_open(row)]
    found, recordings, unusable = split_clips(long, config, Path(recipe.labels_dir), rank, world)
    _check_readable(unusable, len(clips.rows), recipe.data.max_unreadable)
    parts = {clip: [replace(clips.rows[clip], offset=offset, duration=duration, text=None)
                    for offset, duration in known] for clip, known in known_parts.items()}
    for part in found:
        parts.setdefault(part.id, []).append(part)
    short: list[Row] = []
    for row in clips.rows.values():
        short += parts.get(row.id, []) if clips.is_long(row) else [row]
    windows: list[Window] = []
    for index in packings:
        windows += packing_windows(
            [row for row in short
             if (index, row.id, round(row.offset, 6), round(row.duration, 6)) not in taken],
            [each for each in recordings if (index, each.row.id) not in covered],
            config, recipe.seed, index)
    if way == "sequential":
        windows += whole_recordings(long)
    speech = {each.row.id: each.speech_seconds for each in recordings}
    return _numbered(windows, history), unusable, speech


def _numbered(windows: Sequence[Window], history: History) -> list[Window]:
    """Numbers go on behind those of windows that were planned before."""
    first: dict[str, int] = {}

    def name(old: str | None) -> str | None:
        if old is None:
            return None
        prefix, number = old.rsplit("-", 1)
        if prefix not in first:
            first[prefix] = history.next_number(prefix)
        return f"{prefix}-{first[prefix] + int(number):06d}"

    return [replace(w, id=name(w.id), previous=name(w.previous)) for w in windows]


def _unfollowed(windows: Sequence[Window], clips: Clips) -> list[Window]:
    """Of clips between which others were left out, none follows the other."""
    by_id = {window.id: window for window in windows}

    def follows(window: Window) -> bool:
        before = by_id[window.previous].pieces[-1].id
        return clips.places[window.pieces[0].id] - clips.places[before] in (0, 1)

    return [window if window.previous is None or follows(window)
            else replace(window, previous=None) for window in windows]


def _check_readable(unusable: dict[str, AudioError], total: int, max_share: float) -> None:
    faults = Unreadable(total, max_share, "finding speech")
    for clip, error in unusable.items():
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
    return {
        "teacher": recipe.teacher.model,
        "revision": revision,
        "language": recipe.language,
        "task": teacher_task(recipe),
        "normalizer": recipe.evaluation.normalizer,
        "pseudo_label": _settings_of(recipe.pseudo_label),
        "windows": _hash_of_windows(plan.shards),
        "num_shards": len(plan.shards),
        **margin_setting(recipe),
        **_phrases_setting(recipe),
    }


def _phrases_setting(recipe: WhisperRecipe) -> dict:
    """Nothing without phrases, as before there were any."""
    d = recipe.decoding
    if d.phrases is None:
        return {}
    from distill.whisper.decoding.phrases.trie import RULE  # imports torch

    return {"phrases": hash_of(read_phrases(d.phrases)), "phrase_boost": d.phrase_boost,
            "phrase_rule": list(RULE)}


def _hash_of_windows(shards: Sequence[Sequence[Window]]) -> str:
    return hash_of([[w.id, [[p.id, p.offset, p.duration, p.text] for p in w.pieces]]
                    for shard in shards for w in shard])


def _settings_of(config: PseudoLabelConfig) -> dict:
    """All but `long_audio`: `windows` says what has come of it."""
    return {key: value for key, value in label_keys(config).items() if key != "long_audio"}


def check_settings(folder: Path, settings: dict) -> None:
    """Write the settings into a new label folder, or compare them with those of an old one. Its
    windows may be others by now: `LabelPlan.save`.

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
    keys = sorted(k for k in settings.keys() | before.keys() if settings.get(k) != before.get(k))
    others = [key for key in keys if key not in ("windows", "num_shards")]
    if others:
        changes = ", ".join(f"{k}: {before.get(k)!r} -> {settings.get(k)!r}" for k in others)
        raise ValueError(
            f"{folder} holds labels made with other settings ({changes}); "
            "remove it (make NAME.clean) or choose another output_dir"
        )
    if keys:
        write_json(path, settings)
