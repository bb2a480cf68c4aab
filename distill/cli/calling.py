"""A command of `audio-distill` in this process: found by its name, ended by a sentence."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from distill.cli.commands import COMMANDS, Command
from distill.endings import run


def ending(function: Callable[[list[str]], int | None], arguments: list[str] | None) -> None:
    """Call a function; errors end the process with a sentence that speaks of audio-distill."""
    try:
        run(function, arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.exit(reworded(end.code))
        raise


def call_here(name: str, arguments: list[str]) -> int | None:
    """Run a command in this process, and nothing that comes before it."""
    command = COMMANDS[name]
    if command.finds_code:
        sys.path.append(os.getcwd())
    sys.argv = [f"audio-distill {name}", *arguments]
    found: int | None = importlib.import_module(module_of(command)).main(arguments)
    return found


def module_of(command: Command) -> str:
    """Of a package, the module that is run."""
    return command.module + (".__main__" if source_of(command).endswith("__main__.py") else "")


def source_of(command: Command) -> str:
    """Path of a module that is not imported: what it imports may take seconds."""
    path = os.path.join(Path(__file__).resolve().parents[2], *command.module.split("."))
    return os.path.join(path, "__main__.py") if os.path.isdir(path) else f"{path}.py"


def reworded(text: str) -> str:
    """Commands in a text, as one without a clone calls them: `make NAME.label` and
    `python -m pseudo_label RECIPE` become `audio-distill label ...`."""
    names = {command.module: name for name, command in COMMANDS.items()}
    names["pseudo_label.tag_scores"] = "scores"
    modules = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))

    def of_module(found: re.Match[str]) -> str:
        several = " --num-processes N" if found[1].startswith("accelerate") else ""
        return f"audio-distill {names[found[2]]}{several}"

    def of_make(found: re.Match[str]) -> str:
        name = "run" if found[2] == "teachers" else found[2].replace("_", "-")
        return f"audio-distill {name} {found[1]} {found[3] or ''}".strip()

    known = "|".join(["teachers", *(name.replace("-", "_") for name in COMMANDS)])
    text = re.sub(rf"(python|accelerate launch) -m ({modules})(?![\w.])", of_module, text)
    return re.sub(rf'make ([\w.-]+)\.({known})\b(?: SET="([^"]*)")?', of_make, text)
