"""Every file of recipes/accelerate trains as one process does: here on CPU ranks, by gloo."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

import distill.train
import pseudo_label.__main__
from distill.config import TrainConfig
from distill.data.files import read_json, read_jsonl
from distill.testing import write_tiny_recipe
from distill.training.sharding import check, check_launch
from tests.support.cpu_ranks import launch_environment

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "recipes" / "accelerate"
PATHS = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
pytestmark = pytest.mark.usefixtures("remembered")
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed (DS_BUILD_OPS=0 pip install 'audio-distill[deepspeed]')")

WINDOWS = ("pseudo_label.shard_size=4", "pseudo_label.window_seconds=9")
# gradients of these are longer than the limit, so that clipping that is not global shows
OPTIONS = (*WINDOWS, "teacher.mode=live", "train.max_steps=5", "train.validate_every=5",
           "train.save_every=3", "train.log_every=1", "train.average_decay=0.9",
           "train.batch_size=4", "train.micro_batch_size=1", "train.max_grad_norm=0.5")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, run folder with labels)."""
    folder = tmp_path_factory.mktemp("launch")
    recipe = write_tiny_recipe(folder, train=16, validation=3, test=4)
    pseudo_label.__main__.main([str(recipe), f"output_dir={folder / 'run'}", *OPTIONS])
    return recipe, folder / "run"


def arguments_of(labelled, target: Path, *overrides: str) -> list[str]:
    recipe, run = labelled
    target.mkdir(exist_ok=True)
    if not (target / "pseudo_labels").exists():
        (target / "pseudo_labels").symlink_to(run / "pseudo_labels")
    return [str(recipe), f"output_dir={target}", *OPTIONS, *overrides]


@pytest.fixture(scope="module")
def one(labelled, tmp_path_factory) -> Path:
    """A run of one process."""
    target = tmp_path_factory.mktemp("one") / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    distill.train.main(arguments_of(labelled, target))
    torch.set_num_threads(threads)
    return target


@pytest.fixture(scope="module")
def ranks(fork):
    """`ranks(file, count, arguments, log)`: processes with what `accelerate launch` would set."""

    def ranks(file: str, count: int, arguments: list[str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        together = {**launch_environment(FILES / f"{file}.yaml", count), "MASTER_PORT": port,
                    "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        processes = [fork("tests.support.cpu_ranks", arguments, log, **together, RANK=str(rank),
                          LOCAL_RANK=str(rank)) for rank in range(count)]
        for process in processes:
            process.join(240)
            assert process.exitcode == 0, log.read_text()

    return ranks


# what tells that it was launched as was asked for
WRITTEN = {"ddp": "model.safetensors", "fsdp": "pytorch_model_fsdp.bin",
           "deepspeed_zero2": "zero.pt", "deepspeed_zero3": "zero.pt"}


def same(run: Path, one: Path, file: str) -> None:
    """What two runs with equal results have."""
    assert (run / "checkpoints" / "step-000005" / WRITTEN[file]).is_file()
    rows, expected = (read_jsonl(folder / "metrics.jsonl") for folder in (run, one))
    assert [(row["split"], row["step"]) for row in rows] == [
        *(("train", step) for step in range(1, 6)), ("validation", 5)], "written once"
    for row, its in zip(rows, expected, strict=True):
        kept = {key: value for key, value in row.items() if key != "seconds"}
        assert kept == pytest.approx({key: its[key] for key in kept}, abs=1e-5)
    student, its = (load_file(folder / "student" / "model.safetensors") for folder in (run, one))
    assert student.keys() == its.keys()
    for name, weight in student.items():
        assert weight.dtype == torch.float32
        assert (weight - its[name]).abs().max() < 1e-6, name
    WhisperForConditionalGeneration.from_pretrained(run / "student")
    assert read_json(run / "student.json")["best_step"] == 5
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {"best", "step-000003", "step-000005"}


def went_on(labelled, ranks, run: Path, one: Path, file: str, count: int) -> None:
    """From the checkpoint of step 3, on as many ranks."""
    shutil.rmtree(run / "checkpoints" / "step-000005")
    shutil.rmtree(run / "student")
    ranks(file, count, arguments_of(labelled, run), run / "log")
    assert "step-000003" in (run / "log").read_text()
    same(run, one, file)


def launched(labelled, ranks, one: Path, run: Path, file: str, counts: tuple[int, ...]) -> None:
    """Trained on the first number of ranks, resumed on the others."""
    first, *others = counts
    ranks(file, first, arguments_of(labelled, run), run.with_suffix(".log"))
    same(run, one, file)
    for count in others:
        went_on(labelled, ranks, run, one, file, count)


def test_launch_ddp(labelled, ranks, one, tmp_path):
    launched(labelled, ranks, one, tmp_path / "run", "ddp", (2, 1))


def test_launch_fsdp(labelled, ranks, one, tmp_path):
    launched(labelled, ranks, one, tmp_path / "run", "fsdp", (2, 1))


@needs_deepspeed
def test_launch_zero2(labelled, ranks, one, tmp_path):
    launched(labelled, ranks, one, tmp_path / "run", "deepspeed_zero2", (2,))


@needs_deepspeed
def test_launch_zero3(labelled, ranks, one, tmp_path):
    launched(labelled, ranks, one, tmp_path / "run", "deepspeed_zero3", (2,))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_launch_files_that_accelerate_leaves_out_in_silence_are_refused(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    ranks = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=f"asks for {name}, and accelerate gives MULTI_CPU on cpu"):
        check_launch(ranks)


def test_fp16_is_refused_with_deepspeed():
    ranks = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
    with pytest.raises(ValueError, match="mixed_precision: DeepSpeed's fp16"):
        check(TrainConfig(mixed_precision="fp16"), ranks)


ALL_FILES = ["ddp", "fsdp", *(pytest.param(f"deepspeed_zero{stage}", marks=needs_deepspeed)
                              for stage in (2, 3))]


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_goes_on_with_more_and_fewer_ranks(labelled, ranks, one, tmp_path, file):
    launched(labelled, ranks, one, tmp_path / "run", file, (2, 4, 1))
    launched(labelled, ranks, one, tmp_path / "four", file, (4, 2))


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_ends_when_a_rank_is_killed(labelled, ranks, tmp_path, file):
    """By SIGKILL, at a random moment; the same command goes on, here on fewer ranks."""
    steps = ("train.max_steps=30", "train.save_every=1", "train.validate_every=10")
    run, whole = tmp_path / "run", tmp_path / "whole"
    ranks(file, 2, arguments_of(labelled, whole, *steps), whole.with_suffix(".log"))
    arguments = arguments_of(labelled, run, *steps)
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(FILES / f"{file}.yaml"),
                "--num_processes", "2", "-m", "tests.support.cpu_ranks")
    with open(tmp_path / "log", "w") as log:
        launch = subprocess.Popen([sys.executable, *launcher, *arguments], cwd=ROOT, stdout=log,
                                  stderr=log, env={**os.environ, "PYTHONPATH": PATHS,
                                                   "OMP_NUM_THREADS": "1"})
    while not (run / "metrics.jsonl").is_file() or "\n" not in (run / "metrics.jsonl").read_text():
        assert launch.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    time.sleep(random.uniform(0.0, 1.0))
    children = psutil.Process(launch.pid).children(recursive=True)
    victim = random.choice([each for each in children if "RANK" in each.environ()])
    victim.kill()
    assert launch.wait(60) != 0
    assert f"Signal 9 (SIGKILL) received by PID {victim.pid}" in (tmp_path / "log").read_text()
    assert not [each for each in children if each.is_running()], "a rank lives on"
    ranks(file, 1, arguments, run / "log")
    student, its = (load_file(folder / "student" / "model.safetensors") for folder in (run, whole))
    assert max((student[name] - its[name]).abs().max() for name in its) < 2e-6
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 31))
