"""The students of a family: their layers, where they are trained, and how."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distill.cli.forked import call_forked, can_fork, import_shared
from distill.data.files import read_json
from distill.data.teacher_store.manifest import read_settings
from distill.endings import wait_for
from distill.methods import training_settings
from distill.whisper.data.layers import choose_layers, family_layers, states_to_store
from distill.whisper.data.scoring import scores_folder
from distill.whisper.data.view_source import ViewSource
from distill.whisper.recipe import WhisperRecipe, load_recipe
from distill.whisper.teacher import load_teacher


@dataclass(frozen=True)
class Member:
    """A student of the family.

    Attributes:
        layers: of the teacher's decoder, that it keeps.
        run: its folder: of the family, or the recipe's own where `make NAME` has trained it.
        overrides: of the recipe, that make the recipe of this student.
        is_done: it is trained, and would be the same if it were trained again.
    """

    layers: tuple[int, ...]
    run: Path
    overrides: tuple[str, ...]
    is_done: bool

    @property
    def name(self) -> str:
        return "-".join(map(str, self.layers))

    @property
    def folder(self) -> Path:
        """Of its weights."""
        return self.run / "student"


def family_folder(recipe: WhisperRecipe) -> Path:
    return Path(recipe.output_dir) / "family"


def check_family(recipe: WhisperRecipe) -> int:
    """How many layers the teacher's decoder has.

    Raises:
        ValueError: the recipe has no family, or no clips to choose by; the teacher lacks layers; or
            its scores were stored without what the family learns from.
    """
    if not recipe.family.decoder_layers:
        raise ValueError("family.decoder_layers is empty: say which students to train, as in "
                         "family.decoder_layers=[1,2,4]")
    if not recipe.data.validation:
        raise ValueError("data.validation is empty: a student is chosen by its errors there")
    total = load_teacher(recipe.teacher, weights=False).model.config.decoder_layers
    needed = states_to_store(recipe, total)
    folder = scores_folder(recipe)
    if recipe.teacher.mode == "store" and needed and (folder / "manifest.json").is_file():
        stored = read_settings(folder, None).get("decoder_states", [])
        if missing := [state for state in needed if state not in stored]:
            raise ValueError(
                f"{folder} was scored for other students: it has the decoder states {stored}, and "
                f"the family learns from {missing}, too. Score into another folder (scores.dir), "
                "or delete this one")
    return total


def find_members(recipe: WhisperRecipe, arguments: Sequence[str], total: int) -> list[Member]:
    """All students, in the order of the recipe. The labels are there.

    Args:
        arguments: of the command: the recipe's name and its overrides.
        total: decoder layers of the teacher.
    """
    known = load_teacher(recipe.teacher, weights=False)
    labels_hash = ViewSource(recipe, known.processor, known.model.generation_config,
                             known.model.config.max_target_positions).labels_hash
    own = choose_layers(recipe.student.decoder_layers, total, "student.decoder_layers")
    found = []
    for layers in family_layers(recipe, total):
        run = family_folder(recipe) / "-".join(map(str, layers))
        choice = recipe.student.decoder_layers if layers == own else layers
        overrides = [f"student.decoder_layers={choice}".replace(" ", ""),
                     f"labels_dir={recipe.labels_dir}", f"scores.dir={recipe.scores.dir}"]
        settings = training_settings(
            load_recipe(arguments[0], [*arguments[1:], *overrides]), labels_hash)
        if layers == own and _is_trained(Path(recipe.output_dir), settings):
            run = Path(recipe.output_dir)
        found.append(Member(tuple(layers), run, (*overrides, f"output_dir={run}"),
                            _is_trained(run, settings)))
    return found


def _is_trained(run: Path, settings: str) -> bool:
    facts = run / "student.json"
    return (run / "student").is_dir() and facts.is_file() and (
        read_json(facts)["settings"] == settings)


def label(arguments: Sequence[str], several: Sequence[str]) -> int:
    """Labels and scores that are missing, by the stage's own command; its exit code.

    Args:
        several: options that start several processes; empty: one.
    """
    return _call("label", "pseudo_label", arguments, several)


def train(member: Member, arguments: Sequence[str], several: Sequence[str]) -> int:
    """Train a student, or go on with it, as `label`."""
    return _call("train", "distill.train", [*arguments, *member.overrides], several)


def _call(name: str, module: str, arguments: Sequence[str], several: Sequence[str]) -> int:
    if several:
        return wait_for([sys.executable, "-m", "distill", name, *arguments, *several])
    if can_fork() and not torch.cuda.is_available():  # which begins CUDA: no copy could use it
        import_shared()
        return call_forked(name, list(arguments))
    return wait_for([sys.executable, "-m", module, *arguments])
