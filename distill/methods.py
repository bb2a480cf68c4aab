"""The only list of methods, and what every method's stages agree on."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from distill.config import ConfigError, read_method
from distill.data import leaks
from distill.data.files import fingerprint, hash_of
from distill.data.manifest import Row, counts_text, load_rows

_KNOWN = "whisper, ced, whisper_at"


def load_recipe(recipe: str, overrides: list[str]) -> Any:
    """Load a recipe of any method; imports no torch.

    Raises:
        ConfigError: unknown method, or what the method's recipe says.
    """
    match read_method(recipe):
        case "whisper":
            from distill.whisper import recipe as whisper

            return whisper.load_recipe(recipe, overrides)
        case "ced":
            from distill.ced import recipe as ced

            return ced.load_recipe(recipe, overrides)
        case "whisper_at":
            from distill.whisper_at import recipe as whisper_at

            return whisper_at.load_recipe(recipe, overrides)
        case other:
            raise ConfigError(f"method must be one of: {_KNOWN}; got {other!r}")


def build_task(recipe: Any, accelerator: Any) -> Any:
    """The `distill.training.task.Task` of a recipe."""
    match recipe.method:
        case "whisper":
            from distill.whisper.task import WhisperTask

            return WhisperTask(recipe, accelerator)
        case "ced":
            from distill.ced.task import CedTask

            return CedTask(recipe, accelerator)
        case "whisper_at":
            from distill.whisper_at.task import WhisperAtTask

            return WhisperAtTask(recipe, accelerator)
        case other:
            raise ConfigError(f"method must be one of: {_KNOWN}; got {other!r}")


def build_scorer(recipe: Any) -> Any:
    """`score(texts) -> records`: a recipe's live teacher, asked about views of a teacher store."""
    match recipe.method:
        case "whisper":
            from distill.whisper.data.scoring import Rescorer

            return Rescorer(recipe)
        case "ced":
            from distill.ced.teachers.scoring import Rescorer as TagRescorer

            return TagRescorer(recipe)
        case other:
            raise ConfigError(f"method must be one of: {_KNOWN}; got {other!r}")


def export_model(recipe: Any, kind: str) -> bool:
    """Export a run's student for another runtime; whether all copies passed."""
    match recipe.method:
        case "whisper":
            from distill.whisper.export.run import export_student

            return export_student(recipe, kind)
        case "ced":
            from distill.ced.export.run import export_student as export_tagger

            return export_tagger(recipe, kind)
        case other:
            raise ConfigError(f"there is no export of students of method {other!r}")


def check_data(recipe: Any, stage: str) -> None:
    """What every stage does before anything takes long: all manifests of the recipe are opened,
    what is left out of them is said, and the splits are compared.

    Args:
        stage: plan (some manifests may not be there yet, nothing is written), label, train or
            eval (which needs transcripts or labels to compare with).

    Raises:
        ValueError: a manifest is missing or cannot be used, validation or test clips are training
            clips, or there is nothing to compare with.
    """
    data, plans, speaks = recipe.data, stage == "plan", recipe.method == "whisper"
    if not data.train and stage != "eval":
        raise ValueError("data.train is empty: name a manifest in it")
    splits = {split: [path for path in getattr(data, split, [])
                      if not plans or Path(path).exists() or set("*?[") & set(Path(path).name)]
              for split in ("train", "validation", "test")}
    is_first = int(os.environ.get("RANK", 0)) == 0
    tell = partial(print, flush=True) if is_first else lambda _: None
    leaks.check_splits(splits, data.allow_overlap, tell=tell,
                       seen=None if plans else Path(recipe.output_dir) / "splits.json")
    for split, paths in splits.items():
        rows, drops = load_rows(paths, spoken=speaks)
        if paths and not rows:
            raise ValueError(f"data.{split}: no clip in {', '.join(paths)} (left out: "
                             f"{counts_text(drops)})")
        lack = _lack(recipe.method, rows) if split != "train" else None
        if lack and (split == "validation" or stage == "eval"):
            instead = ("give it some, or leave it empty: then the last weights are the student"
                       if split == "validation" else "there is nothing to compare with")
            raise ValueError(f"data.{split}: {lack} ({', '.join(paths)}); {instead}")
        if lack:
            tell(f"data.{split}: {lack}: there will be no evaluation on it")


def _lack(method: str, rows: list[Row]) -> str | None:
    """What a split would need to be measured on."""
    if not rows:
        return None
    if method == "whisper":
        spoken = any(letter.isalnum() for row in rows for letter in row.text or "")
        return None if spoken else f"not one of {len(rows):,} clips has a `text` with a word in it"
    bare = [row for row in rows if row.labels is None]
    return f"{len(bare):,} of {len(rows):,} clips have no `labels` ({bare[0].id})" if bare else None


def evaluation_settings(recipe: Any, trained: dict | None) -> str:
    """Hash of what an evaluation depends on; tells whether results are of this student.

    Args:
        trained: student.json of the run, None for a student from elsewhere.
    """
    match recipe.method:
        case "ced":
            from distill.ced.teachers.ensemble import ensemble_settings

            data = recipe.data
            names = data.classes and fingerprint(data.classes)
            return hash_of([asdict(recipe.evaluation), manifests_hash(data.test), names,
                            data.clip_seconds, ensemble_settings(recipe.teacher), trained])
        case _:
            return hash_of([recipe.evaluation, recipe.decoding, manifests_hash(recipe.data.test),
                            recipe.language, recipe.task, trained])


def manifests_hash(paths: list[str]) -> str:
    """Hash of what manifests say, wherever they are: they may be made anew under their names."""
    return hash_of([Path(path).read_bytes().hex() if Path(path).is_file() else None
                    for path in paths])


def write_code(recipe: Any, folder: Path) -> None:
    """Put code beside a student whose architecture transformers does not have."""
    if recipe.method == "ced":
        from distill.ced.model.remote_code import write_code as write_ced_code

        write_ced_code(folder)
