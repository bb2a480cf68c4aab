"""Every file of recipes/accelerate trains as one process does: here on CPU ranks, by gloo."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

import distill.train
import pseudo_label.__main__
import pseudo_label.scores
from distill.config import TrainConfig
from distill.data.files import read_json, read_jsonl
from distill.training.sharding import check, check_launch
from tests.support.launches import ALL_FILES, arguments_of, needs_deepspeed

pytestmark = pytest.mark.usefixtures("remembered")


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


@pytest.mark.slow
@needs_deepspeed
def test_launch_zero3_with_audio_of_many_lengths(labelled, ranks, tmp_path):
    """What a layer calls depends on the lengths in a rank's batch; DeepSpeed has to bear it."""
    recipe, _ = labelled
    short = ("pseudo_label.packing=none", "views.previous_text_probability=0",
             "teacher.mode=store", "teacher.short_audio_margin=1.0", "train.max_steps=20",
             "train.batch_size=8", "train.micro_batch_size=2", "train.save_every=20",
             "train.validate_every=20")
    whole = arguments_of((recipe, None), tmp_path / "whole", *short)
    pseudo_label.__main__.main(whole)
    pseudo_label.scores.main(whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    distill.train.main(whole)
    run = arguments_of((recipe, None), tmp_path / "run", *short)
    ranks("deepspeed_zero3", 2, run, tmp_path / "log")
    one, two = (load_file(tmp_path / name / "student" / "model.safetensors")
                for name in ("whole", "run"))
    assert max((two[name] - one[name]).abs().max() for name in one) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_goes_on_with_more_and_fewer_ranks(labelled, ranks, one, tmp_path, file):
    launched(labelled, ranks, one, tmp_path / "run", file, (2, 4, 1))
    launched(labelled, ranks, one, tmp_path / "four", file, (4, 2))
