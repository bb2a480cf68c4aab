"""A run that is ready to be exported, without training, and runtimes that need no package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.testing import write_tiny_recipe
from distill.whisper.export import run as run_module
from distill.whisper.export.runtimes import Runtime


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory) -> Path:
    """A folder with `recipe` and `run/student` (the teacher itself); not to be changed."""
    folder = tmp_path_factory.mktemp("export")
    write_tiny_recipe(folder, train=12, test=3)
    shutil.copytree(folder / "teacher", folder / "run" / "student")
    return folder


@pytest.fixture
def tiny_run(tiny_export, tmp_path) -> Path:
    """A run of its own for a test."""
    shutil.copytree(tiny_export / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def recipe(tiny_export, tiny_run):
    """`recipe(*overrides)` of that run."""
    from distill.whisper.recipe import load_recipe

    def load(*overrides: str):
        return load_recipe(tiny_export / "recipe", [f"output_dir={tiny_run}", *overrides])

    return load


@pytest.fixture
def fake_runtime(monkeypatch) -> Callable[..., None]:
    """`fake_runtime(transcribe)`: what the kind `ggml` is run by; it writes one small file."""
    def install(transcribe: Callable[[object, str], str], words=None) -> None:
        def write(student, out: Path) -> None:
            (out / "float16").mkdir()
            (out / "float16" / "weights").write_text("weights")

        runtime = Runtime("numpy", "float16", transcribe, 224, "nothing", words)
        monkeypatch.setitem(run_module.PACKAGES, "ggml", ("numpy",))
        monkeypatch.setitem(run_module._WRITERS, "ggml", write)
        monkeypatch.setitem(run_module._RUNTIMES, "ggml",
                            lambda *_: iter([("float16", lambda folder: runtime)]))

    return install
