"""A family whose process is killed goes on, and ends with the same students."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.data.files import read_json
from distill.testing import write_tiny_recipe

OVERRIDES = ["loss.hidden_weight=1", "loss.kl_weight=0", "train.max_steps=8", "train.save_every=2",
             "train.validate_every=8", "views.timestamp_probability=0",
             "views.previous_text_probability=0", "family.budget.clip_seconds=1",
             "teacher.short_audio_margin=0.5", "family.decoder_layers=[1,3]",
             "evaluation.clips=false"]


def start(recipe: Path, run: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "eval.family", str(recipe), f"output_dir={run}", *OVERRIDES],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"})


def kill_when(process: subprocess.Popen, is_time) -> None:
    while not is_time():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(run / "family" / name / "student" / "model.safetensors")
            for name in ("3", "0-1-3")}


@pytest.mark.slow
def test_killed_in_training_and_in_measuring(tmp_path):
    recipe = write_tiny_recipe(tmp_path, train=6, validation=3, test=3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(recipe, whole)
    assert process.wait(600) == 0, process.stdout.read()

    second = killed / "family" / "0-1-3"  # in training when it is killed
    kill_when(start(recipe, killed), lambda: any(second.glob("checkpoints/*")))
    assert not (killed / "family" / "results.json").exists()
    kill_when(start(recipe, killed), lambda: any((killed / "family" / "kept").glob("*")))
    process = start(recipe, killed)
    told = process.communicate(timeout=600)[0]
    assert process.returncode == 0, told

    for name, found in weights(killed).items():
        for key, wanted in weights(whole)[name].items():
            assert torch.equal(found[key], wanted), (name, key)
    rates = [[way["test"]["error_rate"] for student in read_json(run / "family" / "results.json")
              ["students"] for way in student["ways"].values()] for run in (whole, killed)]
    assert rates[0] == rates[1]
