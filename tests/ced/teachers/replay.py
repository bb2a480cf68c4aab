"""What teachers and students are given, as digests; `test_replay.py` starts `main` in processes of
their own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import torch

Digests = dict[str, str]  # "clip epoch": digest of the features


def digest(features: torch.Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()[:16]


def heard_by_teachers(recipe) -> Digests:
    """By every member at every view of a run, in the batches they are scored in."""
    from distill.ced.data.view_source import ViewSource
    from distill.ced.teachers.scoring import Scorer

    scorer, found = Scorer(recipe, ViewSource(recipe), None), {}
    for block in scorer.blocks:
        for places in scorer.batches(block):
            prepared = scorer.prepare(places)
            for (index, epoch), features in zip(places, prepared.features, strict=True):
                found[f"{index} {epoch}"] = digest(features)
    return found


def heard_by_student(recipe, accelerator, first_step: int = 0) -> Digests:
    """Of one rank, through the loop's own loader; views of later epochs as those they repeat."""
    from accelerate import Accelerator

    from distill.ced.task import CedTask
    from distill.training.loop import _loader

    task = CedTask(recipe, Accelerator(cpu=True))
    loader, found = _loader(task, recipe.train, accelerator, first_step), {}
    rank, world = accelerator.process_index, accelerator.num_processes
    for step in range(first_step, recipe.train.max_steps):
        for places in task.batches.micro_batches(step, rank, world):
            batch = next(loader)
            lengths = batch["attention_mask"].sum(1).tolist()
            for (index, epoch), values, frames in zip(
                places, batch["input_values"], lengths, strict=True
            ):
                key = f"{index} {epoch % task.recorded.num_epochs}"
                found[key] = digest(values[:, :frames])
    assert next(loader, None) is None
    return found


def alone(rank: int = 0, world: int = 1) -> SimpleNamespace:
    return SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))


def main(arguments: list[str]) -> None:
    """Args: OUT, recipe, overrides; writes OUT/RANK.json."""
    from accelerate import Accelerator

    from distill.ced.recipe import load_recipe

    multiprocessing.set_start_method("fork", force=True)  # as in a process that was launched
    accelerator = Accelerator(cpu=True)
    found = heard_by_student(load_recipe(arguments[1], arguments[2:]), accelerator)
    path = Path(arguments[0]) / f"{accelerator.process_index}.json"
    path.write_text(json.dumps({"pid": os.getpid(), "world": accelerator.num_processes,
                                "heard": found}))
    accelerator.end_training()
