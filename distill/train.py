"""Train a student.

    accelerate launch -m distill.train RECIPE [key=value ...]
    python -m distill.train RECIPE [key=value ...]                one process

RECIPE is a name in recipes/, a folder or a YAML file. Leaves runs/NAME/student/, ready to publish,
checkpoints/ and metrics.jsonl. A run that was stopped, by Ctrl-C or by force, goes on from its last
checkpoint and ends with the same weights.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from distill.config import ConfigError, to_yaml
from distill.data.audio import AudioError
from distill.data.files import read_json, write_json, write_text
from distill.data.manifest import counts_text
from distill.data.unreadable import UnreadableError
from distill.endings import run as run_command
from distill.endings import writing_to
from distill.methods import (
    attach_tagger,
    build_task,
    check_data,
    load_recipe,
    stages_of,
    tagger_recipe,
    training_settings,
)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    with writing_to(recipe.output_dir):
        try:
            check_data(recipe, "train")
            for stage in stages_of(recipe):
                train(stage)
            train_tagger(recipe)
            _leave()
        except AudioError as error:  # while it is prepared, or measured
            raise UnreadableError(f"training stops: {error}. What was trained is in checkpoints; "
                                  "the same command goes on from there") from None


def train(recipe) -> None:
    """Train, or say that it is done."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from distill.training.loop import Interrupted, fit

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    accelerator = make_accelerator(Accelerator, recipe)
    set_seed(recipe.seed)
    run = Path(recipe.output_dir)
    check_output(run)
    task = build_task(recipe, accelerator)
    settings = training_settings(recipe, task.labels_hash)
    if _is_done(run / "student", settings):
        accelerator.print(f"Training is done already: {run / 'student'}")
        return
    accelerator.print(task.describe(), flush=True)
    if accelerator.is_main_process:
        write_text(run / "config.yaml", to_yaml(recipe))
        accelerator.init_trackers(run.name)
    try:
        state = fit(task, recipe.train, accelerator, run, settings)
    except Interrupted as stop:
        accelerator.print(f"{stop}. The same command goes on from there.")
        accelerator.end_training()
        sys.exit(130)
    if accelerator.is_main_process:
        _finish(run, state, settings, task.dataset_summary)
    accelerator.wait_for_everyone()  # another training may begin with this student
    for tracker in accelerator.trackers:  # not end_training(): it ends the group of the ranks
        tracker.finish()


def _leave() -> None:
    """End the group of the ranks, where there are several."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def train_tagger(recipe) -> None:
    """Train the head that tags beside a transcriber, if the recipe has one, and put it there."""
    head = tagger_recipe(recipe)
    if head is None:
        return
    check_data(head, "train")
    train(head)
    if int(os.environ.get("RANK", 0)) == 0:
        attach_tagger(recipe)
        print(f"{Path(recipe.output_dir) / 'student'} tags sounds, too", flush=True)


def make_accelerator(accelerator_class, recipe):
    """An Accelerator, after checking that the processes really know each other.

    Raises:
        ConfigError: several processes were launched but each believes it is alone.
    """
    from distill.training.sharding import check_launch, plugins

    accelerator = accelerator_class(
        **plugins(recipe.train.mixed_precision), log_with=recipe.train.trackers or None,
        project_dir=recipe.output_dir,
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched but accelerate sees {accelerator.num_processes}; "
            "on CPU set ACCELERATE_USE_CPU=true"
        )
    check_launch(accelerator)
    return accelerator


def _is_done(student: Path, settings: str) -> bool:
    path = student.parent / "student.json"
    return student.is_dir() and path.is_file() and read_json(path)["settings"] == settings


def check_output(run: Path) -> None:
    """
    Raises:
        ValueError: there is a folder `student` that no training made: it would be replaced.
    """
    made = run / "student.json", run / "checkpoints"
    if (run / "student").exists() and not any(path.exists() for path in made):
        raise ValueError(f"output_dir: {run / 'student'} is there already and was not made by "
                         f"training, which would replace it: say another output_dir, such as "
                         f"{run.parent / f'{run.name}-2'}")


def _finish(run: Path, state, settings: str, dataset_summary: dict) -> None:
    """Publish the best student as runs/NAME/student."""
    target, temporary = run / "student", run / ".student.tmp"
    for folder in (temporary, target):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "checkpoints" / "best", temporary)
    temporary.rename(target)
    write_json(
        run / "student.json",
        {"settings": settings, "steps": state.step, "best_step": state.best_step,
         "best_score": state.best_score, "data": dataset_summary},
    )
    drops = dataset_summary["drops"]
    print(f"Student: {target} (weights of step {state.best_step})"
          + (f"; left out: {counts_text(drops)}" if drops else ""), flush=True)


if __name__ == "__main__":
    run_command(main)
