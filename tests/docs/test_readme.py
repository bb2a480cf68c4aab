"""README.md, the recipes' READMEs and docs/ promise nothing that is not there: commands, files."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from distill.whisper.recipe_sections import PseudoLabelConfig
from tests.support.commands import NAMES, commands, problem, targets

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
READMES = [README, *sorted((ROOT / "recipes").rglob("README.md"))]
PAGES = [*READMES, *sorted((ROOT / "docs").rglob("*.md"))]
KEYS = {f"pseudo_label.{each.name}" for each in fields(PseudoLabelConfig)}  # no modules
MAX_LINES = 150


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def generic(target: str) -> str:
    """demo.train -> NAME.train."""
    for name in sorted(NAMES, key=len, reverse=True):
        if target == name or target.startswith(f"{name}."):
            return "NAME" + target.removeprefix(name)
    return target


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_can_be_typed(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert not [found for words in commands(read(path)) if (found := problem(words))]


def test_targets_exist():
    wanted = {target for path in PAGES for target in targets(read(path))}
    ran = make("-n", *(re.sub(r"^NAME\b", "demo-tagger", target) for target in sorted(wanted)))
    assert ran.returncode == 0, ran.stderr


def test_what_is_found():
    """The tests above look at something."""
    text = read(README)
    assert {"demo", "test"} <= targets(text)
    everything = [words for path in PAGES for words in commands(read(path))]
    modules = {words[2] for words in everything if words[0] == "python"}
    assert {"distill.data.hub_dataset", "eval.transcribe", "pseudo_label"} <= modules
    assert any(words[0] == "accelerate" for words in everything)


@pytest.mark.parametrize("command", [
    "make demo SET=train.max_step=1", "make demo GPUS=2", "python -m distill.nothing",
    "python -m eval.transcribe a.wav --models x", "python -m distill.plan demoo",
    "python -m distill.data.hub_dataset a b langage=en", "pip install audio-distill[nothing]",
    "python -m distill.data.class_folders a b sed=1", "python -m distill.export demo too=ct2",
    "python -m distill.data.teacher_store stat runs/demo",
    "accelerate launch --config_file recipes/accelerate/none.yaml -m distill.train demo",
    "audio-distill trian demo", "audio-distill plan demoo", "audio-distill completion tcsh",
    "audio-distill train demo --num-processes x", "audio-distill report runs/a runs/b",
    "audio-distill run demo train.max_step=1", "python -m distill.data.scenes demo-tagger seeds=1"])
def test_commands_that_cannot_be_typed_are_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    (words,) = commands(f"`{command}`")
    assert problem(words)


def test_what_is_planned_is_there_before():
    """A fresh clone has no scenes to count."""
    assert "distill.data.scenes recipes/demo-tagger" in make("-n", "demo-tagger.plan").stdout
    assert "distill.data.scenes" not in make("-n", "demo.plan").stdout


def test_help_and_pages_agree():
    printed = set(re.findall(r"^make (\S+)", make("help").stdout, re.MULTILINE))
    documented = {generic(target) for path in PAGES for target in targets(read(path))}
    reference = set(map(generic, targets(read(ROOT / "docs/reference/commands.md"))))
    assert documented - {"help"} == printed == reference - {"help"}


def test_links_lead_somewhere():
    for path in PAGES:
        text = re.sub(r"^```.*?^```", "", read(path), flags=re.MULTILINE | re.DOTALL)
        links = re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text)
        links += [(link, "") for link in re.findall(r'src="([^":]+)"', text)]
        for link, anchor in links:
            target = path.parent / link if link else path
            assert target.exists(), f"{path}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", read(target), re.MULTILINE)
                slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
                         for title in titles}
                assert anchor in slugs, f"{path}: {link}#{anchor}"


def test_paths_and_modules_are_there():
    """What pages name of the code is in it."""
    for path in PAGES:
        text = read(path)
        for name in re.findall(r"(?<![\w/.])(?:distill|pseudo_label|eval|tests)/[\w/]*\.py", text):
            assert (ROOT / name).is_file(), f"{path}: {name}"
        for name in re.findall(r"(?<![\w/.])(?:distill|pseudo_label|eval)\.[a-z][\w.]*\w", text):
            where = ROOT / name.replace(".", "/")
            places = (where, where.with_suffix(".py"), where.parent.with_suffix(".py"))
            assert name in KEYS or any(map(Path.exists, places)), f"{path}: {name}"


def test_readme_is_short():
    assert len(read(README).splitlines()) <= MAX_LINES
