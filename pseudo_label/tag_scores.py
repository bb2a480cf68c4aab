"""Write down what the teachers think of every view of a tagger's run, once (teacher.mode: store).

    python -m pseudo_label.tag_scores RECIPE [key=value ...]
    accelerate launch -m pseudo_label.tag_scores RECIPE [key=value ...]      one process per GPU

Scores the views that are not in `scores.dir` yet: a run that was stopped, or got more steps, pays
for what is new. `python -m pseudo_label` and `python -m pseudo_label.scores` are the same for a
tagger.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np

from distill.ced.recipe import CedRecipe, load_recipe, uses_store
from distill.config import ConfigError, to_yaml
from distill.data.files import write_json, write_text
from distill.data.teacher_store import Record, TeacherStore
from distill.progress import progress, quiet_libraries
from pseudo_label.leases import Leases

SHARD_MEGABYTES = 256.0  # smaller ones are merged in the end
NUM_GROUPS, MAX_BLOCKS = 256, 64  # blocks go to disk in about so many groups, of at most so many:
# what a killed run loses at most is one of them


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    if not uses_store(recipe):
        why = "no teacher.members" if not recipe.teacher.members else "teacher.mode is live"
        print(f"Nothing to score: {why}.")
        return
    score(recipe, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def score(recipe: CedRecipe, rank: int = 0, world: int = 1) -> None:
    """Fill the store of a recipe.

    Ranks never wait for each other: each begins with its own share of the blocks, then takes what
    nobody is at.

    Raises:
        StoreError: the store is of other teachers, classes or settings.
    """
    from distill.ced.scoring import Blocks, resolve_classes, store_settings
    from distill.ced.view_source import ViewSource

    quiet_libraries()
    source, classes = ViewSource(recipe), resolve_classes(recipe)
    store = TeacherStore(Path(recipe.scores.dir), store_settings(recipe, source, classes),
                         create=True)
    blocks = Blocks(source)
    by_text = {blocks.text(block): block for block in blocks}
    missing = store.missing(list(by_text))
    num_views = blocks.num_epochs * blocks.num_clips
    if missing:
        describe(recipe, source, blocks, classes, len(missing), len(by_text))
        groups = groups_of(list(by_text), set(missing))
        mine = dict(sorted(groups.items(), key=lambda group: group[0] % world != rank))
        _fill(recipe, source, classes, store, by_text, mine)
        store.refresh()
    if left := store.missing(list(by_text)):
        print(f"Rank {rank} is done; other ranks are at the {len(left)} blocks that are left.")
        return
    write_text(store.folder / "classes.txt", "\n".join(classes) + "\n")
    write_text(store.folder / "recipe.yaml", to_yaml(with_absolute_paths(recipe)))
    for path in store.folder.glob("*.lease*"):  # of ranks that were killed at the last moment
        path.unlink(missing_ok=True)
    if world == 1 and len(store.shards) > 1 and not store.is_sealed():  # also if killed just here
        from distill.data.teacher_store.repack import repack

        store = repack(store.folder, SHARD_MEGABYTES)
    store.seal()
    _tell_unreadable(store, source, blocks)
    print(f"{store.folder}: {num_views:,} views, {store.num_bytes / 1e6:,.1f} MB, "
          f"{store.num_bytes / store.num_rows:.1f} bytes a view"
          + ("" if missing else "; all were there already"), flush=True)


def describe(recipe: CedRecipe, source, blocks, classes, num_missing: int, num_blocks: int) -> None:
    hours = sum(clip.num_samples for clip in source.clips) / 16_000 / 3600
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(source.drops.items()))
    print(f"Scoring {blocks.num_epochs} views of {blocks.num_clips:,} clips ({hours:.2f} h) for "
          f"{len(classes)} classes by {len(recipe.teacher.members)} teacher(s); dropped: "
          f"{dropped or 'nothing'}", flush=True)
    if num_missing < num_blocks:
        print(f"{num_blocks - num_missing} of {num_blocks} blocks are there already", flush=True)


def groups_of(texts: list[str], missing: set[str]) -> dict[int, list[str]]:
    """The missing blocks in groups, which are numbered by their place among all blocks: ranks that
    start at different times agree about them."""
    size = min(MAX_BLOCKS, -(-len(texts) // NUM_GROUPS))
    cut = {at // size: [text for text in texts[at : at + size] if text in missing]
           for at in range(0, len(texts), size)}
    return {number: group for number, group in cut.items() if group}


def _fill(
    recipe: CedRecipe, source, classes, store: TeacherStore, blocks: dict, groups: dict
) -> None:
    """Score groups of blocks, one sealed shard each."""
    import torch

    from distill.ced.scoring import Scorer
    from distill.ced.teachers import Ensemble

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    scorer = Scorer(recipe, source, Ensemble(recipe.teacher, classes, device))
    total = sum(len(scorer.blocks.clips(blocks[text])) for each in groups.values() for text in each)
    with Leases(store.folder) as leases:
        steps = _scored(scorer, store, leases, blocks, groups)
        for _ in progress(steps, total, "scoring", "views"):
            pass


def _tell_unreadable(store: TeacherStore, source, blocks) -> None:
    """Write down which clips nobody learns from, as the finished store has them: whichever rank
    met them, and however often it was stopped."""
    from distill.ced.scores import UNHEARD
    from distill.data.audio import AudioError

    views = []
    each_block = list(blocks)
    rows = store.rows([blocks.text(block) for block in each_block])
    for block, row in zip(each_block, rows.tolist(), strict=True):
        unheard = np.flatnonzero(store.read(row)["disagreement"] == UNHEARD)
        views += [(block.first + int(number), block.epoch) for number in unheard]
    found: dict[str, str] = {}
    for index, epoch in progress(views, len(views), "unreadable", "views") if views else ():
        error = source.try_wave(index, source.scored_view(index, epoch))
        if isinstance(error, AudioError):
            found[error.detail] = error.reason
        else:
            found[f"clip {source.clips[index].key}"] = "readable_by_now"
    path = store.folder / "unreadable.json"
    if not found:
        path.unlink(missing_ok=True)
        return
    write_json(path, dict(sorted(found.items())))
    reasons = ", ".join(f"{n} {why}" for why, n in sorted(Counter(found.values()).items()))
    print(f"Clips that nobody learns from, see {path}: {reasons}", flush=True)


def _scored(
    scorer, store: TeacherStore, leases: Leases, blocks: dict, groups: dict
) -> Iterator[None]:
    """Yields once for each view that is scored; a group is sealed with its last batch."""
    from torch.utils.data import DataLoader

    taken: list[tuple[str, list[str]]] = []  # lease and blocks of ours, the group at hand first

    def places() -> Iterator[list[tuple[int, int]]]:
        for number, texts in groups.items():
            if not leases.take(name := f"group-{number:05d}"):
                continue
            store.refresh()
            if left := store.missing(texts):  # else another rank has been faster
                taken.append((name, left))
                for text in left:
                    yield from scorer.batches(blocks[text])
            else:
                leases.release(name)

    loader = DataLoader(
        _Identity(), batch_sampler=places(), collate_fn=scorer.prepare,
        num_workers=scorer.recipe.scores.num_workers,
    )
    parts: list[dict] = []
    records: list[Record] = []
    for prepared in loader:
        parts.append(scorer.score(prepared))
        name, texts = taken[0]
        block = blocks[texts[len(records)]]
        if len(parts) == len(scorer.batches(block)):
            records.append(scorer.record(block, parts))
            parts = []
        if len(records) == len(texts):
            store.add(records)
            leases.release(name)
            taken.pop(0)
            records = []
        yield from [None] * len(prepared.views)


class _Identity:
    """The "dataset": what a place becomes is decided in `Scorer.prepare` alone."""

    def __getitem__(self, place: tuple[int, int]) -> tuple[int, int]:
        return place


def with_absolute_paths(recipe: CedRecipe) -> CedRecipe:
    """So that `verify` finds everything from the copy of the recipe beside the scores."""
    copy = deepcopy(recipe)
    for split in ("train", "validation", "test"):
        paths = [str(Path(path).resolve()) for path in getattr(copy.data, split)]
        setattr(copy.data, split, paths)
    if copy.data.classes:
        copy.data.classes = str(Path(copy.data.classes).resolve())
    for member in copy.teacher.members:
        if Path(member.model).exists():
            member.model = str(Path(member.model).resolve())
        if member.classes:
            member.classes = str(Path(member.classes).resolve())
    copy.output_dir = str(Path(copy.output_dir).resolve())
    copy.scores.dir = str(Path(copy.scores.dir).resolve())
    return copy


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, ValueError) as error:
        sys.exit(f"error: {error}")
