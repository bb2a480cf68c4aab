"""Launches of the demo's own teacher, whisper-base, on two CPU ranks, beside one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import distill.train
import pseudo_label.__main__
from distill.data.files import read_jsonl, write_jsonl
from tests.support.launches import ALL_FILES, ROOT

pytestmark = pytest.mark.slow
NUM_STEPS = 2
# padded to 30 s: short audio and a live teacher do not go with FSDP
OPTIONS = (
    "data.validation=[]", "data.test=[]", "teacher.mode=live", "teacher.short_audio_margin=null",
    "pseudo_label.clips_alone=false", "pseudo_label.window_seconds=10", "filter.max_wer=null",
    "loss.ce_weight=0.8", "loss.kl_weight=1", "train.batch_tokens=null",
    "train.micro_batch_tokens=null", "train.batch_size=4", "train.micro_batch_size=2",
    f"train.max_steps={NUM_STEPS}", "train.save_every=2", "train.log_every=1",
    "train.validate_every=2", "train.average_decay=0.9", "num_threads=1")


@pytest.fixture(scope="module")
def labels(demo_teacher, demo_data, tmp_path_factory) -> tuple[list[str], Path]:
    """Arguments of a run of some clips, and the folder of its labels."""
    folder = tmp_path_factory.mktemp("real")
    rows = [row for row in read_jsonl(demo_data / "train.jsonl") if row["duration"] > 2][:16]
    write_jsonl(folder / "train.jsonl", [
        row | {"audio_filepath": str(demo_data / row["audio_filepath"])} for row in rows])
    arguments = [str(ROOT / "recipes" / "demo"), f"data.train=[{folder / 'train.jsonl'}]",
                 *OPTIONS]
    pseudo_label.__main__.main([*arguments, f"output_dir={folder / 'run'}"])
    return arguments, folder / "run" / "pseudo_labels"


def arguments_of(labels, run: Path) -> list[str]:
    arguments, folder = labels
    run.mkdir()
    (run / "pseudo_labels").symlink_to(folder)
    return [*arguments, f"output_dir={run}"]


@pytest.fixture(scope="module")
def one(labels, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main(arguments_of(labels, run))
    return run


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(run / "metrics.jsonl") if row["split"] == "train"]


@pytest.mark.parametrize("file", ALL_FILES)
def test_launch_of_whisper_base(labels, one, ranks, tmp_path, file):
    run = tmp_path / "run"
    ranks(file, 2, arguments_of(labels, run), tmp_path / "log")
    assert len(losses(one)) == NUM_STEPS
    assert losses(run) == pytest.approx(losses(one), rel=1e-5)
    student, its = (load_file(each / "student" / "model.safetensors") for each in (run, one))
    assert student.keys() == its.keys()
    # AdamW's first steps are as long as the learning rate whatever the gradient: where that is
    # only rounding, its sign is too
    apart = sum(((student[name] - its[name]).abs() > 1e-5).sum() for name in its)
    assert apart < 1e-3 * sum(weight.numel() for weight in its.values())
