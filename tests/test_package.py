"""What is installed: the packages and the recipes, whole, and nothing else."""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("distill", "eval", "pseudo_label")
RECIPES = "audio_distill_recipes"
NEVER = shutil.ignore_patterns("__pycache__", "*.pyc", "runs", ".*", "*.egg-info", "build", "site")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}


def test_every_folder_of_modules_is_a_package():
    """Others are not installed. Metrics are loaded by their path."""
    for package in PACKAGES:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            assert (folder / "__init__.py").is_file() or "modules" in folder.parts, folder


@pytest.mark.slow
def test_the_wheel(tmp_path):
    """Built as users build it, from sources without a repository; then used without a clone."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NEVER)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation",
                    "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("audio_distill-*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    (facts,) = site.glob("*.dist-info")
    assert {path.name for path in site.iterdir()} == {*PACKAGES, RECIPES, facts.name}
    for package in PACKAGES:
        assert files(site / package) == files(ROOT / package), package
    assert files(site / RECIPES) == files(ROOT / "recipes")
    assert "audio-distill = distill.cli.main:main" in (facts / "entry_points.txt").read_text()
    told = email.message_from_string((facts / "METADATA").read_text())
    assert told["Version"] == "0.1.0" and (facts / "licenses" / "LICENSE").is_file()
    work.mkdir()
    _use(site, work)


def _use(site: Path, work: Path) -> None:
    before = files(site)

    def call(*words: str) -> str:
        ran = subprocess.run([sys.executable, "-P", "-m", "distill", *words], cwd=work, text=True,
                             capture_output=True,
                             env=os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"})
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert str(site / RECIPES / "demo") in call("recipes")
    assert call("--version") == "audio-distill 0.1.0\n"
    assert "392 clips" in call("plan", "demo")
    folder = site / RECIPES / "demo" / "data" / "audio" / "digits"
    sounds = sorted(folder.glob("*.ogg"))
    for number, path in enumerate(sounds[:6]):
        (work / "my" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, work / "my" / "ab"[number % 2])
    call("classes", "my", "data/sounds")
    assert "Plan of own-sounds" in call("plan", "own-sounds")  # of ./data
    names = ("labelled", "unlabelled", "few", "validation", "test")
    call("scenes", "demo-tagger", *(f"sets.{name}.scenes=2" for name in names))
    assert files(work / "runs/demo-tagger/scenes") >= {f"{name}.jsonl" for name in names}
    assert files(site) == before, "something was written into the package"
