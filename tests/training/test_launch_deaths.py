"""A rank that is killed: the launch ends and says why, and the same command goes on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from distill.data.files import read_jsonl
from tests.support.launches import ALL_FILES, FILES, ROOT, arguments_of

NUM_STEPS, NUM_DEATHS = 60, 5
STEPS = (f"train.max_steps={NUM_STEPS}", "train.save_every=1", "train.validate_every=20")
PATHS = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("remembered")]


@pytest.fixture(scope="module")
def whole(labelled, ranks, tmp_path_factory) -> Path:
    """A run that nobody killed; that all launchers agree is tested elsewhere."""
    run = tmp_path_factory.mktemp("whole") / "run"
    ranks("ddp", 2, arguments_of(labelled, run, *STEPS), run.with_suffix(".log"))
    return run


def launch(file: str, arguments: list[str], log: Path, *options: str) -> subprocess.Popen:
    """`accelerate launch` with two ranks."""
    words = ("-m", "accelerate.commands.launch", "--config_file", str(FILES / f"{file}.yaml"),
             "--num_processes", "2", *options, "-m", "tests.support.cpu_ranks", *arguments)
    with open(log, "w") as out:
        return subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=out, stderr=out,
            env={**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1",
                 # or ranks that begin again look for those before them, where these have written
                 "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})


def steps_of(run: Path) -> list[int]:
    """Steps that were written down, and not forgotten."""
    path = run / "metrics.jsonl"
    rows = read_jsonl(path, may_be_torn=True) if path.is_file() else []
    return [row["step"] for row in rows if row["split"] == "train"]


def kill_a_rank(running: subprocess.Popen, run: Path, log: Path) -> tuple[int, list]:
    """At a random moment of the steps to come; returns whom, and all processes of the launch."""
    begun = (steps_of(run) or [0])[-1] + random.randint(1, 6)
    while (steps_of(run) or [0])[-1] < begun:
        assert running.poll() is None, log.read_text()
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 0.3))
    children = psutil.Process(running.pid).children(recursive=True)
    victim = random.choice([each for each in children if "RANK" in each.environ()])
    victim.kill()
    return victim.pid, children


def went_as(run: Path, whole: Path) -> None:
    """Every step once, and the same student."""
    assert steps_of(run) == list(range(1, NUM_STEPS + 1))
    student, its = (load_file(folder / "student" / "model.safetensors") for folder in (run, whole))
    assert max((student[name] - its[name]).abs().max() for name in its) < 2e-6


@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_ends_when_a_rank_is_killed(labelled, ranks, whole, tmp_path, file):
    """By SIGKILL, again and again; at last one rank alone goes on to the end."""
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = arguments_of(labelled, run, *STEPS)
    for _ in range(NUM_DEATHS):
        running = launch(file, arguments, log)
        victim, children = kill_a_rank(running, run, log)
        assert running.wait(60) != 0
        assert f"Signal 9 (SIGKILL) received by PID {victim}" in log.read_text()
        assert not [each for each in children if each.is_running()], "a rank lives on"
    ranks(file, 1, arguments, tmp_path / "last")
    assert "Resuming from" in (tmp_path / "last").read_text()
    went_as(run, whole)


@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_begins_again_where_the_launcher_is_asked_to(labelled, whole, tmp_path, file):
    """`--max_restarts`: by itself, from the last checkpoint."""
    run, log = tmp_path / "run", tmp_path / "log"
    running = launch(file, arguments_of(labelled, run, *STEPS), log, "--max_restarts", "2",
                     "--rdzv_backend", "c10d")
    for _ in range(2):
        kill_a_rank(running, run, log)
    assert running.wait(240) == 0, log.read_text()
    assert log.read_text().count("Resuming from") >= 2
    went_as(run, whole)
