"""Store the teacher's scores of every view of a run, once (teacher.mode: store).

    python -m pseudo_label.scores RECIPE [key=value ...]
    accelerate launch -m pseudo_label.scores RECIPE [key=value ...]      one process per GPU

Filters the labels, then scores the views that are not in `scores.dir` yet: a run that was stopped,
got more steps or another filter pays for what is new. Part of `python -m pseudo_label`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from distill.config import read_method, to_yaml
from distill.data.audio import AudioError
from distill.data.formats.source import fetch_ahead
from distill.data.teacher_store import digest_of
from distill.data.teacher_store.disk import publish
from distill.data.unreadable import Unreadable, file_fault
from distill.endings import Stopped, run, writing_to
from distill.methods import find_method
from distill.progress import progress
from distill.whisper.recipe import WhisperRecipe, load_recipe
from pseudo_label import tag_scores
from pseudo_label.filter import describe, run_filter
from pseudo_label.labelling.references import add_references

DECODER_TOKENS = 4096  # of views scored together, padding counted


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    method = find_method(read_method(arguments[0]))
    if "score" not in method.stages:
        print("Nothing to score: this method learns from labels.")
        return
    if method.output == "tags":
        tag_scores.main(arguments)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    rank = int(os.environ.get("RANK", 0))
    with writing_to(recipe.labels_dir):
        # by every rank, whole and with the same result: nobody has to wait for anybody
        add_references(recipe)  # where labelling was killed before it came to that
        report = run_filter(recipe)
    if rank == 0:
        print(describe(report), flush=True)
    with writing_to(recipe.scores.dir):
        score(recipe, rank, int(os.environ.get("WORLD_SIZE", 1)))


def score(recipe: WhisperRecipe, rank: int = 0, world: int = 1) -> None:
    """Fill the stores of a recipe with this rank's share of what is missing.

    Ranks never wait for each other: who scores a group of views follows from the group alone.

    Raises:
        StoreError: the stores are of another teacher or other settings.
        UnreadableError: audio cannot be read; groups of views that need it are left out, whole.
    """
    if recipe.teacher.mode != "store":
        return
    from distill.data.teacher_store import TeacherStore
    from distill.whisper.data.scoring import open_states, scores_folder, settings_of_store
    from distill.whisper.data.view_source import ViewSource
    from distill.whisper.teacher import load_teacher

    known = load_teacher(recipe.teacher, weights=False)
    config = known.model.config
    source = ViewSource(recipe, known.processor, known.model.generation_config,
                        config.max_target_positions)
    views, states = source.views_of_run(), None
    if recipe.student.learns == "encoder":  # only of what the teacher hears
        views = list(dict.fromkeys(map(source.heard_by_teacher, views)))
    if recipe.scores.encoder_states == "disk":
        states = open_states(recipe, known.revision)
    scorer = cache(lambda: _load_scorer(recipe, source, states))  # not where nothing is missing
    clips = {piece["id"] for row in source.rows for piece in row["pieces"]}
    faults = Unreadable(len(clips), recipe.data.max_unreadable, "scoring")
    if states is not None:
        fill = Fill(states, source.states_key, source.length, recipe, rank, world, faults)
        fill(views, "encoding", "windows", lambda group: states.add(scorer().encode(group)),
             lambda view: source.files(view.id))
    from_scores = recipe.loss.kl_weight or recipe.loss.hidden_weight
    if from_scores and recipe.student.learns == "decoder":
        settings = settings_of_store(recipe, known.revision, known.processor, config)
        store = TeacherStore(scores_folder(recipe), settings, create=True)

        def add_scores(group: Sequence) -> None:
            if states is not None:
                states.refresh()  # other ranks may have added what this one asks for
            batches = batches_of(group, source.length)
            store.add([record for batch in batches for record in scorer().records(batch)])

        def heard(view) -> str:
            return source.states_key(source.heard_by_teacher(view))

        encoded = set() if states is None else set(map(heard, views))
        encoded -= set(states.missing(list(encoded)) if states else ())

        def files(view) -> list[tuple[str, str]]:
            return [] if heard(view) in encoded else source.files(view.id)

        fill = Fill(store, source.scores_key, source.length, recipe, rank, world, faults)
        fill(views, "scoring", "views", add_scores, files)
    faults.finish("data.train", also_permanent=True)


def _load_scorer(recipe: WhisperRecipe, source, states):
    """The teacher itself, on a GPU where there is one."""
    import torch

    from distill.whisper.data.scoring import Scorer
    from distill.whisper.teacher import load_teacher

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    teacher = load_teacher(recipe.teacher)
    if torch.cuda.is_available():
        teacher.model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}", torch.float16)
    return Scorer(recipe, teacher, source, states)


class Fill:
    """Adds to a store what it lacks of some views, in groups that become one shard each.

    Groups are whole or absent and cut from the sorted list of what is missing, so that those left
    by a killed run are cut in the same places by the next one.

    Args:
        store: a TeacherStore.
        key: view -> what the store knows it by.
        length: view -> its decoder tokens; views of like length are scored together.
    """

    def __init__(self, store, key: Callable, length: Callable, recipe: WhisperRecipe, rank: int,
                 world: int, faults: Unreadable):
        self.store, self.key, self.length = store, key, length
        self.recipe, self.rank, self.world, self.faults = recipe, rank, world, faults

    def __call__(self, views: Sequence, verb: str, unit: str, add: Callable,
                 files: Callable) -> None:
        """Call `add(group)` for this rank's missing groups, with a progress bar.

        Args:
            files: view -> (clip, path) of what `add` has to read.
        """
        by_key = {self.key(view): view for view in views}
        missing = sorted(self.store.missing(list(by_key)),
                         key=lambda key: (self.length(by_key[key]), key))
        size = self.recipe.scores.shard_views
        groups = [missing[at : at + size] for at in range(0, len(missing), size)]
        # by content: ranks that start at different times see different lists of what is missing
        mine = [g for g in groups if digest_of(g[0]) % self.world == self.rank]
        total = sum(map(len, mine))
        if len(missing) < len(by_key):
            print(f"{len(by_key) - len(missing)} of {len(by_key)} {unit} are there already",
                  flush=True)
        windows = {by_key[key].id: by_key[key] for group in mine for key in group}
        # before the teacher is loaded
        self.faults.stat(file for view in windows.values() for file in files(view))
        num_added = 0

        def added() -> Iterator[None]:
            nonlocal num_added
            for group in mine:
                if self._add([by_key[key] for key in group], add, files):
                    num_added += len(group)
                    yield from [None] * len(group)

        started = time.monotonic()
        try:
            for _ in progress(added(), total, verb, unit, total > 0):
                pass
        except KeyboardInterrupt:
            there = len(by_key) - len(missing) + num_added
            raise Stopped(f"Stopped; {there} of {len(by_key)} {unit} are there, the same command "
                          "goes on.") from None
        self._finish(num_added, unit, time.monotonic() - started, num_added == total)

    def _add(self, views: Sequence, add: Callable, files: Callable) -> bool:
        """False if audio of these views cannot be read: nothing is added then."""
        absent = [(clip, fault) for view in views for clip, path in files(view)
                  if (fault := file_fault(path)) is not None]
        for clip, fault in absent:
            self.faults.add(clip, fault)
        if absent:
            return False
        fetch_ahead(path for view in views for _, path in files(view))
        try:
            add(views)
        except AudioError as error:
            self.faults.add(error.detail.split(":")[0], error)
            self.faults.check()
            return False
        return True

    def _finish(self, total: int, unit: str, seconds: float, is_whole: bool) -> None:
        text = to_yaml(with_absolute_paths(self.recipe))
        publish(self.store.folder / "recipe.yaml", text.encode())
        if is_whole:
            self.store.seal()
        if total:
            print(f"{self.store.folder}: {self.store.num_views} {unit}, "
                  f"{self.store.num_bytes / 1e6:,.1f} MB; {total} new in {seconds:.0f} s",
                  flush=True)


def batches_of(views: Sequence, length: Callable) -> list[list]:
    """Views of like length in batches of at most DECODER_TOKENS, padding counted."""
    batches: list[list] = []
    for view in sorted(views, key=length):
        # sorted: the view that comes next is the longest so far
        if not batches or (len(batches[-1]) + 1) * length(view) > DECODER_TOKENS:
            batches.append([])
        batches[-1].append(view)
    return batches


def with_absolute_paths(recipe: WhisperRecipe) -> WhisperRecipe:
    """So that `verify` finds the audio from the copy of the recipe beside the scores."""
    copy = tag_scores.with_absolute_manifests(recipe)
    if Path(copy.teacher.model).is_dir():
        copy.teacher.model = str(Path(copy.teacher.model).resolve())
    noises = copy.views.augment
    noises.recordings = [str(Path(place).resolve()) for place in noises.recordings]
    copy.labels_dir = str(Path(copy.labels_dir).resolve())
    return copy


if __name__ == "__main__":
    run(main)
