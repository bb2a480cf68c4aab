"""Two machines, a cable between them, and a folder that both see: labels, scores and training, and
what becomes of them when the cable is cut.

The audio lies on the first machine, behind a server; the second one reads it through the cable.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.data.files import read_jsonl
from distill.data.teacher_store import TeacherStore
from distill.data.teacher_store.report import compare
from distill.data.teacher_store.shard import Record
from distill.testing import write_tiny_recipe
from tests.support.launches import ROOT
from tests.support.range_server import range_server
from tests.support.shards import put_into_shard
from tests.support.two_machines import ADDRESSES, TwoMachines, why_not

REASON = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
NUM_STEPS = 40
OPTIONS = ("pseudo_label.shard_size=2", "pseudo_label.window_seconds=9", "scores.shard_views=4",
           f"train.max_steps={NUM_STEPS}", "train.save_every=1", "train.validate_every=20",
           "train.log_every=1", "train.batch_size=4", "train.micro_batch_size=1")
PATHS = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def machines():
    with TwoMachines() as machines:
        yield machines


@pytest.fixture
def served(machines, tmp_path):
    """The recipe and the server of its audio, which the first machine runs."""
    here = write_tiny_recipe(tmp_path, train=24, validation=2, test=2)
    corpus = here.parent / "corpus"
    with range_server(tmp_path, ADDRESSES[0], lambda make: machines.inside(0, make)) as server:
        put_into_shard(corpus / "train.jsonl", tmp_path / "train.tar", tmp_path / "train.jsonl",
                       f"{server.url}/train.tar")
        recipe = tmp_path / "remote"
        recipe.mkdir()
        (recipe / "recipe.yaml").write_text((here / "recipe.yaml").read_text().replace(
            str(corpus / "train.jsonl"), str(tmp_path / "train.jsonl")))
        yield here, recipe, server


def settled(process: subprocess.Popen, log: Path, seconds: float = 240) -> int:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(log.read_text()) from None


def parts(folder: Path) -> dict[str, list[dict]]:
    return {path.name: read_jsonl(path)
            for path in sorted((folder / "pseudo_labels").glob("part-*.jsonl"))}


def same_stores(run: Path, one: Path) -> None:
    """Of scores and of encoder states: every view once, and in it the same up to rounding."""
    folders = {path.parent for path in one.glob("pseudo_labels/scores/**/shard-*")}
    assert len(folders) == 2
    for folder in folders:
        ours, its = TeacherStore(run / folder.relative_to(one)), TeacherStore(folder)
        views = its.all_rows()
        assert ours.num_views == its.num_views == len(views) > 0
        assert ours.settings == its.settings

        def stored(texts: list[str], ours: TeacherStore = ours) -> list[Record]:
            return [Record(text, ours.read(row))
                    for text, row in zip(texts, ours.rows(texts), strict=True)]

        found = compare(its, views, stored)
        assert found and all(each.relative < 2e-3 and each.agreement > 0.99
                             for each in found.values()), found


def stage(machines, number: int, module: str, recipe: Path, run: Path, folder: Path,
          **environment: str) -> tuple[subprocess.Popen, Path]:
    """One of the commands on one machine; each has a cache of its own."""
    log = folder / f"{module}.{number}.log"
    return machines.start(
        number, [sys.executable, "-m", module, str(recipe), f"output_dir={run}", *OPTIONS], log,
        PYTHONPATH=PATHS, RANK=str(number), WORLD_SIZE="2",
        AUDIO_DISTILL_CACHE=str(folder / f"cache{number}"), **environment), log


def alone(module: str, recipe: Path, run: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", module, str(recipe), f"output_dir={run}", *OPTIONS],
                         env={**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"},
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_labels_and_scores_by_leases(machines, served, tmp_path):
    """The cable is cut while both label. The second machine ends and says why; the first does what
    is left. Rows are those of one process, none twice."""
    here, recipe, server = served
    run = tmp_path / "run"
    server.slow_seconds, server.fault = 0.2, lambda number, path: "slow"
    first, second = (stage(machines, number, "pseudo_label", recipe, run, tmp_path)
                     for number in (0, 1))
    while len(parts(run)) < 2:
        assert first[0].poll() is None, first[1].read_text()
        time.sleep(0.05)
    machines.cut()
    code = settled(*second)
    assert code == 0 or "cannot_open" in second[1].read_text(), second[1].read_text()
    server.fault = lambda number, path: None
    assert settled(*first) == 0, first[1].read_text()
    machines.join()
    if not (run / "pseudo_labels" / "kept.jsonl").exists():  # shards that the second one had
        for lease in (run / "pseudo_labels").glob("*.lease"):
            os.utime(lease, (0, 0))  # ten minutes later
        again = stage(machines, 0, "pseudo_label", recipe, run, tmp_path)
        assert settled(*again) == 0, again[1].read_text()
    one = tmp_path / "one"
    alone("pseudo_label", here, one)
    ids = [row["id"] for rows in parts(run).values() for row in rows]
    assert len(set(ids)) == len(ids) and ids
    texts = ({row["id"]: row["tokens"] for rows in parts(each).values() for row in rows}
             for each in (run, one))
    assert next(texts) == next(texts)
    both = [stage(machines, number, "pseudo_label.scores", recipe, run, tmp_path)
            for number in (0, 1)]
    assert [settled(*each) for each in both] == [0, 0], both[1][1].read_text()
    same_stores(run, one)


def launch(machines, recipe: Path, run: Path, folder: Path) -> list[tuple[subprocess.Popen, Path]]:
    """`accelerate launch` with one rank on each machine."""
    started = []
    for number in (0, 1):
        log = folder / f"train.{number}.log"
        words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2",
                 "--machine_rank", str(number), "--num_processes", "2", "--main_process_ip",
                 ADDRESSES[0], "--main_process_port", "29511", "--mixed_precision", "no", "-m",
                 "distill.train", str(recipe), f"output_dir={run}", *OPTIONS]
        started.append((machines.start(
            number, [sys.executable, *words], log, PYTHONPATH=PATHS, ACCELERATE_USE_CPU="true",
            AUDIO_DISTILL_CACHE=str(folder / f"cache{number}")), log))
    return started


def steps_of(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    rows = read_jsonl(path, may_be_torn=True) if path.is_file() else []
    return [row["step"] for row in rows if row["split"] == "train"]


def first_to_end(launches: list[tuple[subprocess.Popen, Path]]) -> list[int | None]:
    """Codes of those that ended by themselves; the others, which wait for what will never come and
    would do so for half an hour (gloo), are ended."""
    until = time.monotonic() + 120
    while all(process.poll() is None for process, _ in launches):
        assert time.monotonic() < until, launches[0][1].read_text()
        time.sleep(0.1)
    time.sleep(10)
    codes = [process.poll() for process, _ in launches]
    for process, _ in launches:
        process.kill()
        process.wait()
    return codes


def test_training_goes_on_after_the_cable_was_cut(machines, served, tmp_path):
    """In the middle of a step: a machine says so and ends, and the same command goes on."""
    here, recipe, _ = served
    run, one = tmp_path / "run", tmp_path / "one"
    alone("pseudo_label", here, one)
    shutil.copytree(one / "pseudo_labels", run / "pseudo_labels")
    alone("distill.train", here, one)
    began = launch(machines, here, run, tmp_path)
    until = random.randint(3, 10)
    while len(steps_of(run)) < until:
        assert began[0][0].poll() is None, began[0][1].read_text()
        time.sleep(0.02)
    machines.cut()
    codes = first_to_end(began)
    for (_, log), code in zip(began, codes, strict=True):
        if code is not None:
            assert code != 0
            assert re.search("RuntimeError: .*(route|unreachable|timed out|Conn)", log.read_text())
    machines.join()
    again = launch(machines, here, run, tmp_path)
    assert [settled(*each) for each in again] == [0, 0], again[0][1].read_text()
    assert "Resuming from" in again[0][1].read_text()
    assert steps_of(run) == list(range(1, NUM_STEPS + 1))
    student, its = (load_file(each / "student" / "model.safetensors") for each in (run, one))
    assert max(float((student[name] - its[name]).abs().max()) for name in its) < 2e-6
    assert all(weight.dtype == torch.float32 for weight in student.values())
