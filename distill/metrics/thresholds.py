"""From which probability on a class counts as heard, and how well that does.

    found = at_precision(scores, targets, 0.8, 0.9)   # chosen on validation clips
    f1_of(scores_of_the_test, its_targets, found)     # measured on others
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

NEVER = 1.01  # no probability reaches it
_LEAST_RECALL = 0.1


def at_precision(
    scores: np.ndarray, targets: np.ndarray, precision: float, confidence: float = 0.9,
    recordings: Sequence[Sequence[Collection[str]]] = (),
) -> np.ndarray:
    """(classes,) the lowest threshold at which so many of the clips that count as heard are right:
    not of these clips alone, but with some confidence of others like them, too.

    It lies half-way to the next lower score. Where no threshold is that good, or those that are
    hear less than a tenth of the clips that have the class, which is chance, it is NEVER. A few
    clips prove little: with a confidence of 90 %, it takes all of seven that are right for a
    precision of 80 %, or 19 of 20. Scenes that are mixed of the same recordings prove no more
    than these do: if 40 right ones are of four recordings, each counts as a tenth.

    Args:
        scores: probabilities (clips, classes).
        targets: 0 or 1, of the same shape.
        confidence: that the precision of other clips is not lower; 0.5: that of these clips is
            taken as it is.
        recordings: of each class, of each clip, the names of the recordings that it has the class
            of; none: it is one of its own. []: so are all.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"a precision must be in (0, 1], got {precision}")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"a confidence must be in [0.5, 1), got {confidence}")
    if precision == 1 and confidence > 0.5:
        raise ValueError("no number of clips proves a precision of 1: ask for less, or for a "
                         "confidence of 0.5")
    found = np.full(scores.shape[1], NEVER)
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        values, hits = scores[order, column], np.cumsum(targets[order, column] > 0)
        heard = np.arange(1, len(values) + 1)
        is_last = np.append(values[1:] < values[:-1], True)  # of clips with the same score
        least = max(1.0, _LEAST_RECALL * hits[-1])
        is_good = at_least(hits, heard, confidence) >= precision - 1e-9
        if len(recordings):
            names = [recordings[column][clip] for clip in order]
            each = _recordings(names, targets[order, column] > 0) / np.maximum(hits, 1)
            each = np.where(hits > 0, np.minimum(each, 1.0), 1.0)  # of a recording, that clips are
            is_good = at_least(hits * each, heard * each, confidence) >= precision - 1e-9
        good = np.flatnonzero(is_last & (hits >= least) & is_good)
        if len(good):
            at = good[-1]
            below = values[at + 1] if at + 1 < len(values) else 0.0
            found[column] = (values[at] + below) / 2
    return found


def _recordings(names: Sequence[Collection[str]], there: np.ndarray) -> np.ndarray:
    """How many recordings the first clip has of a class, the first two, and so on."""
    seen: set[Any] = set()
    counts = []
    for number, (each, has) in enumerate(zip(names, there, strict=True)):
        if has:
            seen.update(each or [number])
        counts.append(len(seen))
    return np.array(counts)


def at_least(hits: Any, counts: Any, confidence: float) -> Any:
    """What a share is at least, of which `hits` of `counts` were seen: one-sided, by Wilson's score
    (doi:10.1080/01621459.1927.10502953)."""
    z = NormalDist().inv_cdf(confidence)
    share, more = hits / counts, z * z / counts
    spread = z * np.sqrt(share * (1 - share) / counts + more / counts / 4)
    return (share + more / 2 - spread) / (1 + more)


def share_interval(hits: int, count: int) -> list[float]:
    """The interval of 95 % of a share of which `hits` of `count` were seen, by Wilson's score."""
    low, rest = at_least(np.array([hits, count - hits]), np.array([count, count]), 0.975)
    return [max(0.0, float(low)), min(1.0, 1 - float(rest))]


def f1_of(
    scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray,
    classes: Sequence[str], num_bootstrap: int, seed: int,
) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each class, with 95 % intervals over clips.

    Returns:
        by class: num_positives, threshold (None: never heard), precision, recall, f1, f1_ci. What
        has no value, as the precision of a class that is never heard, is None.
    """
    heard, there = scores >= thresholds, targets > 0
    rng = np.random.default_rng(seed)
    draws = np.stack([_f1(heard[chosen], there[chosen]) for chosen in
                      (rng.integers(0, len(heard), len(heard)) for _ in range(num_bootstrap))]
                     ) if num_bootstrap else np.empty((0, len(classes)))
    hits, claims, positives = (heard & there).sum(0), heard.sum(0), there.sum(0)
    values, found = _f1(heard, there), {}
    for column, name in enumerate(classes):
        drawn = draws[:, column][~np.isnan(draws[:, column])]
        is_used = thresholds[column] < NEVER
        found[name] = {
            "num_positives": int(positives[column]),
            "threshold": float(thresholds[column]) if is_used else None,
            "precision": float(hits[column] / claims[column]) if claims[column] else None,
            "recall": float(hits[column] / positives[column]) if positives[column] else None,
            "f1": None if np.isnan(values[column]) else float(values[column]),
            "f1_ci": np.quantile(drawn, [0.025, 0.975]).tolist() if len(drawn) else None,
        }
    return found


def _f1(heard: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(classes,); NaN for a class without positives."""
    hits, claims, positives = (heard & there).sum(0), heard.sum(0), there.sum(0)
    with np.errstate(invalid="ignore"):
        return np.where(positives > 0, 2 * hits / (claims + positives), np.nan)
