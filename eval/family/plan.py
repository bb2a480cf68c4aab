"""How long a family will take, before it begins: by the plans of its students."""

from __future__ import annotations

from dataclasses import replace

import torch

from distill.progress import clock
from distill.whisper.data.layers import family_layers
from distill.whisper.plan.plan import plan
from distill.whisper.recipe import WhisperRecipe
from eval.family.members import family_folder


def estimate(recipe: WhisperRecipe, total: int) -> str:
    """A sentence; what is there already is not counted.

    Args:
        total: decoder layers of the teacher.
    """
    machine = "gpu" if torch.cuda.is_available() else "cpu"
    label = train = measure = 0.0
    layers = family_layers(recipe, total)
    for number, each in enumerate(layers):
        run = str(family_folder(recipe) / "-".join(map(str, each)))
        found = plan(replace(recipe, student=replace(recipe.student, decoder_layers=each),
                             output_dir=run))
        if found["time"] is None:
            return "How long that takes cannot be told: an unknown architecture."
        seconds = {stage: machines and machines[machine] or 0.0
                   for stage, machines in found["time"]["seconds"].items()}
        done = found["done"]
        if number == 0 and done["shards"] < done["num_shards"]:
            label = sum(s for stage, s in seconds.items() if stage not in ("train", "eval"))
        if done["student_steps"] is None:
            train += seconds["train"]
        measure += seconds["eval"]
    return (f"About {clock(label + train + measure)} by the plan, within a factor of two at best: "
            f"labels and scores {clock(label)}, training {clock(train)}, measuring "
            f"{clock(measure)}.")
