"""What tests of launches share: the launch files, and a recipe whose gradients are clipped."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "recipes" / "accelerate"
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed (DS_BUILD_OPS=0 pip install 'audio-distill[deepspeed]')")

WINDOWS = ("pseudo_label.shard_size=4", "pseudo_label.window_seconds=9")
# gradients of these are longer than the limit, so that clipping that is not global shows
OPTIONS = (*WINDOWS, "teacher.mode=live", "train.max_steps=5", "train.validate_every=5",
           "train.save_every=3", "train.log_every=1", "train.average_decay=0.9",
           "train.batch_size=4", "train.micro_batch_size=1", "train.max_grad_norm=0.5")


def arguments_of(labelled, target: Path, *overrides: str) -> list[str]:
    """Of a run on these labels, or with none yet."""
    recipe, run = labelled
    target.mkdir(exist_ok=True)
    if run and not (target / "pseudo_labels").exists():
        (target / "pseudo_labels").symlink_to(run / "pseudo_labels")
    return [str(recipe), f"output_dir={target}", *OPTIONS, *overrides]


ALL_FILES = ["ddp", "fsdp", *(pytest.param(f"deepspeed_zero{stage}", marks=needs_deepspeed)
                              for stage in (2, 3))]
