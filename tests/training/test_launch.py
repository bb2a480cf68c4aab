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
from distill.whisper.data.view_source import ViewSource
from distill.whisper.recipe import load_recipe
from distill.whisper.teacher import load_teacher
from tests.support.launches import ALL_FILES, OPTIONS, arguments_of, needs_deepspeed

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


@pytest.fixture(scope="module")
def updates(labelled) -> list[list[tuple[int, int]]]:
    """The views (index, epoch) of each update."""
    recipe, run = labelled
    loaded = load_recipe(str(recipe), [f"output_dir={run}", *OPTIONS])
    teacher = load_teacher(loaded.teacher)
    source = ViewSource(loaded, teacher.processor, teacher.model.generation_config, 448)
    return [source.batches.update(step) for step in range(5)]


def trained_on(log: Path, updates: list[list[tuple[int, int]]], count: int) -> None:
    """Every view once; of one rank in the order of the updates."""
    lines = log.with_suffix(".views").read_text().splitlines()
    views = [tuple(map(int, line.split())) for line in lines]
    asked = [view for update in updates for view in update]
    assert len(set(asked)) == len(asked)
    assert views == asked if count == 1 else sorted(views) == sorted(asked)


def launched(labelled, ranks, one: Path, updates, run: Path, file: str, counts: tuple[int, ...]) \
        -> None:
    """Trained on the first number of ranks; from the checkpoint of step 3 on the others."""
    for number, count in enumerate(counts):
        log = run.with_name(f"{run.name}-log{number}")
        if number:
            shutil.rmtree(run / "checkpoints" / "step-000005")
            shutil.rmtree(run / "student")
        ranks(file, count, arguments_of(labelled, run), log)
        assert ("step-000003" in log.read_text()) == bool(number)
        trained_on(log, updates[3:] if number else updates, count)
        same(run, one, file)


def test_launch_ddp(labelled, ranks, one, updates, tmp_path):
    launched(labelled, ranks, one, updates, tmp_path / "run", "ddp", (2, 1))


def test_launch_fsdp(labelled, ranks, one, updates, tmp_path):
    launched(labelled, ranks, one, updates, tmp_path / "run", "fsdp", (2,))


@needs_deepspeed
def test_launch_zero2(labelled, ranks, one, updates, tmp_path):
    launched(labelled, ranks, one, updates, tmp_path / "run", "deepspeed_zero2", (2,))


@needs_deepspeed
def test_launch_zero3(labelled, ranks, one, updates, tmp_path):
    launched(labelled, ranks, one, updates, tmp_path / "run", "deepspeed_zero3", (2,))


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


# states of clips at their own lengths: what a layer computes depends on those in a rank's batch
SHORT = ("pseudo_label.packing=none", "views.previous_text_probability=0", "teacher.mode=store",
         "teacher.short_audio_margin=1.0", "train.max_steps=20", "train.batch_size=8",
         "train.micro_batch_size=2", "train.save_every=20", "train.validate_every=20")
FROZEN = ["positions", "feed_forward", "embeddings,feed_forward"]
ENCODER = ("student.freeze_encoder=false", "train.gradient_checkpointing=true")


@pytest.fixture(scope="module")
def short_labels(labelled, tmp_path_factory) -> Path:
    """Labels, scores and states for SHORT."""
    run = tmp_path_factory.mktemp("short") / "run"
    arguments = arguments_of((labelled[0], None), run, *SHORT)
    pseudo_label.__main__.main(arguments)
    pseudo_label.scores.main(arguments)
    return run


@pytest.fixture(scope="module", params=FROZEN)
def frozen(request, labelled, short_labels, tmp_path_factory) -> tuple[tuple[str, ...], Path]:
    """Options of a decoder that is frozen in part, and the run of one process."""
    parts = request.param.split(",")
    options = (*SHORT, *(f"student.freeze_{part}={str(part in parts).lower()}"
                         for part in ("positions", "feed_forward", "embeddings")))
    return options, alone((labelled[0], short_labels), tmp_path_factory, options)


@pytest.fixture(scope="module")
def with_encoder(labelled, tmp_path_factory) -> Path:
    """A run of one process that trains the encoder, too."""
    return alone(labelled, tmp_path_factory, ENCODER)


def alone(labelled, tmp_path_factory, options: tuple[str, ...]) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main(arguments_of(labelled, run, *options))
    return run


def apart(run: Path, other: Path) -> float:
    """The most that two students differ by."""
    one, two = (load_file(each / "student" / "model.safetensors") for each in (run, other))
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES[1:])
def test_launch_with_a_decoder_that_is_frozen_in_part_and_audio_of_many_lengths(
    labelled, short_labels, frozen, ranks, tmp_path, file
):
    """DeepSpeed expects all ranks to call the same modules, and hangs otherwise."""
    options, one = frozen
    ranks(file, 2, arguments_of((labelled[0], short_labels), tmp_path / "run", *options),
          tmp_path / "log")
    assert apart(tmp_path / "run", one) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_that_trains_the_encoder_too(labelled, with_encoder, ranks, tmp_path, file):
    """What weights are cut for; layers of the decoder are computed again, going backward."""
    ranks(file, 2, arguments_of(labelled, tmp_path / "run", *ENCODER), tmp_path / "log")
    assert apart(tmp_path / "run", with_encoder) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_goes_on_with_more_and_fewer_ranks(labelled, ranks, one, updates, tmp_path, file):
    launched(labelled, ranks, one, updates, tmp_path / "run", file, (2, 4, 1))
    launched(labelled, ranks, one, updates, tmp_path / "four", file, (4, 2))
