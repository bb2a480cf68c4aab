"""A run that is ready to be exported, without training, and runtimes that need no package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from distill.testing import write_tiny_recipe, write_tiny_teacher
from distill.whisper.export import run as run_module
from distill.whisper.export.runtimes import Runtime


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory) -> Path:
    """A folder with `recipe` and `run/student` (the teacher itself); not to be changed."""
    folder = tmp_path_factory.mktemp("export")
    write_tiny_recipe(folder, train=6, test=3)
    write_quiet_student(folder / "run" / "student")
    return folder


def write_quiet_student(folder: Path) -> None:
    """A random Whisper that says letters alone: other runtimes forbid symbols by a list of their
    own, and do not forbid timestamps."""
    from safetensors.torch import load_file, save_file

    path = write_tiny_teacher(folder, decoder_layers=2, encoder_layers=1) / "model.safetensors"
    weights = load_file(path)
    tokens = weights["model.decoder.embed_tokens.weight"]
    tokens[TIMESTAMPS:] = 0
    for index in range(256):
        if not chr(index + ord("!")).isascii() or not chr(index + ord("!")).isalpha():
            tokens[index] = 0
    save_file(weights, path, {"format": "pt"})


TIMESTAMPS = 267  # the id of <|0.00|> in the tiny tokenizer


@pytest.fixture
def student_model(tiny_export):
    """Its model, loaded anew for every test, with attention weights."""
    return WhisperForConditionalGeneration.from_pretrained(
        tiny_export / "run" / "student", dtype=torch.float32, attn_implementation="eager").eval()


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
    """`fake_runtime(transcribe, words, read)`: what the kind `ggml` is run by; it writes one small
    file."""
    def install(transcribe: Callable[[object, str], str], words=None, read=None) -> None:
        def write(student, out: Path) -> None:
            (out / "float16").mkdir()
            (out / "float16" / "weights").write_text("weights")

        runtime = Runtime("numpy", "float16", transcribe, 224, "nothing", words, read)
        monkeypatch.setitem(run_module.PACKAGES, "ggml", ("numpy",))
        monkeypatch.setitem(run_module._WRITERS, "ggml", write)
        monkeypatch.setitem(run_module._RUNTIMES, "ggml",
                            lambda *_: iter([("float16", lambda folder: runtime)]))

    return install
