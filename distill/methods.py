"""The only list of methods, and what every method's stages agree on."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distill.config import ConfigError, read_method
from distill.data import leaks
from distill.data.files import hash_of
from distill.data.formats.places import fingerprint
from distill.data.manifest import Row, counts_text, load_rows


@dataclass(frozen=True)
class Method:
    """What the stages have to know of a method; below stands where its code is.

    Attributes:
        output: what its students give: text (of speech) | tags | answers (to questions about
            audio). It decides what manifests need, how students are measured, and what a model card
            says.
        stages: those that it has.
    """

    name: str
    output: str
    stages: tuple[str, ...]


# Keys that shape neither the labels nor the weights of a student.
_FREE_TRAIN_KEYS = ("log_every", "save_every", "keep_checkpoints", "num_workers", "trackers",
                    "micro_batch_size", "micro_batch_tokens")
_FREE_KEYS = ("start", "output_dir", "labels_dir", "num_threads", "tagger", "evaluation", "export",
              "family", "hub")

METHODS = (
    Method("whisper", "text", ("plan", "label", "score", "train", "evaluate", "export", "publish")),
    Method("ced", "tags", ("plan", "score", "train", "evaluate", "export", "publish")),
    Method("whisper_at", "tags", ("train",)),  # a teacher of taggers
    Method("audio_llm", "answers", ("plan", "train", "evaluate")),
)


def find_method(name: str) -> Method:
    """
    Raises:
        ConfigError: there is no such method.
    """
    for method in METHODS:
        if method.name == name:
            return method
    known = ", ".join(method.name for method in METHODS)
    raise ConfigError(f"method must be one of: {known}; got {name!r}")


def load_recipe(recipe: str, overrides: list[str]) -> Any:
    """Load a recipe of any method; imports no torch.

    Raises:
        ConfigError: unknown method, or what the method's recipe says.
    """
    match find_method(read_method(recipe)).name:
        case "whisper":
            from distill.whisper import recipe as whisper

            return whisper.load_recipe(recipe, overrides)
        case "ced":
            from distill.ced import recipe as ced

            return ced.load_recipe(recipe, overrides)
        case "whisper_at":
            from distill.whisper_at import recipe as whisper_at

            return whisper_at.load_recipe(recipe, overrides)
        case "audio_llm":
            from distill.audio_llm import recipe as audio_llm

            return audio_llm.load_recipe(recipe, overrides)


def stages_of(recipe: Any) -> list[Any]:
    """A recipe for each training that it asks for, in order; most ask for one."""
    if recipe.method == "audio_llm":
        from distill.audio_llm import recipe as audio_llm

        return list(audio_llm.stages_of(recipe))
    return [recipe]


def describe_plan(recipe: Any) -> str:
    """What a recipe would run, for people; reads manifests and arithmetic only."""
    match recipe.method:
        case "whisper":
            from distill.whisper.plan.plan import plan
            from distill.whisper.plan.plan_text import describe

            return describe(plan(recipe))
        case "ced":
            from distill.ced import plan as tagger_plan

            return tagger_plan.describe(recipe)
        case "audio_llm":
            from distill.audio_llm import plan as audio_llm_plan

            return audio_llm_plan.describe(recipe)
        case other:
            raise ConfigError(f"there is no plan of method {other!r}")


def build_task(recipe: Any, accelerator: Any) -> Any:
    """The `distill.training.task.Task` of a recipe."""
    match recipe.method:
        case "whisper" if recipe.student.learns == "encoder":
            from distill.whisper.encoder.noisy_task import EncoderTask

            return EncoderTask(recipe, accelerator)
        case "whisper":
            from distill.whisper.task import WhisperTask

            return WhisperTask(recipe, accelerator)
        case "ced":
            from distill.ced.task import CedTask

            return CedTask(recipe, accelerator)
        case "whisper_at":
            from distill.whisper_at.task import WhisperAtTask

            return WhisperAtTask(recipe, accelerator, _scores_of(recipe.head))
        case "audio_llm":
            from distill.audio_llm.task import AudioLlmTask

            return AudioLlmTask(recipe, accelerator)


def _scores_of(head: Any) -> Any:
    """What a tagger's teachers think of the clips that a head learns from; None: it has labels."""
    if head.scores is None:
        return None
    from distill.ced.teachers.of_clips import ClipScores

    return ClipScores(head.scores)


def tagger_recipe(recipe: Any) -> Any:
    """What trains the head that tags beside a run's student; None where there is none."""
    if recipe.method != "whisper" or not recipe.tagger.data.train:
        return None
    from distill.whisper_at.recipe import of_transcriber

    return of_transcriber(recipe)


def attach_tagger(recipe: Any) -> None:
    """Put the trained head beside the student that it listens to."""
    from distill.whisper_at.joint import attach

    run = Path(recipe.output_dir)
    attach(run / "tagger" / "student", run / "student")


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
            raise ConfigError(f"there are no scores of method {other!r}")


def export_model(recipe: Any, kind: str) -> bool:
    """Export a run's student for another runtime; whether all copies passed."""
    match recipe.method:
        case "whisper":
            from distill.whisper.export.run import export_student

            return export_student(recipe, kind, _sounds_of(recipe))
        case "ced":
            from distill.ced.export.run import export_student as export_tagger

            return export_tagger(recipe, kind)
        case other:
            raise ConfigError(f"there is no export of students of method {other!r}")


def _sounds_of(recipe: Any) -> Any:
    """The head that tags beside a run's student, for its graph; None where there is none."""
    from distill.whisper.export.encoder_graph import Sounds
    from distill.whisper_at.joint import load_head

    found = load_head(Path(recipe.output_dir) / "student")
    return found and Sounds(found.head, found.settings.layers, found.classes)


def check_data(recipe: Any, stage: str) -> None:
    """What every stage does before anything takes long: all manifests of the recipe are opened,
    what is left out of them is printed, and the splits are compared.

    Args:
        stage: plan (some manifests may not be there yet, nothing is written), label, train or
            eval (which needs transcripts or labels to compare with).

    Raises:
        ValueError: a manifest is missing or cannot be used, a clip is in two splits, or there is
            nothing to compare with.
    """
    data, plans = recipe.data, stage == "plan"
    output = find_method(recipe.method).output
    if not data.train and stage != "eval":
        raise ValueError("data.train is empty: name a manifest in it")
    splits = {split: [path for path in getattr(data, split, [])
                      if not plans or Path(path).exists() or set("*?[") & set(Path(path).name)]
              for split in ("train", "validation", "test")}
    is_first = int(os.environ.get("RANK", 0)) == 0
    tell = partial(print, flush=True) if is_first else lambda _: None
    leaks.check_splits(splits, data.allow_overlap, tell=tell,
                       seen=None if plans else Path(recipe.output_dir) / "splits.json")
    if recipe.method == "whisper" and not plans:
        from distill.whisper.data.noise import check_noises

        check_noises(recipe, tell)
    for split, paths in splits.items():
        rows, drops = load_rows(paths, spoken=output == "text")
        if paths and not rows:
            raise ValueError(f"data.{split}: no clip in {', '.join(paths)} (left out: "
                             f"{counts_text(drops)})")
        lack = _lack(output, rows) if split != "train" else None
        if lack and (split == "validation" or stage == "eval"):
            instead = ("give it some, or leave it empty: then the last weights are the student"
                       if split == "validation" else "there is nothing to compare with")
            raise ValueError(f"data.{split}: {lack} ({', '.join(paths)}); {instead}")
        if lack:
            tell(f"data.{split}: {lack}: there will be no evaluation on it")


def _lack(output: str, rows: list[Row]) -> str | None:
    """What a split would need to be measured on."""
    if not rows:
        return None
    if output == "text":
        spoken = any(letter.isalnum() for row in rows for letter in row.text or "")
        return None if spoken else f"not one of {len(rows):,} clips has a `text` with a word in it"
    if output == "answers":
        return None  # they may be elsewhere in a row, and rows without are counted
    bare = [row for row in rows if row.labels is None]
    return f"{len(bare):,} of {len(rows):,} clips have no `labels` ({bare[0].id})" if bare else None


def shaping(values: dict[str, Any]) -> dict[str, Any]:
    """The part of a recipe that decides the weights of its student.

    Args:
        values: the recipe as plain containers; not changed.
    """
    values = {k: v for k, v in values.items() if k not in _FREE_KEYS}
    values["train"] = {k: v for k, v in values["train"].items() if k not in _FREE_TRAIN_KEYS}
    if values.get("teacher", {}).get("mode") == "live":
        del values["scores"]
    elif "scores" in values:
        values["scores"] = {k: v for k, v in values["scores"].items()
                            if k not in ("dir", "shard_views", "num_workers")}
    if "head" in values:  # labels say what scores are; with none there is no weight
        values["head"] = {k: v for k, v in values["head"].items()
                          if k != "scores" and (k, v) != ("label_weight", 0.0)}
    if values.get("whisper", {}).get("heard") == "transcriber":  # labels say which encoder it is
        values["whisper"] = {k: v for k, v in values["whisper"].items() if k == "layers"}
    values["data"] = {k: v for k, v in values["data"].items() if k == "validation"}
    return values


def training_settings(recipe: Any, labels_hash: str) -> str:
    """Hash of what the weights of a recipe's student depend on; `student.json` has it."""
    return hash_of({"recipe": shaping(asdict(recipe)), "labels": labels_hash})


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
            margin = recipe.teacher.short_audio_margin
            return hash_of([recipe.evaluation, recipe.decoding, manifests_hash(recipe.data.test),
                            recipe.language, recipe.task, trained,
                            *([] if margin is None else [margin])])


def manifests_hash(paths: list[str]) -> str:
    """Hash of what manifests say, wherever they are: they may be made anew under their names."""
    return hash_of([Path(path).read_bytes().hex() if Path(path).is_file() else None
                    for path in paths])


def write_code(recipe: Any, folder: Path) -> None:
    """Put code beside a student whose architecture transformers does not have."""
    if recipe.method == "ced":
        from distill.ced.model.remote_code import write_code as write_ced_code

        write_ced_code(folder)
    elif recipe.method == "whisper":
        from distill.whisper_at.joint import has_head
        from distill.whisper_at.remote_code import write_code as write_head_code

        if has_head(folder):
            write_head_code(folder)
