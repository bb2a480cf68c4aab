"""What a card is made of: the files that training, labelling and evaluation left in a run."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.data.files import hash_of, read_json
from distill.data.model_files import model_name, model_stamp
from distill.methods import find_method


@dataclass
class Facts:
    """A run, read; nothing in it is computed for the card.

    Attributes:
        name: of the run's folder; the student is called so.
        results: eval/results.json.
        trained: student.json.
        config, generation: of the student; generation is {} where it has none.
        labels: filter.json; {} of taggers, which have none.
        unread: drops.json: what was never labelled, by reason.
        settings: config.yaml, the recipe as it was trained.
        robustness: robustness/results.json; {} if it is not there, or of another student.
        prompts: eval/prompts.json, in the same way.
    """

    run: Path
    name: str
    results: dict
    trained: dict
    config: dict
    generation: dict
    labels: dict
    unread: dict
    settings: dict
    robustness: dict
    prompts: dict = field(default_factory=dict)

    @property
    def models(self) -> dict:
        """Entries of teacher (where there is one) and student in the results, by role."""
        return self.results.get("systems", self.results)


def read_facts(recipe: Any) -> Facts:
    """Read runs/NAME.

    Raises:
        ValueError: something has not been run yet.
    """
    run = Path(recipe.output_dir)
    student, results = run / "student", run / "eval" / "results.json"
    if not (student / "config.json").is_file() or not (run / "student.json").is_file():
        raise ValueError(f"no student in {student}: run `make {run.name}.train` first")
    if not results.is_file():
        raise ValueError(f"no evaluation in {results}: run `make {run.name}.eval` first")
    return Facts(
        run=run, name=run.resolve().name, results=read_json(results),
        trained=read_json(run / "student.json"), config=read_json(student / "config.json"),
        generation=_optional(student / "generation_config.json"),
        labels=_labels(recipe),
        unread=_optional(labels_folder(recipe) / "drops.json"),
        settings=_settings(run / "config.yaml"),
        robustness=_robustness(run),
        prompts=_prompts(run),
    )


def _robustness(run: Path) -> dict:
    found = _optional(run / "robustness" / "results.json")
    stamp = found.get("models", {}).get("student", {}).get("stamp")
    return found if stamp == hash_of(model_stamp(run / "student")) else {}


def _prompts(run: Path) -> dict:
    found = _optional(run / "eval" / "prompts.json")
    stamp = found.get("about", {}).get("stamp")
    return found if stamp == hash_of(model_stamp(run / "student")) else {}


def _labels(recipe: Any) -> dict:
    if "label" not in find_method(recipe.method).stages:
        return {}
    path = labels_folder(recipe) / "filter.json"
    labels = _optional(path)
    if "filter" not in labels:
        raise ValueError(f"{path} is not there, or is of an older version, and the card says which "
                         "labels the student learned from: run `python -m pseudo_label.filter` "
                         "with the recipe and the overrides it was trained with")
    return labels


def check_recipe(facts: Facts, recipe: Any) -> None:
    """A card tells of the recipe what must have been so while the student was trained.

    Raises:
        ValueError: the recipe, the overrides or the labels' filter have changed since. Names the
            keys.
    """
    changed = [line for name in _TOLD
               for line in _changes(name, _at(facts.settings, name), _at(asdict(recipe), name))]
    if changed:
        raise ValueError(
            f"the recipe is not the one that {facts.run / 'student'} was trained with "
            f"({', '.join(changed)}): give the same overrides, or train again"
        )
    # other students may share the labels, and pushing labels filters them as well
    changed = [line for name in ("filter", "translation")
               for line in _changes(name, _at(facts.settings, name), _at(facts.labels, name))]
    if changed:
        raise ValueError(
            f"the labels in {labels_folder(recipe)} were filtered again after the student was "
            f"trained ({', '.join(changed)}): run `python -m pseudo_label.filter` with the "
            "overrides it was trained with, so that the card counts what it learned from"
        )


# What cards take from a recipe.
_TOLD = ("method", "language", "task", "teacher", "student", "loss", "views", "scores.method",
         "data.clip_seconds", "pseudo_label.num_packings", "filter", "translation",
         "train.batch_size", "train.batch_tokens")
_ABSENT = object()


def _at(values: dict, name: str) -> Any:
    for key in name.split("."):
        values = values.get(key, _ABSENT) if isinstance(values, dict) else _ABSENT
    return values


def _changes(name: str, before: Any, now: Any) -> list[str]:
    """`loss.kl_weight: 1.0 -> 0.5`; keys that only one of them knows are of another version."""
    if before is _ABSENT or now is _ABSENT or before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [line for key in now
                for line in _changes(f"{name}.{key}", before.get(key, _ABSENT), now[key])]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [line for index, pair in enumerate(zip(before, now, strict=True))
                for line in _changes(f"{name}[{index}]", *pair)]
    return [f"{name}: {before!r} -> {now!r}"]


def labels_folder(recipe: Any) -> Path:
    return Path(getattr(recipe, "labels_dir", None) or Path(recipe.output_dir) / "pseudo_labels")


def _optional(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _settings(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def public_name(model: str) -> str:
    """A Hub id as it is; of anything local one part only, for a card is public: the last, or the
    run's name where that is `student`, as it is in all of them."""
    return model_name(model) if is_local(model) else model


def is_local(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).exists()


def public(value: Any) -> Any:
    """The same JSON with the last two parts of every path: where files lie on the machine is
    nobody's business, and of use to nobody."""
    if isinstance(value, dict):
        return {key: public(each) for key, each in value.items()}
    if isinstance(value, list):
        return [public(each) for each in value]
    if isinstance(value, str) and _is_path(value):
        return "/".join(Path(value).parts[-2:]) if Path(value).suffix else Path(value).name
    return value


_SUFFIX = re.compile(r"[^\s/]\.[A-Za-z][A-Za-z0-9]{0,7}$")


def _is_path(text: str) -> bool:
    if text.startswith(("/", "~/", "./", "../")):
        return True
    if "/" not in text:
        return False
    if any(char.isspace() for char in text):  # a name may have spaces, a sentence a slash
        return os.path.exists(text) or bool(_SUFFIX.search(text))
    return os.path.exists(text) or bool(Path(text).suffix)
