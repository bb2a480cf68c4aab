"""Two ranks train as one does, through all stages: CPU ranks, by gloo."""

import pytest
import torch
from safetensors.torch import load_file

from distill.train import main as train
from tests.audio_llm.test_training import recipe  # noqa: F401, a fixture
from tests.support.launches import needs_deepspeed
from tests.training.conftest import ranks  # noqa: F401, a fixture

ZERO_2 = pytest.param("deepspeed_zero2", marks=needs_deepspeed)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ddp", ZERO_2])
def test_two_ranks_are_one(recipe, ranks, tmp_path, file):  # noqa: F811
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["train.micro_batch_size=2", "train.learning_rate=1e-3", "loss.ctc_weight=0.1"]
    train([str(recipe), f"output_dir={one}", *options])
    ranks(file, 2, [str(recipe), f"output_dir={two}", *options], tmp_path / "log")
    for part in ("stages/warm/student", "student"):
        found, wanted = (load_file(run / part / "audio_llm.safetensors") for run in (two, one))
        assert found.keys() == wanted.keys()
        for name, weight in wanted.items():
            # sums of gradients in another order; Adam divides them by their size
            torch.testing.assert_close(found[name], weight, atol=2e-4, rtol=2e-3, msg=name)
