"""Write down what the teachers think of every view of a tagger's run, once (teacher.mode: store).

    python -m pseudo_label.tag_scores RECIPE [key=value ...]
    accelerate launch -m pseudo_label.tag_scores RECIPE [key=value ...]      one process per GPU

Scores the views that are not in `scores.dir` yet: a run that was stopped, or got more steps, pays
for what is new. `python -m pseudo_label` and `python -m pseudo_label.scores` are the same for a
tagger.

Clips that cannot be read are printed and counted, and nobody learns from them; with more of them
than `data.max_unreadable` it ends. What could not be opened (a disk that is not mounted) is left
out and asked again by the next run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from distill.ced.recipe import CedRecipe, load_recipe, uses_store
from distill.ced.teachers.scores import READABLE, UNREADABLE
from distill.config import to_yaml
from distill.data.files import write_json, write_text
from distill.data.manifest import counts_text
from distill.data.teacher_store import Record, StoreError, TeacherStore
from distill.data.unreadable import Unreadable, UnreadableError
from distill.endings import Stopped, run, writing_to
from distill.methods import check_data
from distill.progress import progress, quiet_libraries
from pseudo_label.labelling.leases import Leases

if TYPE_CHECKING:
    from distill.ced.data.clips import ClipError

Recipe = TypeVar("Recipe")
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
    check_data(recipe, "label")
    with writing_to(recipe.scores.dir):
        score(recipe, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def score(recipe: CedRecipe, rank: int = 0, world: int = 1) -> None:
    """Fill the store of a recipe.

    Ranks never wait for each other: each begins with its own share of the blocks, then takes what
    nobody is at.

    Raises:
        StoreError: the store is of other teachers, classes or settings.
    """
    from distill.ced.data.view_source import ViewSource
    from distill.ced.teachers.scoring import Blocks, resolve_classes, store_settings

    quiet_libraries()
    source = ViewSource(recipe)
    faults = source.faults("scoring")
    if source.scored.mixup_probability:  # any clip may be mixed into any view
        faults.begin("data.train")
    classes, blocks = resolve_classes(recipe), Blocks(source)
    store = _open(Path(recipe.scores.dir), store_settings(recipe, source, classes))
    by_text = {blocks.text(block): block for block in blocks}
    whole = [text for text, block in by_text.items() if blocks.is_whole(block)]
    store = _discard_transient_faults(store, source, by_text, whole)
    missing = store.missing(whole)
    if missing:
        describe(recipe, source, blocks, classes, len(missing), len(whole))
        groups = groups_of(list(by_text), set(missing), set(by_text) - set(whole))
        mine = dict(sorted(groups.items(), key=lambda group: group[0] % world != rank))
        try:
            _fill(recipe, source, classes, store, by_text, mine, faults)
        except KeyboardInterrupt:
            store.refresh()
            left = len(store.missing(whole))
            raise Stopped(f"Stopped; {len(whole) - left} of {len(by_text)} blocks of views are "
                          f"kept in {store.folder}, and the same command goes on.") from None
        store.refresh()
    faults.finish("data.train")
    if left := store.missing(list(by_text)):
        print(f"Rank {rank} is done; other ranks are still scoring {len(left)} blocks.")
        return
    _finish(recipe, store, source, by_text, classes, world, bool(missing))


def _open(folder: Path, settings: dict) -> TeacherStore:
    """The store, made where there is none.

    Raises:
        StoreError: it is of other settings; perhaps since clips could not be opened then.
    """
    from distill.ced.data.training_faults import settled

    try:
        return TeacherStore(folder, settings, create=True)
    except StoreError as error:
        try:
            settled(folder, ())
        except UnreadableError:
            raise StoreError(f"{error}. Some of its clips could not be opened when it was made, "
                             f"see {folder / 'unreadable.json'}") from None
        raise


def _finish(
    recipe: CedRecipe, store: TeacherStore, source, blocks: dict, classes, world: int, is_new: bool
) -> None:
    """Merge and seal a store that lacks nothing, and say what is in it."""
    write_text(store.folder / "classes.txt", "\n".join(classes) + "\n")
    write_text(store.folder / "recipe.yaml", to_yaml(with_absolute_paths(recipe)))
    for path in store.folder.glob("*.lease*"):  # of ranks that were killed at the last moment
        path.unlink(missing_ok=True)
    if world == 1 and len(store.shards) > 1 and not store.is_sealed():  # also if killed just here
        from distill.data.teacher_store.repack import repack

        store = repack(store.folder, SHARD_MEGABYTES)
    store.seal()
    _write_unreadable(store, source, blocks)
    num_views = sum(len(store.read(row)["disagreement"]) for row in store.rows(list(blocks)))
    print(f"{store.folder}: {num_views:,} views, {store.num_bytes / 1e6:,.1f} MB, "
          f"{store.num_bytes / store.num_rows:.1f} bytes a view"
          + ("" if is_new else "; all were there already"), flush=True)


def describe(recipe: CedRecipe, source, blocks, classes, num_missing: int, num_blocks: int) -> None:
    hours = sum(clip.num_samples for clip in source.clips) / 16_000 / 3600
    print(f"Scoring {blocks.num_epochs} views of {blocks.num_clips:,} clips ({hours:.2f} h) for "
          f"{len(classes)} classes by {len(recipe.teacher.members)} teacher(s); dropped: "
          f"{counts_text(source.drops)}", flush=True)
    if num_missing < num_blocks:
        print(f"{num_blocks - num_missing} of {num_blocks} blocks are there already", flush=True)


def groups_of(
    texts: list[str], missing: set[str], left_out: set[str] = frozenset()
) -> dict[int, list[str]]:
    """The missing blocks in groups, which are numbered by their place among all blocks: ranks that
    start at different times agree about them. A group with a block that is left out is left out:
    groups are whole, so that shards are the same whenever they are made."""
    size = min(MAX_BLOCKS, -(-len(texts) // NUM_GROUPS))
    cut = {at // size: texts[at : at + size] for at in range(0, len(texts), size)}
    cut = {number: [text for text in group if text in missing]
           for number, group in cut.items() if left_out.isdisjoint(group)}
    return {number: group for number, group in cut.items() if group}


def _fill(
    recipe: CedRecipe, source, classes, store: TeacherStore, blocks: dict, groups: dict,
    faults: Unreadable,
) -> None:
    """Score groups of blocks, one sealed shard each."""
    import torch

    from distill.ced.teachers.ensemble import Ensemble
    from distill.ced.teachers.scoring import Scorer

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    scorer = Scorer(recipe, source, Ensemble(recipe.teacher, classes, device))
    total = sum(len(scorer.blocks.clips(blocks[text])) for each in groups.values() for text in each)
    with Leases(store.folder) as leases:
        steps = _scored(scorer, store, leases, blocks, groups, faults)
        for _ in progress(steps, total, "scoring", "views"):
            pass


def _unreadable_views(store: TeacherStore, source, blocks: dict) -> Iterator[tuple[str, str, str]]:
    """(block, fault, reason) of views that were stored as UNREADABLE, with what is wrong now; the
    reason is READABLE where nothing is."""
    from distill.ced.data.clips import ClipError

    views = []
    for (text, block), row in zip(blocks.items(), store.rows(list(blocks)), strict=True):
        unreadable = np.flatnonzero(store.read(row)["disagreement"] == UNREADABLE)
        views += [(text, block.first + int(number), block.epoch) for number in unreadable]
    for text, index, epoch in progress(views, len(views), "unreadable", "views") if views else ():
        error = source.try_wave(index, source.scored_view(index, epoch))
        if isinstance(error, ClipError):
            yield text, error.detail, error.reason
        else:
            yield text, f"clip {source.clips[index].key}", READABLE


def _discard_transient_faults(
    store: TeacherStore, source, blocks: dict, whole: list[str]
) -> TeacherStore:
    """Views were settled without the audio that could not be opened then (by versions before this
    one, or by a decoder that was missing): blocks of what can be read now are missing again."""
    missing = set(store.missing(whole))
    there = {text: blocks[text] for text in whole if text not in missing}
    found = {text for text, _, reason in _unreadable_views(store, source, there)
             if reason == READABLE}
    if not found:
        return store
    from distill.data.teacher_store.repack import discard

    print(f"{store.folder}: {len(found):,} of {len(blocks):,} blocks were scored when some of the "
          "audio could not be opened. Now it can: they are scored again", flush=True)
    return discard(store.folder, sorted(found))


def _write_unreadable(store: TeacherStore, source, blocks: dict) -> None:
    """Write down which clips nobody learns from, as the finished store has them: whichever rank
    met them, and however often it was stopped."""
    found = {fault: reason for _, fault, reason in _unreadable_views(store, source, blocks)}
    path = store.folder / "unreadable.json"
    if not found:
        path.unlink(missing_ok=True)
        return
    write_json(path, dict(sorted(found.items())))
    reasons = counts_text(Counter(found.values()))
    print(f"Clips that are left out of training, see {path}: {reasons}", flush=True)


class _Batch(NamedTuple):
    """A batch of a block of a group: what is to be done once it is scored goes with it, since
    workers run ahead."""

    lease: str  # of the group
    text: str  # of the block
    samples: list[tuple[int, int]]
    ends_block: bool
    ends_group: bool


def _scored(
    scorer, store: TeacherStore, leases: Leases, blocks: dict, groups: dict, faults: Unreadable
) -> Iterator[None]:
    """Yields once for each view that is scored; a group is sealed with its last batch. One of
    whose files some cannot be opened is not; mostly that is found before the teachers run."""
    from torch.utils.data import DataLoader

    def batches() -> Iterator[list[_Batch]]:
        for number, texts in groups.items():
            if not leases.take(name := f"group-{number:05d}"):
                continue
            store.refresh()
            left = store.missing(texts)  # else another rank has been faster
            if not left or _count(scorer.lost([blocks[text] for text in left]), faults):
                leases.release(name)
                continue
            for text in left:
                *first, last = scorer.batches(blocks[text])
                yield from ([_Batch(name, text, samples, False, False)] for samples in first)
                yield [_Batch(name, text, last, True, text == left[-1])]

    loader = DataLoader(
        _Identity(), batch_sampler=batches(), collate_fn=_Prepare(scorer),
        num_workers=scorer.recipe.scores.num_workers,
    )
    parts: list[dict] = []
    records: list[Record] = []
    is_whole = True
    for batch, prepared in loader:
        is_whole &= not _count(prepared.unreadable.values(), faults)
        if is_whole:
            parts.append(scorer.score(prepared))
        if is_whole and batch.ends_block:
            records.append(scorer.record(blocks[batch.text], parts))
            parts = []
        if batch.ends_group:
            if is_whole:
                store.add(records)
            leases.release(batch.lease)
            parts, records, is_whole = [], [], True
        yield from [None] * len(prepared.views)


def _count(errors: Iterable[ClipError], faults: Unreadable) -> int:
    """Tell and count clips that cannot be read; how many of them perhaps can by the next run.

    Raises:
        UnreadableError: there are too many.
    """
    errors = list(errors)
    for error in errors:
        faults.add(error.clip, error.error)
    faults.check()
    return sum(error.is_transient for error in errors)


class _Identity:
    """The "dataset": what a batch becomes is decided in `_Prepare` alone."""

    def __getitem__(self, batch: _Batch) -> _Batch:
        return batch


class _Prepare:
    def __init__(self, scorer):
        self.scorer = scorer

    def __call__(self, batches: list[_Batch]):
        """The one batch, and its views as the teachers get them."""
        (batch,) = batches
        return batch, self.scorer.prepare(batch.samples)


def with_absolute_manifests(recipe: Recipe) -> Recipe:
    """A copy of a recipe of any method, whose manifests are found from any folder."""
    copy = deepcopy(recipe)
    for split in ("train", "validation", "test"):
        paths = [str(Path(path).resolve()) for path in getattr(copy.data, split)]
        setattr(copy.data, split, paths)
    return copy


def with_absolute_paths(recipe: CedRecipe) -> CedRecipe:
    """So that `verify` finds everything from the copy of the recipe beside the scores."""
    copy = with_absolute_manifests(recipe)
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
    run(main)
