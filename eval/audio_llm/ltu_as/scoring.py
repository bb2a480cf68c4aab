"""From answers to labels and numbers. What cannot be understood is wrong, and counted.

    find_label("Emotion: happy.", labels, aliases)      # "happy"; None where it is none, or several
    find_age("She is 30 to 40 years old.")              # 35.0
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.metrics.thresholds import share_interval

_RANGE = re.compile(r"(\d{1,3})\s*(?:-|\u2013|to|and)\s*(\d{1,3})")
Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> (texts, width)


def without(text: str, told: Sequence[str]) -> str:
    """Without what answers of a task begin with."""
    for each in told:
        if text.lower().startswith(each):
            return text[len(each) :].strip()
    return text.strip()


def find_label(text: str, labels: Sequence[str],
               aliases: Mapping[str, Sequence[str]]) -> str | None:
    """The only label that an answer names, by itself or an alias, as whole words; a longer name
    wins over one inside it (`heavy metal` over `metal`)."""
    left, found = text.lower(), set()
    names = [(each.lower(), label) for label in labels for each in (label, *aliases.get(label, ()))]
    for name, label in sorted(names, key=lambda pair: -len(pair[0])):
        left, count = re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", " ", left)
        if count:
            found.add(label)
    return found.pop() if len(found) == 1 else None


def find_age(text: str) -> float | None:
    """The mean of the first range of years, or the first number; None where there is none that a
    person may be old."""
    if match := _RANGE.search(text):
        age = (int(match[1]) + int(match[2])) / 2
    elif match := re.search(r"\d+", text):
        age = float(match[0])
    else:
        return None
    return age if age <= 120 else None


def nearest_labels(answers: Sequence[str], labels: Sequence[str], prefix: str,
                   embed: Embed) -> list[str | None]:
    """The label whose embedding has the largest cosine with each answer's; None of empty ones."""
    of_labels = _unit(embed([prefix + each for each in labels]))
    said = [n for n, each in enumerate(answers) if each.strip()]
    found: list[str | None] = [None] * len(answers)
    if said:
        cosines = _unit(embed([prefix + answers[n] for n in said])) @ of_labels.T
        for n, best in zip(said, cosines.argmax(1), strict=True):
            found[n] = labels[int(best)]
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def score_labels(found: Sequence[str | None], references: Sequence[str]) -> dict[str, Any]:
    """`accuracy` (with Wilson's interval), `macro_f1`, `parse_rate`; what is None is wrong."""
    right = sum(a == b for a, b in zip(found, references, strict=True))
    scores = []
    for label in sorted(set(references)):
        hits = sum(a == b == label for a, b in zip(found, references, strict=True))
        claims, positives = list(found).count(label), list(references).count(label)
        scores.append(2 * hits / (claims + positives))
    count = len(references)
    return {"accuracy": right / count, "accuracy_ci": share_interval(right, count),
            "macro_f1": float(np.mean(scores)),
            "parse_rate": sum(each is not None for each in found) / count}


def score_ages(found: Sequence[float | None], references: Sequence[float],
               num_samples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """`mae` in years with an interval over clips; an answer without an age is as wrong as the worst
    age of the set would be. `mae_parsed` leaves them out, as LTU-AS does."""
    low, high = min(references), max(references)
    errors = np.array([max(b - low, high - b) if a is None else abs(a - b)
                       for a, b in zip(found, references, strict=True)])
    parsed = np.array([each is not None for each in found])
    draws = np.random.default_rng(seed).integers(0, len(errors), (num_samples, len(errors)))
    return {"mae": float(errors.mean()),
            "mae_ci": np.quantile(errors[draws].mean(1), [0.025, 0.975]).tolist(),
            "mae_parsed": float(errors[parsed].mean()) if parsed.any() else None,
            "parse_rate": float(parsed.mean())}
