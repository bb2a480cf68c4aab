"""Another set of classes than a tagger's own: each a group of them, with a threshold of its own.

    home = read_label_set("home.yaml")
    home(probabilities, tagger_classes)        # (..., its classes) -> (..., len(home.names))

A file; its thresholds are written by `python -m eval.label_set`, which chooses them on validation
clips:

    combine: maximum            # or noisy_or: any of the group, as if they were independent
    classes:
      dog: [Dog, Bark, Howl]    # names of the tagger's classes
      siren: Siren
    thresholds: {dog: 0.31, siren: 0.5}
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distill.data.sources.tables.text import read_text

COMBINE = ("maximum", "noisy_or")
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class LabelSet:
    """
    Attributes:
        groups: of each class, the tagger's that it stands for.
        combine: of COMBINE.
        thresholds: probability from which a class counts as heard, of those that have one.
    """

    groups: dict[str, list[str]]
    combine: str = "maximum"
    thresholds: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return list(self.groups)

    def columns(self, classes: Sequence[str]) -> list[list[int]]:
        """Of each class, the numbers of the tagger's outputs.

        Raises:
            ValueError: the tagger has no such class; the nearest is named.
        """
        place = {name: number for number, name in enumerate(classes)}
        for name, group in self.groups.items():
            if lacking := [each for each in group if each not in place]:
                near = difflib.get_close_matches(lacking[0], classes, 1, 0.4)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"class {name!r}: the tagger has no class {lacking[0]!r}{hint}")
        return [[place[each] for each in group] for group in self.groups.values()]

    def __call__(self, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(..., the tagger's classes) -> (..., names)."""
        combine = combined if self.combine == "noisy_or" else np.max
        return np.stack([combine(probabilities[..., group], axis=-1)
                         for group in self.columns(classes)], -1)

    def targets(self, labels: Sequence[str]) -> list[bool]:
        """Which classes a clip with these labels has: the tagger's names and our own both count."""
        there = set(labels)
        return [name in there or bool(there & set(group)) for name, group in self.groups.items()]


def combined(probabilities: np.ndarray, axis: int) -> np.ndarray:
    """Probability that at least one is there, were they independent (noisy or)."""
    return 1 - np.prod(1 - probabilities, axis=axis)


def is_label_set(name: str | Path) -> bool:
    return Path(name).suffix in SUFFIXES


def read_label_set(path: str | Path) -> LabelSet:
    """
    Raises:
        ValueError: no such file, or something in it that is no label set.
    """
    if not Path(path).is_file():
        raise ValueError(f"no file {path}")
    try:
        found = yaml.safe_load(read_text(Path(path)))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict) or not isinstance(found.get("classes"), dict):
        raise ValueError(f"{path}: expected `classes:` with a line for each class: its name, and "
                         "the classes of the tagger that it stands for")
    if unknown := set(found) - {"combine", "classes", "thresholds"}:
        raise ValueError(f"{path}: unknown key {min(unknown)!r}; known: combine, classes, "
                         "thresholds")
    groups = {str(name): _group(path, name, group) for name, group in found["classes"].items()}
    combine, thresholds = found.get("combine", COMBINE[0]), found.get("thresholds") or {}
    if combine not in COMBINE:
        raise ValueError(f"{path}: combine must be {' or '.join(COMBINE)}, got {combine!r}")
    for name, value in thresholds.items():
        if name not in groups:
            raise ValueError(f"{path}: thresholds has {name!r}, which is none of its classes")
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"{path}: the threshold of {name!r} must be 0 to 1, got {value!r}")
    return LabelSet(groups, combine, {name: float(each) for name, each in thresholds.items()})


def _group(path: str | Path, name: Any, group: Any) -> list[str]:
    names = [group] if isinstance(group, str) else group
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{path}: class {name!r} needs a name of the tagger's classes, or a list "
                         f"of them, got {group!r}")
    return names


def label_set_text(labels: LabelSet) -> str:
    """YAML that `read_label_set` reads."""
    found: dict[str, Any] = {"combine": labels.combine, "classes": labels.groups}
    if labels.thresholds:
        found["thresholds"] = labels.thresholds
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100)
