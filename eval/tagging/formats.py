"""Tags of a file as JSON, CSV, or labels that Audacity imports."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.tagging.windows import Row


@dataclass(frozen=True)
class Choice:
    """Which tags are shown: of the classes `kept`, the best `top_k` that reach `threshold`, or the
    thresholds that classes have of their own."""

    classes: Sequence[str]
    kept: Sequence[int]
    top_k: int
    threshold: float
    own: Mapping[str, float] = field(default_factory=dict)

    def needs(self, index: int) -> float:
        """Threshold of a class."""
        return self.own.get(self.classes[index], self.threshold)

    def __call__(self, scores: np.ndarray) -> list[tuple[str, float]]:
        """(name, score), best first; of equal ones the first class."""
        best = sorted(self.kept, key=lambda index: -scores[index])[: self.top_k]
        return [(self.classes[i], float(scores[i])) for i in best if scores[i] >= self.needs(i)]


def choose(
    classes: Sequence[str], names: Sequence[str] | None, top_k: int, threshold: float,
    own: Mapping[str, float] | None = None,
) -> Choice:
    """Only the classes of `names` compete for the top k, where there are any.

    Raises:
        ValueError: a name that is no class; top_k or threshold out of range.
    """
    if top_k < 1 or not 0 <= threshold <= 1:
        raise ValueError(f"--top-k must be 1 or more and --threshold from 0 to 1, got {top_k} and "
                         f"{threshold}")
    place = {name: index for index, name in enumerate(classes)}
    if unknown := [name for name in names or [] if name not in place]:
        raise ValueError(f"--classes: the model has no {', '.join(map(repr, unknown))}; it has "
                         f"{_close(unknown[0], classes)}")
    kept = list(range(len(classes))) if names is None else [place[name] for name in names]
    return Choice(classes, kept, top_k, threshold, own or {})


def _close(name: str, classes: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, classes, 3, 0.4) or list(classes[:5])
    return f"{', '.join(map(repr, near))} and others" if len(classes) > len(near) else str(near)


def whole(rows: Sequence[Row], choice: Choice) -> list[dict[str, Any]]:
    """Tags of the file: the mean over its time, and where each is most likely."""
    scores = np.stack([row.scores for row in rows])
    weights = np.array([row.weight for row in rows])
    mean, best = weights @ scores / weights.sum(), scores.argmax(axis=0)
    place = {name: index for index, name in enumerate(choice.classes)}
    tags = []
    for name, score in Choice(choice.classes, choice.kept, choice.top_k, 0.0)(mean):
        peak = rows[best[place[name]]]
        if (high := float(peak.scores[place[name]])) >= choice.needs(place[name]):
            tags.append({"label": name, "score": round(score, 6), "peak": round(high, 6),
                         "peak_start": round(peak.start, 3), "peak_end": round(peak.end, 3)})
    return tags


def as_json(rows: Sequence[Row], choice: Choice, about: dict[str, Any]) -> str:
    """One object: what it is about, tags of the file, tags of each stretch."""
    stretches = [
        {"start": round(row.start, 3), "end": round(row.end, 3),
         "tags": [{"label": name, "score": round(score, 6)} for name, score in choice(row.scores)]}
        for row in rows
    ]
    found = about | {"tags": whole(rows, choice), "windows": stretches}
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def as_csv(rows: Sequence[Row], choice: Choice, about: dict[str, Any]) -> str:
    """file, start, end, label, score: a line for each tag of each stretch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "start", "end", "label", "score"])
    for row in rows:
        for name, score in choice(row.scores):
            writer.writerow([about["file"], f"{row.start:.3f}", f"{row.end:.3f}", name,
                             f"{score:.6f}"])
    return text.getvalue()


def as_audacity(rows: Sequence[Row], choice: Choice, about: dict[str, Any]) -> str:
    """start, end, label: a class that goes on is one label, with its best score."""
    running: dict[str, list[float]] = {}  # start, end, score
    done: list[tuple[float, float, str, float]] = []
    for row in rows:
        tags = dict(choice(row.scores))
        for name in [name for name in running if name not in tags]:
            start, end, score = running.pop(name)
            done.append((start, end, name, score))
        for name, score in tags.items():
            start, _, best = running.get(name, (row.start, 0, 0))
            running[name] = [start, row.end, max(best, score)]
    done += [(start, end, name, score) for name, (start, end, score) in running.items()]
    lines = [f"{start:.3f}\t{end:.3f}\t{name} {score:.2f}" for start, end, name, score in
             sorted(done, key=lambda each: (each[0], -each[3], each[2]))]
    return "".join(line + "\n" for line in lines)


def written(kind: str, rows: Sequence[Row], choice: Choice, about: dict[str, Any]) -> str:
    """The text of a file in one of the formats."""
    return {"json": as_json, "csv": as_csv, "audacity": as_audacity}[kind](rows, choice, about)
