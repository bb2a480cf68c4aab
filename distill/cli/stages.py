"""All of a recipe, one step after the other: plan, label, train, eval.

    audio-distill run RECIPE [--num-processes N] [key=value ...]

Before them come what a recipe brings along: the scenes of its scenes.yaml, the questions of its
questions.yaml, the clips of its no_speech.yaml and the texts of its read_aloud.yaml, and the
teachers of its folder teachers/, which are trained here. Recipes that measure what prompts do
(evaluation.prompts) do so after training. Each step is a process of its own and can be stopped: the
same command goes on. On Linux one process imports what is large, and its steps are copies of it.
With several processes, labels are translated and scored in steps of their own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from distill.cli.commands import COMMANDS
from distill.cli.forked import call_forked, can_fork, import_shared
from distill.endings import wait_for

BEFORE = {"train": ("scores",)}
AFTER = {"label": ("translate", "scores")}  # processes do not wait for each other


class Step(NamedTuple):
    """A command, and its arguments."""

    name: str
    arguments: list[str]
    is_teacher: bool = False  # trained before what is asked for; it may need scores of its own


class Launch(NamedTuple):
    """How `accelerate launch` is called."""

    num_processes: int
    config: str | None  # a name in recipes/accelerate, or a file; None: by what there is


def main(arguments: list[str]) -> int:
    """0, or the exit code of the step that failed."""
    from distill.config import find_recipe

    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    arguments, options = take_launch_options(arguments)
    if not arguments:
        raise ValueError("expected a recipe; --help says more")
    found = find_recipe(arguments[0])
    if options is None and can_fork():
        return _forked(found, arguments)
    return in_turn(steps(found, arguments, options))


def _forked(found: Path, arguments: list[str]) -> int:
    """One process: what is large is imported once, after the plan, which needs none of it."""
    planned, *rest = steps(found, arguments, None)
    if code := in_turn([planned]):  # and the scenes before it
        return code
    import_shared()
    for step in rest:
        # a student's scores were made with its labels
        for name in ("scores", step.name) if step.is_teacher else (step.name,):
            print(f"== {step.arguments[0]}: {name}", flush=True)
            if code := call_forked(name, step.arguments):
                return code
    return 0


def steps(found: Path, arguments: list[str], options: Launch | None) -> list[Step]:
    """Everything that a recipe needs, as `make NAME` has it.

    Args:
        found: the recipe's file; `arguments` begins with what the user calls it.
    """
    several = [] if options is None else [f"--num-processes={options.num_processes}"]
    if options is not None and options.config:
        several.append(f"--accelerate-config={options.config}")
    folder = _given_folder(arguments[0])
    teachers = [
        Step("train", [str(folder / "teachers" / path.name), *several], is_teacher=True)
        for path in sorted((found.parent / "teachers").glob("*.yaml"))
    ]
    prompted = ("twin", "prompts") if _measures_prompts(found) else ()
    return [
        Step("plan", arguments),
        *teachers,
        Step("label", [*arguments, *several]),
        Step("train", [*arguments, *several]),
        *(Step(name, arguments) for name in prompted),
        Step("eval", arguments),
    ]


def _measures_prompts(found: Path) -> bool:
    """Whether a recipe sets evaluation.prompts.words."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        content = OmegaConf.load(found)
        return bool(OmegaConf.select(content, "evaluation.prompts.words"))
    except YAMLError:
        return False  # the plan, which is first, says what is wrong


def preparations(name: str, arguments: list[str]) -> list[Step]:
    """What comes before a command: a student needs scores, and a plan needs scenes to count."""
    from distill.config import find_recipe

    if name == "train":
        return [Step("scores", arguments)]
    recipe = find_recipe(arguments[0])
    if recipe.name != "recipe.yaml":
        return []
    folder, makers = (
        _given_folder(arguments[0]),
        {"no-speech": "no_speech.yaml", "read-aloud": "read_aloud.yaml"},
    )
    if (recipe.parent / "scenes.yaml").is_file():
        makers |= {"scenes": "scenes.yaml", "questions": "questions.yaml"}
    return [
        Step(name, [str(folder / file)])
        for name, file in makers.items()
        if (recipe.parent / file).is_file()
    ]


def _given_folder(recipe: str) -> Path:
    """The folder of a recipe, in the words of the user: a name stays a name."""
    given = Path(recipe)
    return given.parent if given.is_file() or given.suffix == ".yaml" else given


def in_turn(commands: list[Step]) -> int:
    """Call commands as processes, until one fails; its exit code."""
    for name, arguments, _ in commands:
        print(f"== {arguments[0]}: {name}", flush=True)
        if code := wait_for([sys.executable, "-m", "distill", name, *arguments]):
            return code
    return 0


def take_launch_options(arguments: list[str]) -> tuple[list[str], Launch | None]:
    """Arguments without --num-processes and --accelerate-config, and what they say; None: one
    process, this one.

    Raises:
        ValueError: no number, or a value is missing.
    """
    left: list[str] = []
    found: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if key not in ("--num-processes", "--accelerate-config"):
            left.append(argument)
            continue
        found[key] = value if equals else next(rest, "")
        if not found[key]:
            raise ValueError(f"{key} needs a value")
    number, config = found.get("--num-processes"), found.get("--accelerate-config")
    if number is None and config is not None:
        raise ValueError("--accelerate-config needs --num-processes, too")
    if number is not None and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"--num-processes must be a number above 0, got {number!r}")
    if number is None or (number == "1" and config is None):
        return left, None
    return left, Launch(int(number), config)


def launch(name: str, arguments: list[str], options: Launch) -> int:
    """Run a command, and what belongs to it, in several processes; the first code that is not 0."""
    if not arguments:
        raise ValueError("expected a recipe; --help says more")
    config = _config(options.config)
    environment = dict(os.environ)
    if "\nuse_cpu: true" in config.read_text(encoding="utf-8"):
        environment["ACCELERATE_USE_CPU"] = "true"  # the launcher does not hand it on
    for step in (*BEFORE.get(name, ()), name, *AFTER.get(name, ())):
        print(f"== {arguments[0]}: {step}, {options.num_processes} processes", flush=True)
        command = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(config),
            "--num_processes",
            str(options.num_processes),
            "-m",
            COMMANDS[step].module,
            *arguments,
        ]
        if code := wait_for(command, environment):
            return code
    return 0


def _config(name: str | None) -> Path:
    """A file for `accelerate launch`."""
    from distill.config import recipe_folders

    if name is None:
        import torch

        name = "ddp" if torch.cuda.is_available() else "cpu2"
    if Path(name).is_file():
        return Path(name)
    for folder in recipe_folders():
        path = folder / "accelerate" / f"{name}.yaml"
        if path.is_file():
            return path
    known = {path.stem for each in recipe_folders() for path in each.glob("accelerate/*.yaml")}
    raise ValueError(
        f"--accelerate-config must be a file or one of: {', '.join(sorted(known))}; got {name!r}"
    )
