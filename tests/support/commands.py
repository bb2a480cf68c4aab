"""What pages tell a user to type, and whether it can be typed: nothing is started here."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path
from unittest import mock

from distill import methods
from distill.audio_llm.data import no_speech
from distill.cli.commands import COMMANDS
from distill.cli.completion import script
from distill.cli.stages import take_launch_options
from distill.config import find_recipe, load
from distill.data import class_folders, hub_dataset, scenes
from distill.data.speech import read_aloud
from distill.data.teacher_store import __main__ as teacher_store
from pseudo_label import aqa

ROOT = Path(__file__).resolve().parents[2]
NAMES = [path.parent.name for path in (ROOT / "recipes").glob("*/recipe.yaml")]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
VARIABLES = {"SET", "TO", "NGPU"}  # of the Makefile
# RECIPE key=value ...; some take a word besides
RECIPES = {
    "distill.plan": (), "distill.train": (), "distill.hub": (), "distill.export": ("to",),
    "distill.whisper.teacher": (), "eval": (), "eval.family": (), "pseudo_label": (),
    "pseudo_label.filter": (),
    "pseudo_label.on_ray": (), "pseudo_label.push": (), "pseudo_label.scores": (),
    "pseudo_label.sweep": (), "pseudo_label.translate": (), "eval.benchmark.label": (),
    "eval.benchmark.scores": (), "eval.benchmark.train": (), "eval.benchmark.tag": (),
    "eval.benchmark.consistency": ("seeds",), "eval.robustness": (),
    "distill.audio_llm.language_model": (), "eval.audio_llm.doctor": ("model", "split"),
    "eval.prompts": (), "eval.prompts.twin": (), "eval.prompts.cost": ("phrases",),
}
PARSERS = {"distill.ced.convert", "eval.audio_llm.ask", "eval.audio_llm.ltu_as",
           "eval.benchmark.decode", "eval.benchmark.latency", "eval.label_set",
           "eval.linear_probe", "eval.speech.short_audio", "eval.tag", "eval.transcribe"}
RUN_FOLDERS = {"eval.report", "eval.plots"}
NO_ARGUMENTS = {"eval.benchmark.identical", "eval.benchmark.roofline",
                "eval.benchmark.store"}
SHELL = ("", "sh", "bash", "console")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of fenced blocks; "" also of indented ones."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    .*\n)+", rest, re.MULTILINE)
    return [*fenced, *(("", re.sub(r"^    ", "", block, flags=re.M)) for block in indented)]


def spans(text: str) -> list[str]:
    """`Code` in sentences and tables."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[list[str]]:
    """Everything that a page says to type, as words: make, python -m, accelerate, pip."""
    lines = [line for language, code in blocks(text) if language in SHELL
             for line in code.replace("\\\n", " ").splitlines()] + spans(text)
    found = []
    for line in lines:
        line = re.sub(r"\s+#\s.*| {2,}[a-z].*", "", line.strip())
        if match := re.search(r"--wrap\s+'(.*)'", line):  # of sbatch
            line = match[1]
        line = re.sub(r"^(\w+=\S+ )*(\.venv/bin/)?", "", line)
        if re.match(r"(make|audio-distill|python -m|accelerate launch|pip install) \S", line):
            found.append(shlex.split(line))
    return found


def problem(words: list[str]) -> str | None:
    """What is wrong with a command; None if it could be run. The same one is looked at once."""
    return _problem(*words)


@cache
def _problem(*words: str) -> str | None:
    try:
        match words[0]:
            case "python":
                check_module(words[2], list(words[3:]))
            case "accelerate":
                at = words.index("-m")
                if "--config_file" in words:
                    config = words[words.index("--config_file") + 1]
                    assert (ROOT / config).is_file(), f"no file {config}"
                check_module(words[at + 1], list(words[at + 2 :]))
            case "audio-distill":
                check_short(words[1], list(words[2:]))
            case "make":
                check_make(list(words[1:]))
            case "pip":
                check_extra(words[2])
    except (AssertionError, ValueError, SystemExit) as error:
        return f"{shlex.join(words)}: {error}"
    return None


def check_module(module: str, arguments: list[str]) -> None:
    """Its arguments go through its own parser."""
    assert importlib.util.find_spec(module), f"no module {module}"
    arguments = [re.sub(r"\bNAME\b", "demo", each) for each in arguments
                 if each.strip("[]. ") != "key=value"]
    if not arguments or "--help" in arguments:
        return
    if module in RECIPES:
        words = [each for each in arguments[1:] if each.partition("=")[0] not in RECIPES[module]]
        methods.load_recipe(arguments[0], words)
    elif module in PARSERS:
        parse(module, arguments)
    elif module in RUN_FOLDERS:
        assert len(arguments) == 1, f"{module} takes one run folder"
    elif module == "distill.data.scenes":
        path = find_recipe(arguments[0], "scenes.yaml")
        scenes.check_scenes(load(path, scenes.ScenesConfig, arguments[1:]))
    elif module == "pseudo_label.aqa":
        load(find_recipe(arguments[0], "questions.yaml"), aqa.QuestionsConfig, arguments[1:])
    elif module == "distill.data.speech.read_aloud":
        read_aloud.load_config(arguments[0], arguments[1:])
    elif module == "distill.audio_llm.data.no_speech":
        no_speech.load_config(arguments[0], arguments[1:])
    elif module == "distill.cli.stages":
        arguments, _ = take_launch_options(arguments)
        methods.load_recipe(arguments[0], arguments[1:])
    elif module == "distill.data.hub_dataset":
        hub_dataset.parse_options(arguments[2:])
    elif module == "distill.audio_llm.data.question_lists":
        options = {each.partition("=")[0] for each in arguments[2:]}
        assert options <= {"audio", "closed", "answerable"}, options
    elif module == "distill.data.class_folders":
        class_folders.parse_options(arguments[2:])
    elif module == "distill.data.teacher_store":
        try:
            teacher_store.main([arguments[0], "/no store", *arguments[2:]])
        except ValueError as error:
            assert "no teacher store in" in str(error), error
    else:
        assert module in NO_ARGUMENTS or module.startswith("distill.data.samples."), (
            f"say in {Path(__file__).name} how {module} reads its arguments")


def check_short(name: str, arguments: list[str]) -> None:
    """A command of the console script."""
    if name in ("--version", "--help"):
        return
    if name == "completion":
        script({}, arguments[:1])
        return
    assert name in COMMANDS, f"no command {name}"
    if COMMANDS[name].is_distributed:
        arguments, _ = take_launch_options(arguments)
    check_module(COMMANDS[name].module, arguments)


class Parsed(Exception):
    """The arguments are right; nothing else is to happen."""


def parse(module: str, arguments: list[str]) -> None:
    real = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(real(self, args, namespace))

    if importlib.util.find_spec(module).submodule_search_locations:  # a package
        module = f"{module}.__main__"
    main = importlib.import_module(module).main
    with (mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
          mock.patch.object(sys, "argv", [module, *arguments])):
        try:
            main(*([arguments] if inspect.signature(main).parameters else []))
        except Parsed:
            return
    raise AssertionError(f"{module} does not look at its arguments")


def check_make(words: list[str]) -> None:
    """Variables are the Makefile's, and keys in SET are the recipe's; targets: see `targets`."""
    target = words[0]
    for name, _, value in (word.partition("=") for word in words[1:]):
        assert name in VARIABLES, f"the Makefile has no variable {name}"
        recipe = re.sub(r"^NAME\b", "demo", target).partition(".")[0]
        if name == "SET" and recipe in NAMES:
            methods.load_recipe(recipe, value.split())


def check_extra(package: str) -> None:
    if match := re.fullmatch(r"audio-distill\[(\w+)\]", package):
        assert match[1] in EXTRAS, f"no extra {match[1]}"


def targets(text: str) -> set[str]:
    return {words[1] for words in commands(text) if words[0] == "make"}
