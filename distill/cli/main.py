"""`audio-distill COMMAND ...`: every command of the package, for those who installed it.

    audio-distill plan demo
    audio-distill train demo --num-processes 8 train.max_steps=100

A command is the `main` of a module, with the same arguments: the first is
`python -m distill.plan demo`. Modules are imported when they are called; `--help` is read from
their source.
"""

from __future__ import annotations

import importlib
import io
import sys
from contextlib import redirect_stdout, suppress

from distill.cli.calling import call_here, ending, module_of, reworded, source_of
from distill.cli.commands import COMMANDS, GROUPS

LAUNCHING = "--num-processes N [--accelerate-config NAME]"
_LAUNCHED = f"""
{LAUNCHING}
    so many processes, one per GPU, through `accelerate launch`; NAME is one of
    recipes/accelerate (ddp, fsdp, deepspeed_zero2, deepspeed_zero3, cpu2) or a file. By default
    ddp, and cpu2 where there is no GPU.
"""


def main(arguments: list[str] | None = None) -> None:
    """Call a command and exit with its code."""
    ending(_main, arguments)


def _main(arguments: list[str]) -> int | None:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"audio-distill {_version()}")
        return 0
    if name == "completion":
        from distill.cli.completion import script

        print(script({name: command.about for name, command in COMMANDS.items()}, rest))
        return 0
    if name not in COMMANDS:
        raise ValueError(f"no command {name!r}{_nearest(name)}")
    if {"-h", "--help"} & set(rest) or not (rest or COMMANDS[name].has_options):
        print(help_of(name))
        return 0
    return call(name, rest)


def _version() -> str:
    """Of the package as it was installed, from a tag of its repository."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("audio-distill")
    except PackageNotFoundError:  # sources that nobody installed
        return "0+unknown"


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {near[0]}?" if near else "; `audio-distill --help` lists them"


def call(name: str, arguments: list[str]) -> int | None:
    """Run a command in this process, or where several are wanted in processes of its own."""
    command = COMMANDS[name]
    if command.is_distributed:
        from distill.cli.stages import launch, take_launch_options

        arguments, options = take_launch_options(arguments)
        if options is not None:
            return launch(name, arguments, options)
    if name in ("train", "plan"):
        from distill.cli.stages import in_turn, preparations

        if code := in_turn(preparations(name, arguments)):
            return code
    return call_here(name, arguments)


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [
        "Distil compact Whisper models and audio taggers.",
        "",
        "    audio-distill COMMAND ...",
        "    audio-distill COMMAND --help",
    ]
    for title, group in GROUPS.items():
        lines += ["", title]
        lines += [f"    {name:<{width}}{command.about}" for name, command in group.items()]
    lines += [
        "",
        "RECIPE is a name, a folder or a file. What a run makes is in ./runs/NAME.",
        "Steps that several GPUs share take",
        f"    {LAUNCHING}",
        "",
        "audio-distill completion bash|zsh|fish prints what makes a shell complete these.",
        "audio-distill --version",
    ]
    return "\n".join(lines)


def help_of(name: str) -> str:
    """What `--help` of a command prints."""
    command = COMMANDS[name]
    if command.has_options:
        sys.argv = [f"audio-distill {name}"]
        printed = io.StringIO()
        with redirect_stdout(printed), suppress(SystemExit):
            importlib.import_module(module_of(command)).main(["--help"])
        return reworded(printed.getvalue().strip())
    import ast

    with open(source_of(command), encoding="utf-8") as file:
        text = ast.get_docstring(ast.parse(file.read())) or ""
    return reworded(f"{text}\n{_LAUNCHED}" if command.is_distributed else text)


if __name__ == "__main__":
    main()
