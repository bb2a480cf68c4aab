"""Taggers, and heads of a student that tags, train under every launch file as one process does:
here on CPU ranks, by gloo."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import distill.train
from tests.ced.test_training import distance, scored, train  # noqa: F401, a fixture
from tests.support.launches import ALL_FILES, needs_deepspeed
from tests.training.conftest import ranks  # noqa: F401, a fixture
from tests.whisper_at.test_joint import arguments_of, run  # noqa: F401, a fixture


@pytest.mark.parametrize("file", [
    pytest.param("ddp", marks=pytest.mark.slow), "fsdp",
    *(pytest.param(f"deepspeed_zero{stage}", marks=[pytest.mark.slow, needs_deepspeed])
      for stage in (2, 3))])
def test_a_tagger_is_that_of_one_process(tags, scored, ranks, tmp_path, file):  # noqa: F811
    common = (scored, "train.optimizer=adamw", "train.max_steps=4", "train.validate_every=4",
              "train.max_grad_norm=0.5")
    one = train(tags, tmp_path / "one", *common)
    ranks(file, 2, [*tags.arguments(*common, "train.micro_batch_size=4"),
                    f"output_dir={tmp_path / 'two'}"], tmp_path / "log")
    assert distance(one, tmp_path / "two") < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("file", ALL_FILES)
def test_a_head_is_that_of_one_process(run, ranks, tmp_path, file):  # noqa: F811
    """Trained right after its student, by the same ranks."""
    # few steps, so that Adam does not make rounding large; each rank drops out other features
    common = ["tagger.train.max_steps=3", "tagger.train.learning_rate=1e-3",
              "tagger.train.validate_every=3", "tagger.head.head_dropout=0"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pseudo_labels").symlink_to(run / "run" / "pseudo_labels")
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main([*arguments_of(run), *common, f"output_dir={tmp_path / 'one'}"])
    ranks(file, 2, [*arguments_of(run), *common, f"output_dir={tmp_path / 'two'}",
                    "train.micro_batch_size=1", "tagger.train.micro_batch_size=4"],
          tmp_path / "log")
    for name in ("model.safetensors", "tagger.safetensors"):
        found, wanted = (load_file(each / "student" / name)
                         for each in (tmp_path / "two", tmp_path / "one"))
        assert found.keys() == wanted.keys()
        for key, weight in wanted.items():
            torch.testing.assert_close(found[key], weight, atol=2e-5, rtol=1e-4)
