"""An ensemble of teachers: any number of members, their mean, and how far they disagree.

    ensemble = Ensemble(recipe.teacher, classes)
    output = ensemble(waves, features)
    output.probabilities, output.disagreement            # (clips, classes)

Members are averaged by probability (CED, arXiv:2308.11957) or by logit (EfficientAT,
arXiv:2211.04772), each with its weight. A member knows the classes of its own; they become ours by
name, or by a file (`teacher.members[].classes`):
    .txt     the names of its outputs, a line each, where it does not say them; then by name
    .json    {our class: [its classes, by name or number]}: the likeliest of them counts
    .yaml    a label set (`distill.ced.teachers.label_sets`): groups, by maximum or noisy or
    .npy     (its classes, our classes), its probabilities are multiplied with it; at most 1
Of a class that some members do not know the others decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from distill.ced.data.clips import read_names
from distill.ced.recipe_sections import MemberConfig, TeacherConfig
from distill.ced.teachers.frames import num_steps, to_steps
from distill.ced.teachers.label_sets import combined, is_label_set, read_label_set
from distill.ced.teachers.members import Member, class_names, content_of, load_member
from distill.data.files import hash_of
from distill.data.model_files import model_name
from distill.data.sources.tables.text import read_text

_SMALLEST = 1e-7  # probability whose logit is still taken


@dataclass(frozen=True)
class EnsembleOutput:
    """What an ensemble gives for some clips.

    Attributes:
        probabilities: float64 (clips, classes).
        disagreement: float64 (clips, classes), standard deviation of the members' probabilities.
        members: float64 (members, clips, classes); NaN where a member does not know a class.
        frames: float64 (steps, classes) of each clip, for every 0.4 s; None: nobody was asked.
    """

    probabilities: np.ndarray
    disagreement: np.ndarray
    members: np.ndarray
    frames: list[np.ndarray] | None = None


def first_classes(config: TeacherConfig) -> list[str]:
    """Classes of the first member: ours, where nothing else says what they are."""
    names = class_names(config.members[0]) if config.members else None
    if not names:
        raise ValueError("no labels in the manifests, and no teacher that names its classes: say "
                         "data.classes")
    return names


def ensemble_settings(config: TeacherConfig) -> dict:
    """What the scores of an ensemble depend on; nothing is loaded."""
    members = [
        {"content": content_of(each), "weight": each.weight, "activation": each.activation,
         "classes": hash_of(Path(each.classes).read_bytes().hex()) if each.classes else None}
        for each in config.members
    ]
    return {"average": config.average, "members": members}


class ClassMap:
    """From a member's classes to ours.

    Attributes:
        known: (our classes,) bool.
    """

    def __init__(
        self, config: MemberConfig, member_classes: Sequence[str] | None, classes: Sequence[str]
    ):
        path = Path(config.classes) if config.classes else None
        if path and not path.is_file():
            raise ValueError(f"teacher.members[].classes: no file {path}")
        self.name, self.matrix, self.groups = config.model, None, None
        self.combine: Callable[..., np.ndarray] = np.max
        if path and path.suffix == ".npy":
            self.matrix = np.load(path, allow_pickle=False).astype(np.float64)
            if self.matrix.ndim != 2 or self.matrix.shape[1] != len(classes):
                raise ValueError(f"{path}: expected (its classes, {len(classes)}), got "
                                 f"{self.matrix.shape}")
            self.known, self.size = self.matrix.any(axis=0), len(self.matrix)
            return
        if path and path.suffix == ".txt":
            member_classes = read_names(path)
        groups = {name: [name] for name in classes}
        if path and path.suffix == ".json":
            groups = json.loads(read_text(path))
        if path and is_label_set(path):
            labels = read_label_set(path)
            groups = labels.groups
            self.combine = combined if labels.combine == "noisy_or" else np.max
        self.groups = _group_indices(config, groups, member_classes, classes, bool(path))
        self.size = None
        if member_classes is not None:
            self.size = len(member_classes)
        self.known = np.array([bool(group) for group in self.groups])

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """(clips, its classes) -> (clips, our classes), NaN where it does not know."""
        if probabilities.ndim != 2 or self.size not in (None, probabilities.shape[1]):
            raise ValueError(f"teacher.members: {self.name} gave outputs of shape "
                             f"{probabilities.shape}, expected (clips, {self.size})")
        if self.size is None and self._last() >= probabilities.shape[1]:
            raise ValueError(f"teacher.members[].classes: a class of ours is number {self._last()} "
                             f"of {self.name}, which has the outputs 0 to "
                             f"{probabilities.shape[1] - 1}")
        if self.matrix is not None:
            result = np.minimum(probabilities @ self.matrix, 1.0)
        else:
            result = np.stack([self.combine(probabilities[:, group], axis=1) if group else
                               np.full(len(probabilities), np.nan) for group in self.groups], 1)
        result[:, ~self.known] = np.nan
        return result

    def _last(self) -> int:
        """The highest number of an output that is asked for."""
        return max((number for group in self.groups for number in group), default=-1)


def _group_indices(
    config: MemberConfig, groups: dict, member_classes: Sequence[str] | None,
    classes: Sequence[str], strict: bool,
) -> list[list[int]]:
    """Numbers of a member's outputs for each of our classes."""
    index_of = {name: index for index, name in enumerate(member_classes or ())}
    unknown = [name for name in groups if name not in set(classes)]
    if unknown:
        raise ValueError(f"{config.classes}: {unknown[0]!r} is none of our classes")
    by_name = any(type(each) is not int for group in groups.values() for each in group)
    if member_classes is None and by_name:
        raise ValueError(f"teacher.members: {config.model} does not name its classes: say `classes:"
                         "` FILE.txt with a name a line, in the order of its outputs")
    size = None if member_classes is None else len(member_classes)
    for name, group in groups.items():
        for number in (each for each in group if type(each) is int):
            if number < 0 or (size is not None and number >= size):
                raise ValueError(f"{config.classes}: {name!r} is {number}, expected numbers of "
                                 f"{config.model}'s outputs, from 0"
                                 + ("" if size is None else f" to {size - 1}"))
    result = []
    for name in classes:
        group = groups.get(name, [])
        absent = [each for each in group if type(each) is not int and each not in index_of]
        if absent and strict and str(config.classes).endswith(".json"):
            raise ValueError(f"{config.classes}: {config.model} has no class {absent[0]!r}")
        result.append([each if type(each) is int else index_of[each] for each in group
                       if each not in absent])
    return result


class Ensemble:
    """All members of a recipe.

    Args:
        classes: ours.

    Raises:
        ValueError: a class that no member knows, or a member that cannot be used.
    """

    def __init__(self, config: TeacherConfig, classes: Sequence[str], device: str = "cpu"):
        self.config, self.classes = config, list(classes)
        self.members: list[Member] = [load_member(each, device) for each in config.members]
        self.maps = [ClassMap(each, member.classes, classes)
                     for each, member in zip(config.members, self.members, strict=True)]
        known = np.stack([each.known for each in self.maps])
        if not known.any(axis=0).all():
            nobody = [name for name, yes in zip(classes, known.any(axis=0), strict=True) if not yes]
            raise ValueError(
                f"no teacher knows {len(nobody)} of the {len(classes)} classes, for example "
                f"{nobody[0]!r}; map them with teacher.members[].classes (the first member's own: "
                f"{', '.join((self.members[0].classes or ['unnamed'])[:5])}, ...)"
            )
        weights = np.array([each.weight for each in config.members])[:, None] * known
        self.weights = weights / weights.sum(axis=0)

    @property
    def names(self) -> list[str]:
        return [model_name(each.model) for each in self.config.members]

    def __call__(
        self, waves: Sequence[np.ndarray], features: Sequence[Tensor], frames: bool = False
    ) -> EnsembleOutput:
        """Scores of views: waves float32 (samples,), features (64, frames).

        Args:
            frames: also of every 0.4 s, by those members that give frames.

        Raises:
            ValueError: a member gives what is no probability, or none gives frames.
        """
        if not frames:
            scores = [self.ask(number, waves, features) for number in range(len(self.members))]
            return self.combine(np.stack(scores))
        scores, frames_of = [], {}
        for number, member in enumerate(self.members):
            if member.step_seconds is None:
                scores.append(self.ask(number, waves, features))
                continue
            found, steps = member.with_frames(waves, features)
            scores.append(self._ours(number, found))
            frames_of[number] = [
                self._ours(number, to_steps(each, member.step_seconds, num_steps(len(wave))))
                for each, wave in zip(steps, waves, strict=True)]
        if not frames_of:
            raise ValueError("scores.frames: none of the teachers says when it hears something")
        output = self.combine(np.stack(scores))
        return replace(output, frames=self._combine_frames(frames_of, output.probabilities))

    def _combine_frames(
        self, frames_of: dict[int, list[np.ndarray]], probabilities: np.ndarray
    ) -> list[np.ndarray]:
        """Weighted means over the members that give frames; a class that none of them knows has
        the clip's probability in all of them."""
        weights = self.weights[list(frames_of)]
        total = weights.sum(axis=0)
        result = []
        of_clips = zip(*frames_of.values(), strict=True)
        for clip, of_members in zip(probabilities, of_clips, strict=True):
            filled = np.nan_to_num(np.stack(of_members))
            mean = (weights[:, None] * filled).sum(axis=0) / np.where(total > 0, total, 1.0)
            result.append(np.where(total > 0, mean, clip))
        return result

    def ask(self, number: int, waves: Sequence, features: Sequence) -> np.ndarray:
        """Probabilities of one member, (clips, our classes); NaN where it does not know a class."""
        return self._ours(number, self.members[number](waves, features))

    def _ours(self, number: int, found: np.ndarray) -> np.ndarray:
        """A member's probabilities (..., its classes) for our classes."""
        if not ((found >= 0) & (found <= 1 + 1e-6)).all():
            raise ValueError(
                f"teacher.members: {self.config.members[number].model} gave numbers from "
                f"{found.min():g} to {found.max():g}, expected probabilities in [0, 1]; say "
                "activation: sigmoid if they are logits"
            )
        return self.maps[number](np.minimum(found, 1.0))

    def combine(self, scores: np.ndarray) -> EnsembleOutput:
        """The output of the members' scores (members, clips, classes)."""
        weights, known = self.weights[:, None], ~np.isnan(scores)
        filled = np.where(known, scores, 0.0)
        mean = (weights * filled).sum(axis=0)
        spread = np.sqrt((weights * np.where(known, scores - mean, 0.0) ** 2).sum(axis=0))
        if self.config.average == "logit":
            p = np.clip(filled, _SMALLEST, 1 - _SMALLEST)
            logit = (weights * (np.log(p) - np.log1p(-p))).sum(axis=0)
            mean = 1 / (1 + np.exp(-logit))
        return EnsembleOutput(np.clip(mean, 0.0, 1.0), spread, scores)
