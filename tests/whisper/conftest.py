"""A tiny run that is labelled and scored once, for the tests of the teacher store in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data.files import hash_of


class TinyRun:
    """Recipes, stores and tasks of one labelled corpus; stores are kept by what they hold."""

    def __init__(self, folder: Path):
        self.folder, self.recipe_path = folder, folder / "recipe"
        self._filled: set[str] = set()

    def recipe(self, *overrides: str):
        """The recipe; its stores are those that labelling made, unless scores.dir says else."""
        from distill.whisper.recipe import load_recipe

        return load_recipe(self.recipe_path, [f"output_dir={self.folder / 'run'}", *overrides])

    def scored(self, *overrides: str):
        """A recipe whose store is filled: the same one for the same overrides, not to be
        changed."""
        from pseudo_label.scores import score

        recipe = self.recipe(*overrides)
        recipe.scores.dir = str(self.folder / "stores" / hash_of(overrides))
        if recipe.scores.dir not in self._filled:
            score(recipe)
            self._filled.add(recipe.scores.dir)
        return recipe

    def task(self, recipe):
        """The recipe's task in a world of one process."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        from distill.whisper.task import WhisperTask

        AcceleratorState._reset_state(reset_partial_state=True)  # of other tests
        return WhisperTask(recipe, Accelerator(cpu=True))

    def source(self, recipe):
        """The recipe's views."""
        from distill.whisper.data.view_source import ViewSource
        from distill.whisper.teacher import load_teacher

        teacher = load_teacher(recipe.teacher)
        return ViewSource(recipe, teacher.processor, teacher.model.generation_config,
                          teacher.model.config.max_target_positions)


def _liven(teacher: Path) -> None:
    """As initialised, all tokens are nearly as likely, and neither the audio nor what was said
    before matters much."""
    from safetensors.torch import load_file, save_file

    path = teacher / "model.safetensors"
    weights = load_file(path)
    for name, value in weights.items():
        if ".decoder." in name and "attn" in name and value.ndim > 1:
            value *= 3
        if "decoder.layer_norm" in name:
            value *= 8
    save_file(weights, path, {"format": "pt"})


def _say_something(labels: Path) -> None:
    """Labels of different words and lengths in the place of what a random teacher says."""
    from distill.data.files import read_jsonl, write_jsonl

    generator = np.random.default_rng(0)
    for path in sorted(labels.glob("part-*.jsonl")):
        rows = read_jsonl(path)
        for row in rows:
            words = generator.integers(0, 256, generator.integers(3, 30)).tolist()
            row |= {"tokens": [BEGIN, *words, BEGIN + 100], "label": "words", "truncated": False}
        write_jsonl(path, rows)


BEGIN = 267  # <|0.00|> of the tiny tokenizer


@pytest.fixture(scope="session", autouse=True)
def _remembered(remembered):
    """For all tests of this folder."""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> TinyRun:
    """Eight windows: two updates of four views are an epoch, the run is three epochs."""
    from distill.testing import write_tiny_recipe
    from pseudo_label.__main__ import label, main

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny_run")
    recipe = write_tiny_recipe(folder, train=16)
    text = (recipe / "recipe.yaml").read_text()
    text = text.replace("packing: sequential", "packing: sequential, window_seconds: 14")
    (recipe / "recipe.yaml").write_text(text)
    _liven(folder / "teacher")
    run = TinyRun(folder)
    labels = folder / "run" / "pseudo_labels"
    label(run.recipe(), labels, rank=0, world=1)
    _say_something(labels)
    main([str(recipe), f"output_dir={folder / 'run'}"])
    return run
