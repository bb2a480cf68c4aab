"""What a tagger's recipe may say. Every key is used; the comments are its documentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill import config as base
from distill.ced.recipe_sections import (
    DataConfig,
    EvaluationConfig,
    ExportConfig,
    LossConfig,
    ScoresConfig,
    StudentConfig,
    TeacherConfig,
    ViewConfig,
)
from distill.config import HubConfig, TrainConfig, check
from distill.data.views.augment import NOISES

MIN_SECONDS = 0.15  # shortest clip; below one patch of 16 frames there is nothing to be seen
MAX_GAIN_DB, MAX_MASK_FRAMES, MAX_MASKS = 31.75, 255, 8  # what a packed view has room for
SNR_DB = (-16.0, 47.0)


@dataclass
class CedRecipe:
    method: str = "ced"  # which kind of recipe this is
    seed: int = 0  # of everything that is drawn
    output_dir: str | None = None  # folder of the run; default: runs/<recipe>
    num_threads: int | None = None  # CPU threads of torch; null: its default
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    hub: HubConfig = field(default_factory=HubConfig)


def load_recipe(recipe: str | Path, overrides: list[str]) -> CedRecipe:
    """Load and check a recipe; paths of files come back resolved.

    Raises:
        ConfigError: names the key and, for typos, the one probably meant.
    """
    path, config = base.load_run(recipe, CedRecipe, overrides)
    if config.data.classes:
        config.data.classes = base.beside(path, config.data.classes)
    for member in config.teacher.members:
        if member.classes:
            member.classes = base.beside(path, member.classes)
    if config.scores.dir is None:
        config.scores.dir = f"{config.output_dir}/scores"
    if config.views.seed is None:
        config.views.seed = config.seed
    _check(config)
    _check_views(config.views)
    return config


def uses_store(recipe: CedRecipe) -> bool:
    """Whether a student of this recipe learns from stored scores."""
    return bool(recipe.teacher.members) and recipe.teacher.mode == "store"


def _check(c: CedRecipe) -> None:
    base.check_no_tokens(c.train)
    base.check_hub(c.hub)
    t, s, loss = c.teacher, c.scores, c.loss
    check(t.mode in ("store", "live"), "teacher.mode", "store or live", t.mode)
    check(t.average in ("probability", "logit"), "teacher.average", "probability or logit",
          t.average)
    kinds = ("auto", "sigmoid", "softmax", "none")
    for number, member in enumerate(t.members):
        key = f"teacher.members[{number}]"
        check(member.weight > 0, f"{key}.weight", "> 0", member.weight)
        check(member.activation in kinds, f"{key}.activation", f"one of {kinds}",
              member.activation)
    ok = t.consistent or uses_store(c)
    check(ok, "teacher.consistent", "true where no scores are stored", t.consistent)
    seconds = c.data.clip_seconds
    check(MIN_SECONDS <= seconds <= 600, "data.clip_seconds", f"in [{MIN_SECONDS}, 600]", seconds)
    check(c.data.cache_megabytes >= 0, "data.cache_megabytes", ">= 0", c.data.cache_megabytes)
    for key in ("epochs", "k", "batch_size"):
        check(getattr(s, key) > 0, f"scores.{key}", "> 0", getattr(s, key))
    check(s.num_workers >= 0, "scores.num_workers", ">= 0", s.num_workers)
    check(s.values in ("uint8", "float16"), "scores.values", "uint8 or float16", s.values)
    check(loss.fill in ("zero", "tail_mean"), "loss.fill", "zero or tail_mean", loss.fill)
    check(loss.mixed_labels in ("weighted", "union"), "loss.mixed_labels", "weighted or union",
          loss.mixed_labels)
    check(0 <= loss.label_weight <= 1, "loss.label_weight", "in [0, 1]", loss.label_weight)
    check(loss.temperature > 0, "loss.temperature", "> 0", loss.temperature)
    check(loss.frame_weight >= 0, "loss.frame_weight", ">= 0", loss.frame_weight)
    has_frames = bool(t.members) and t.consistent and (s.frames or t.mode == "live")
    check(has_frames or not loss.frame_weight, "loss.frame_weight",
          "0 without scores.frames, or with views that the teachers have not scored",
          loss.frame_weight)
    check(not s.frames or uses_store(c), "scores.frames", "false where no scores are stored",
          s.frames)
    check(loss.confidence_power >= 0, "loss.confidence_power", ">= 0", loss.confidence_power)
    for key in ("batch_size", "num_bootstrap"):
        check(getattr(c.evaluation, key) > 0, f"evaluation.{key}", "> 0",
              getattr(c.evaluation, key))


def _check_views(v: ViewConfig) -> None:
    check(0 <= v.seed < 2**63, "views.seed", "in [0, 2^63)", v.seed)
    check(0 <= v.shift <= 0.5, "views.shift", "in [0, 0.5]", v.shift)
    for key in ("shift_probability", "noise_probability", "mixup_probability"):
        check(0 <= getattr(v, key) <= 1, f"views.{key}", "in [0, 1]", getattr(v, key))
    _check_range("gain_db", v.gain_db, -MAX_GAIN_DB, MAX_GAIN_DB)
    _check_range("snr_db", v.snr_db, *SNR_DB)
    _check_range("mixup_weight", v.mixup_weight, 1 / 256, 255 / 256)
    ok = bool(v.noise) and set(v.noise) <= set(NOISES)
    ok = ok or (not v.noise and not v.noise_probability)
    check(ok, "views.noise", f"a list of {', '.join(NOISES)}", v.noise)
    for key in ("time_masks", "frequency_masks"):
        check(0 <= getattr(v, key) <= MAX_MASKS, f"views.{key}", f"in 0..{MAX_MASKS}",
              getattr(v, key))
    check(0 < v.time_mask_frames <= MAX_MASK_FRAMES, "views.time_mask_frames",
          f"in 1..{MAX_MASK_FRAMES}", v.time_mask_frames)
    check(0 < v.frequency_mask_bands <= 64, "views.frequency_mask_bands", "in 1..64",
          v.frequency_mask_bands)


def _check_range(key: str, ends: Sequence[float], lowest: float, highest: float) -> None:
    ok = len(ends) == 2 and all(map(math.isfinite, ends))
    ok = ok and lowest <= ends[0] <= ends[1] <= highest
    check(ok, f"views.{key}", f"two numbers in [{lowest:g}, {highest:g}], the lower one first",
          list(ends))
