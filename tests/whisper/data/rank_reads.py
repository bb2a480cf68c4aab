"""What a rank of a run reads from the teacher store; see `test_recorded_ranks.py`, which starts it.

Writes OUT/RANK.json: for every list of overrides, step and micro-batch, the (epoch, view key) read.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

from accelerate import Accelerator

from distill.data.teacher_store import TeacherStore
from distill.training.loop import _loader
from distill.whisper.recipe import load_recipe
from distill.whisper.task import WhisperTask

Reads = list[tuple[int, str, int]]  # epoch, view key, process that read it


def watch(task: WhisperTask) -> None:
    """Batches say what was read of the store for them, in whatever process that happened."""
    read, collate, keys = TeacherStore.read, task.collate, []

    def note(store: TeacherStore, row: int):
        if store is task.recorded.scores:
            keys.append(store.key(row))
        return read(store, row)

    def collate_and_tell(places: list[tuple[int, int]]):
        keys.clear()
        TeacherStore.read = note
        try:
            batch = collate(places)
        finally:
            TeacherStore.read = read
        epochs = [epoch for _, epoch in places]
        return batch | {"reads": [(epoch, key, os.getpid())
                                  for epoch, key in zip(epochs, keys, strict=True)]}

    task.collate = collate_and_tell


def reads_of(recipe, accelerator: Accelerator) -> list[list[Reads]]:
    """By step and micro-batch, through the loop's own loader."""
    task = WhisperTask(recipe, accelerator)
    watch(task)
    rank, world = accelerator.process_index, accelerator.num_processes
    loader = _loader(task, recipe.train, accelerator, 0)
    found = [[next(loader)["reads"] for _ in task.batches.micro_batches(step, rank, world)]
             for step in range(recipe.train.max_steps)]
    assert next(loader, None) is None, "the loader goes on after the last step"
    return found


def main(arguments: list[str]) -> None:
    """Args: recipe, OUT, JSON of the lists of overrides."""
    path, out, runs = arguments
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was launched
    accelerator = Accelerator(cpu=True)
    found = [reads_of(load_recipe(path, overrides), accelerator) for overrides in json.loads(runs)]
    (Path(out) / f"{accelerator.process_index}.json").write_text(json.dumps(
        {"world": accelerator.num_processes, "pid": os.getpid(), "runs": found}
    ))
    accelerator.end_training()
