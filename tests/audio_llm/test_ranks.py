"""Two ranks train as one does, through all stages: by `accelerate launch` on CPU ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.train import main as train
from tests.audio_llm.test_training import recipe  # noqa: F401, a fixture

ROOT = Path(__file__).resolve().parents[2]


def launched(arguments: list[str], file: str) -> None:
    environment = dict(os.environ, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1",
                       PYTHONPATH=str(ROOT))
    ran = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         str(ROOT / "recipes/accelerate" / f"{file}.yaml"), "--num_processes", "2",
         "--main_process_port", "0", "-m", "distill.train", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout[-1500:] + ran.stderr[-6000:]


@pytest.mark.slow
def test_two_ranks_are_one(recipe, tmp_path):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["train.micro_batch_size=2", "train.learning_rate=1e-3", "loss.ctc_weight=0.1"]
    train([str(recipe), f"output_dir={one}", *options])
    launched([str(recipe), f"output_dir={two}", *options], "cpu2")
    for part in ("stages/warm/student", "student"):
        found, wanted = (load_file(run / part / "audio_llm.safetensors") for run in (two, one))
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            # sums of gradients in another order; Adam divides them by their size
            torch.testing.assert_close(found[name], weight, atol=2e-4, rtol=2e-3, msg=name)
