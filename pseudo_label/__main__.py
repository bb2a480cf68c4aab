"""Label the training audio of a recipe with its teacher, filter the labels, and score the views.

    python -m pseudo_label RECIPE [key=value ...]
    accelerate launch -m pseudo_label RECIPE [key=value ...]      one process per GPU

RECIPE is a name in recipes/, a folder or a YAML file. Writes runs/NAME/pseudo_labels/. A run that
was stopped goes on where it was; one that is complete says so. Several processes label only, since
they do not wait for each other: `pseudo_label.translate` (where the recipe has a text model) and
`pseudo_label.scores` come after them. Taggers have no labels, only scores:
`pseudo_label.tag_scores`.

Clips that are of no use are dropped, each with its reason. Where files cannot be opened for the
moment (a disk that is not mounted), the shards that need them are left for the next run and this
one ends with an error, before it filters.
"""

from __future__ import annotations

import os
from pathlib import Path

from distill.config import read_method
from distill.data.files import write_json
from distill.data.manifest import counts_text
from distill.data.unreadable import Unreadable
from distill.endings import run, writing_to
from distill.methods import check_data, find_method
from distill.whisper.outside import is_outside
from distill.whisper.recipe import WhisperRecipe, load_recipe
from pseudo_label import scores
from pseudo_label.filter import describe, run_filter
from pseudo_label.labelling.compare import recount
from pseudo_label.labelling.references import add_references
from pseudo_label.labelling.shards import count_drops, note_drops, reopen
from pseudo_label.outside.answers import write_cost
from pseudo_label.translate import translate


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if "label" not in find_method(read_method(arguments[0])).stages:
        scores.main(arguments)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    check_data(recipe, "label")
    with writing_to(recipe.labels_dir):
        _run(recipe, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def _run(recipe: WhisperRecipe, rank: int, world: int) -> None:
    folder = Path(recipe.labels_dir)
    complete = label(recipe, folder, rank, world)
    if not complete:
        print(f"Rank {rank} is done; other ranks are still labelling.")
        return
    for path in folder.glob("part-*.lease*"):  # of ranks that were killed at the last moment
        path.unlink(missing_ok=True)
    share = add_references(recipe)
    if share:
        print(share, flush=True)
    write_json(folder / "drops.json", count_drops(folder, complete.notes))
    if cost := write_cost(folder, recipe.pseudo_label.http):
        print(cost, flush=True)
    if recipe.translation.model and (world > 1 or not translate(recipe)):
        print("Labelled; `python -m pseudo_label.translate` comes next.")
        return
    print(describe(run_filter(recipe)), flush=True)
    if world == 1:
        scores.score(recipe)


def label(recipe: WhisperRecipe, folder: Path, rank: int, world: int):
    """Label what is missing; the plan once all shards are there, else None.

    Raises:
        UnreadableError: some audio cannot be opened now, or too much of it not at all.
    """
    from distill.whisper.data.recordings import describe as describe_speech
    from distill.whisper.teacher import locate
    from pseudo_label.plan import check_settings, label_settings, make_plan

    plan = make_plan(recipe, rank, world)
    _, revision, source = locate(recipe.teacher)
    settings = label_settings(recipe, revision, plan)
    recount(recipe)
    check_settings(folder, settings)
    plan.save(folder)
    if count := reopen(folder):
        print(f"{count} shards were labelled without clips that could not be opened: they are "
              "labelled again", flush=True)
    config = recipe.pseudo_label
    if is_outside(config):
        where = config.table.path if config.backend == "table" else \
            f"{config.http.model} at {config.http.url}"
        print(f"Labels: {where}", flush=True)
    print(f"Teacher: {source}", flush=True)
    print(
        f"Labelling {plan.num_windows} windows ({plan.seconds / 60:.1f} minutes of audio from "
        f"{plan.num_clips} clips, {recipe.pseudo_label.num_packings} packing(s)) in "
        f"{sum(map(bool, plan.shards))} shards",
        flush=True,
    )
    if changes := plan.changes(folder):
        print(changes, flush=True)
    if plan.long_seconds:
        print(describe_speech(plan.long_seconds), flush=True)
    if plan.notes:
        print("Clips split or dropped: " + counts_text(plan.notes), flush=True)
    if not plan.missing(folder):
        print("All labels are there already.", flush=True)
        return plan
    faults = Unreadable(plan.num_clips, recipe.data.max_unreadable, "labelling")
    _check_files(faults, plan, folder)
    if _label(recipe, plan, settings, folder, rank, world, faults):
        faults.finish("data.train")
    return None if plan.missing(folder) else plan


def _check_files(faults: Unreadable, plan, folder: Path) -> None:
    """What is known of unreadable clips before a model is loaded; raises if they are too many."""
    for clip, error in plan.unusable.items():
        if error.reason != "no_speech":  # it can be read
            faults.add(clip, error)
    note_drops(folder, faults)
    pieces = [piece for index in plan.missing(folder)
              for window in plan.shards[index] for piece in window.pieces]
    faults.stat((piece.id, piece.audio_filepath) for piece in pieces)


def _label(recipe: WhisperRecipe, plan, settings: dict, folder: Path, rank: int, world: int,
           faults: Unreadable) -> list[int]:
    from pseudo_label.labelling.transcripts import label_shards, load_labeller

    labeller = load_labeller(recipe, settings)
    # this rank's share first, then whatever nobody else is at
    order = sorted(_planned(plan), key=lambda index: (index % world != rank, index))
    return label_shards(labeller, plan, folder, order, faults)


def _planned(plan) -> list[int]:
    return [index for index, shard in enumerate(plan.shards) if shard]


if __name__ == "__main__":
    run(main)
