"""The training loop on a tiny model: spread, resumed, stopped, averaged."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import distill.train
import pseudo_label.__main__
from distill.config import TrainConfig
from distill.data.files import read_jsonl
from distill.testing import write_tiny_recipe
from distill.training.loop import learning_rate

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("remembered")


def environment(**extra: str) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "RANK"))}
    return {**keep, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **extra}


WINDOWS = ("pseudo_label.shard_size=4", "pseudo_label.window_seconds=9")
# about 7 views an update; 3 to 5 micro-batches if there is room for one or two views
TOKENS = ("train.batch_tokens=160",)
BATCHES = {
    "fixed": ((), [f"train.micro_batch_size={size}" for size in (4, 2, 1)]),
    "tokens": (TOKENS, [f"train.micro_batch_tokens={size}" for size in (160, 80, 40)]),
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, run folder with labels, scored for all that is trained here)."""
    folder = tmp_path_factory.mktemp("loop")
    recipe = write_tiny_recipe(folder, train=24, validation=3, test=4)
    arguments = [str(recipe), f"output_dir={folder / 'run'}", *WINDOWS, "train.max_steps=12"]
    pseudo_label.__main__.main(arguments)
    pseudo_label.scores.main([*arguments, *TOKENS])
    return recipe, folder / "run"


def new_run(labelled, target: Path, *overrides: str) -> list[str]:
    """Make a copy of the labelled run; returns the arguments that train it."""
    recipe, run = labelled
    target.mkdir()
    (target / "pseudo_labels").symlink_to(run / "pseudo_labels")
    return [str(recipe), f"output_dir={target}", *WINDOWS, *overrides]


def train(labelled, tmp_path: Path, name: str, *overrides: str) -> Path:
    """Train a copy of the labelled run, in this process: starting one costs more than the
    training; returns its folder."""
    train_here(new_run(labelled, tmp_path / name, *overrides))
    return tmp_path / name


def train_here(arguments: list[str]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    distill.train.main(arguments)
    torch.set_num_threads(threads)


def launch_two(module: str, arguments: list[str], log: Path) -> None:
    """As users do; all other tests fork."""
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m")
    done = subprocess.run([sys.executable, *launcher, module, *arguments], text=True,
                          env=environment(ACCELERATE_USE_CPU="true"), capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def validations(run: Path) -> list[dict]:
    return [row for row in read_jsonl(run / "metrics.jsonl") if row.pop("split") == "validation"]


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


SHORT_AUDIO = "live teacher.short_audio_margin=0.5"  # clips of several lengths in each batch
THREE_STEPS = ("train.max_steps=3", "train.validate_every=3", "train.save_every=3")


def how_far(run: Path, teacher: Path) -> float:
    """From the teacher's first layer, with which the student's begins."""
    first, found = load_file(teacher / "model.safetensors"), weights(run)
    names = [name for name in found if "decoder.layers.0." in name]
    return largest_difference({name: found[name] for name in names},
                              {name: first[name] for name in names})


@pytest.mark.parametrize(("mode", "batches", "launched"), [
    ("store", "tokens", False), (SHORT_AUDIO, "fixed", False),
    pytest.param("live", "fixed", False, marks=pytest.mark.slow),  # test_launch_ddp says it, too
    pytest.param("store", "tokens", True, marks=pytest.mark.slow)])
def test_ranks_and_accumulation_give_the_same_parameters(
    labelled, fork_two, tmp_path, mode, batches, launched
):
    budget, (whole, half, quarter) = BATCHES[batches]
    common = (*THREE_STEPS, *budget, *f"teacher.mode={mode}".split())
    said = labelled[1] / "pseudo_labels" / "validation_tokens.jsonl"
    one = train(labelled, tmp_path, "1x4", *common, whole)
    four = train(labelled, tmp_path, "4x1", *common, quarter)
    before = said.read_bytes()
    said.unlink()  # two ranks share the work
    two = tmp_path / "2x2"
    spread = launch_two if launched else fork_two
    spread("distill.train", new_run(labelled, two, *common, half), tmp_path / "log")
    assert said.read_bytes() == before
    for alone, shared in zip(validations(one), validations(two), strict=True):
        assert shared == pytest.approx(alone, rel=1e-4) and 0 < alone["acceptance"] < 1
    moved = how_far(one, labelled[0].parent / "teacher")
    assert moved > 1e-3, "the test would pass on a loop that does nothing"
    # a clip by itself is not padded to the longest of its batch, nor shares its silence with it:
    # other kernels, which add in other orders
    limit = 3e-6 if mode == SHORT_AUDIO else 1e-6
    assert largest_difference(weights(one), weights(four)) < limit
    assert largest_difference(weights(one), weights(two)) < limit


def test_token_budgets_are_split_for_real(labelled):
    """What the test above is worth."""
    recipe, run = labelled
    counts = []
    for option in BATCHES["tokens"][1]:
        batches = view_source(recipe, run, *TOKENS, option).batches
        counts.append([len(batches.micro_batches(step, 0, 1)) for step in range(3)])
    assert counts[0] == [1, 1, 1] and min(counts[2]) >= 3
    assert all(few <= many for few, many in zip(counts[1], counts[2], strict=True))
    assert {len(batches.update(step)) for step in range(12)} > {5}, "updates differ in size"


def view_source(recipe: Path, run: Path, *overrides: str):
    from distill.whisper.data.view_source import ViewSource
    from distill.whisper.recipe import load_recipe
    from distill.whisper.teacher import load_teacher

    loaded = load_recipe(recipe, [f"output_dir={run}", *WINDOWS, *overrides])
    teacher = load_teacher(loaded.teacher)
    return ViewSource(loaded, teacher.processor, teacher.model.generation_config, 448)


def test_a_store_that_lacks_views_is_refused(labelled, tmp_path):
    with pytest.raises(ValueError, match=r"views are missing.*`make NAME.label`"):
        train(labelled, tmp_path, "more", "train.max_steps=99")


def test_processes_that_do_not_know_each_other_are_refused(labelled, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes .* accelerate sees 1; .*ACCELERATE_USE_CPU"):
        train(labelled, tmp_path, "alone")


# Token budgets are resumed by SIGINT, fixed batches by SIGKILL.
RESUMED = ("train.max_steps=12", "train.validate_every=5", "train.average_decay=0.9")


@pytest.fixture(scope="module")
def whole(labelled, tmp_path_factory) -> Path:
    """An uninterrupted run of RESUMED."""
    return train(labelled, tmp_path_factory.mktemp("whole"), "whole", *RESUMED)


def same_student(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in (one / "student").iterdir())
    assert names == sorted(path.name for path in (other / "student").iterdir())
    return all(
        (one / "student" / name).read_bytes() == (other / "student" / name).read_bytes()
        for name in names
    )


def test_sigkill_at_random_moments_changes_nothing(labelled, whole, fork, tmp_path):
    """Three kills, each at a random moment after the first step of its process."""
    target, log = tmp_path / "killed", tmp_path / "log"
    arguments = new_run(labelled, target, *RESUMED, "train.save_every=1")
    moments = random.Random(int(time.time()))
    kills = 0
    for _ in range(3):
        metrics = target / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.is_file() else 0
        process = fork("distill.train", arguments, log)
        while process.is_alive() and not (
            metrics.is_file() and metrics.stat().st_mtime_ns > before
        ):
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 2, "the run was over before it could be killed"
    last = fork("distill.train", arguments, log)
    last.join(120)
    assert last.exitcode == 0, log.read_text()
    assert same_student(target, whole)
    steps = [r["step"] for r in read_jsonl(target / "metrics.jsonl") if r["split"] == "train"]
    assert steps == list(range(1, 13))
    assert not list((target / "checkpoints").glob(".*"))


def test_sigint_saves_and_the_next_run_ends_with_the_same_weights(labelled, fork, tmp_path):
    options = (*RESUMED, *TOKENS, *f"teacher.mode={SHORT_AUDIO}".split(), "train.max_steps=8")
    whole = train(labelled, tmp_path, "whole", *options)
    target = tmp_path / "stopped"
    arguments = new_run(labelled, target, *options, "train.save_every=100")
    process = fork("distill.train", arguments, tmp_path / "log")
    log = target / "metrics.jsonl"
    while not (log.is_file() and log.read_text().count("\n") >= 3):
        assert process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert not (target / "student").exists()
    assert len(list((target / "checkpoints").glob("step-*"))) == 1
    train_here([*arguments, "train.micro_batch_tokens=80"])
    assert largest_difference(weights(target), weights(whole)) < 1e-6


def test_metrics_are_in_order_and_complete(whole):
    rows = read_jsonl(whole / "metrics.jsonl")
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, 13))
    assert [r["step"] for r in rows if r["split"] == "validation"] == [5, 10, 12]
    for row in rows:
        if row["split"] == "train":
            mean = 0.8 * row["ce"] + 1.0 * 4 * row["kl"]
            assert math.isclose(row["loss"], mean, rel_tol=1e-4)


def test_other_settings_do_not_resume(labelled, whole):
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe, _ = labelled
    with pytest.raises(ValueError, match="other settings"):
        distill.train.main([str(recipe), f"output_dir={whole}", *WINDOWS, *RESUMED,
                            "teacher.mode=live", "loss.temperature=3.0"])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
def test_learning_rate(schedule):
    config = TrainConfig(max_steps=100, warmup_steps=10, schedule=schedule, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert 0 < rates[0] < 0.1
    assert rates[10] == pytest.approx(1.0)
    assert (rates[99] == 1.0) == (schedule == "constant_with_warmup")
    assert rates[99] > 0, "the last step must still learn"


@pytest.mark.parametrize(("keep_best", "kept", "step"), [(True, [1, 2], 2), (False, [1, 2, 3], 3)])
def test_the_student_is_the_best_or_the_last(keep_best, kept, step):
    from types import SimpleNamespace

    from distill.training.checkpoint import State
    from distill.training.loop import _validate

    saved, state = [], State()
    checkpoints = SimpleNamespace(save_student=lambda name, save: saved.append(state.step))
    for number, score in enumerate([0.5, 0.4, 0.6], 1):
        state.step = number
        task = SimpleNamespace(validate=lambda score=score: {"score": score}, save=None)
        _validate(task, SimpleNamespace(is_main_process=True), state, checkpoints,
                  SimpleNamespace(write=lambda row: None), keep_best)
    assert saved == kept
    assert state.best_step == step and state.best_score == [0.5, 0.4, 0.6][step - 1]


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_muon_is_refused_where_weights_are_sharded(kind, tmp_path):
    from types import SimpleNamespace

    from accelerate.utils import DistributedType

    from distill.training.loop import fit

    with pytest.raises(ValueError, match="muon needs whole matrices"):
        fit(SimpleNamespace(model=None), TrainConfig(optimizer="muon"),
            SimpleNamespace(distributed_type=DistributedType[kind]), tmp_path, "")
