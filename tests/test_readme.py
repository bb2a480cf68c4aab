"""READMEs promise nothing that is not there: targets, modules, files."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", *sorted((ROOT / "recipes").rglob("README.md"))]
NAMES = [path.parent.name for path in (ROOT / "recipes").glob("*/recipe.yaml")]


def code(path: Path) -> str:
    """Blocks and `spans` of code, the only places where a command is a command."""
    text = path.read_text(encoding="utf-8")
    blocks = text.split("```")[1::2]
    spans = [s for prose in text.split("```")[::2] for s in re.findall(r"`([^`]+)`", prose)]
    return "\n".join([*blocks, *spans])


def targets(path: Path) -> set[str]:
    return set(re.findall(r"\bmake ([\w-][\w.-]*)", code(path)))


def modules(path: Path) -> set[str]:
    return set(re.findall(r"(?:python|launch\b.*?) -m ([\w.]+)", code(path).replace("\\\n", " ")))


def generic(target: str) -> str:
    """demo.train -> NAME.train."""
    for name in sorted(NAMES, key=len, reverse=True):
        if target == name or target.startswith(f"{name}."):
            return "NAME" + target.removeprefix(name)
    return target


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_and_modules_exist(path):
    for target in targets(path):
        ran = make("-n", re.sub(r"^NAME\b", "demo-tagger", target))
        assert ran.returncode == 0, f"make {target}: {ran.stderr}"
    for module in modules(path):
        assert importlib.util.find_spec(module), f"python -m {module}"


def test_what_is_found_in_the_readme():
    assert {"demo", "test", "NAME.plan", "distil-large-v3.train"} <= targets(READMES[0])
    assert {"distill.data.hub_dataset", "distill.train"} <= modules(READMES[0])


def test_what_is_planned_is_there_before():
    """A fresh clone has no scenes to count."""
    assert "distill.data.scenes recipes/demo-tagger" in make("-n", "demo-tagger.plan").stdout
    assert "distill.data.scenes" not in make("-n", "demo.plan").stdout


def test_help_and_readme_agree():
    printed = set(re.findall(r"^make (\S+)", make("help").stdout, re.MULTILINE))
    documented = {generic(target) for path in READMES for target in targets(path)}
    assert documented == printed


def test_the_tree_is_the_one_that_is_there():
    tree = READMES[0].read_text(encoding="utf-8").split("## What is where\n\n```\n")[1]
    folders: list[str] = []
    listed = set()
    for line in tree.split("```")[0].splitlines():
        name = line.split()[0]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        listed.add("".join([*folders, name]))
        assert (ROOT / "".join([*folders, name])).exists(), name
        if name.endswith("/"):
            folders.append(name)
    for package in ("distill", "pseudo_label", "eval"):
        for path in (ROOT / package).glob("**/*.py"):
            name = str(path.relative_to(ROOT))
            if not path.name.startswith("__") and "/modules/" not in name:
                assert name in listed, f"README.md does not mention {name}"


def test_links_lead_somewhere():
    for path in READMES:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path}: {link}"
