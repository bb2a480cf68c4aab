"""How well an audio tagger ranks and how far its probabilities can be believed.

    results = evaluate_tags(scores, targets, classes)

`scores` are probabilities (clips, classes), `targets` are 0 or 1 of the same shape. Everything but
the calibration needs the order alone, so logits do as well there; take the sigmoid in float64
(`sigmoid`): in float32 it is exactly 1 from a logit of 17 on, and ties change a ranking.

A class without positive clips has no average precision: it is left out of the mean and the number
of classes that are left is always told (scikit-learn calls such a class 0). Per-class values that
do not exist are NaN; in the dictionary of `evaluate_tags`, which goes into JSON, they are None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from distill.metrics.ranking import PerClass, Ranking, checked, divide

NUM_BINS = 15  # of the expected calibration error, arXiv:1706.04599 table 1
FRACTION, EVERYWHERE = (0.0, 1.0), (-np.inf, np.inf)  # where a metric's values can be
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Difference:
    """Student minus teacher on the same clips: positive means that the student is better."""

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None  # two-sided


def macro(values: np.ndarray) -> float:
    """Mean over the classes that have a value; NaN without any."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(classes,) average precision, NaN for a class without positives."""
    return per_class_of(scores, targets).average_precision


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> tuple[float, int]:
    """mAP of AudioSet: the macro mean, and the number of classes with a positive in it.

    Of few clips it is too high, as any AP with few positives is (simulated with 100 rare classes:
    0.455 on 1,000 clips, 0.434 on 4,000, 0.428 on 100,000): compare on the same clips only.
    """
    values = average_precision(scores, targets)
    return macro(values), int((~np.isnan(values)).sum())


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(classes,) share of (positive, negative) pairs in the right order, a tie counting half;
    NaN for a class without positives or without negatives."""
    return per_class_of(scores, targets).auc


def per_class_of(scores: np.ndarray, targets: np.ndarray) -> PerClass:
    """Counts, average precision and AUC of all classes from one sort."""
    return Ranking.of(scores, targets).measure()


def d_prime(per_class: PerClass) -> np.ndarray:
    """(classes,) sqrt(2) * inverse normal CDF of the AUC: the distance of two unit normals.

    An AUC of 1 would be infinite: it is taken as half a pair short of it, 1 - 1 / (2 * pairs), and
    0 alike (Macmillan & Kaplan 1985, doi:10.1037/0033-2909.98.1.185). No other AUC is changed.
    """
    pairs = per_class.num_positives * per_class.num_negatives
    return _d_prime(per_class.auc, 0.5 / np.maximum(pairs, 1))


def _d_prime(auc: np.ndarray, smallest: np.ndarray) -> np.ndarray:
    # the inner bound keeps the probability apart from 1 when `smallest` is below float64's step
    smallest = np.maximum(smallest, 1e-15)
    clipped = np.clip(auc, smallest, 1 - smallest)
    return np.sqrt(2) * np.array(
        [value if np.isnan(value) else _NORMAL.inv_cdf(value) for value in clipped.tolist()]
    )


def d_prime_of_mean_auc(per_class: PerClass) -> float:
    """The d' of PSLA (arXiv:2102.01243) and Whisper-AT: of the mean AUC; below `mean_d_prime`
    where classes differ and are ranked better than by chance."""
    pairs = per_class.num_positives * per_class.num_negatives
    num_classes = int((pairs > 0).sum())
    # no mean of AUCs but a perfect one comes closer to 1 than this
    smallest = 0.5 / max(1, num_classes * int(pairs.max()))
    return float(_d_prime(np.array([macro(per_class.auc)]), np.array([smallest]))[0])


def mean_d_prime(per_class: PerClass) -> float:
    """The d' of HEAR (arXiv:2203.03022): the mean over classes."""
    return macro(d_prime(per_class))


def clip_precision(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per clip, the sum over its labels of the precision at the label's rank, and its labels.

    A label's rank is the number of classes with its score or a higher one: ties are always counted
    against the tagger, and the order of the classes does not matter.
    """
    scores, targets = checked(scores, targets)
    found = per_class_of(scores.T, targets.T)
    return np.nan_to_num(found.average_precision) * found.num_positives, found.num_positives


def lwlrap(scores: np.ndarray, targets: np.ndarray) -> float:
    """Label-weighted label-ranking average precision (arXiv:1906.02975): the mean over all
    (clip, label) pairs. Clips without labels have no part in it; NaN without any label."""
    precision, num_labels = clip_precision(scores, targets)
    return float(divide(precision.sum(), num_labels.sum()))


def interval_of(
    estimate: float, draws: np.ndarray, confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float] | None:
    """Quantiles of bootstrap draws, moved so that their mean is the estimate; None without draws.

    Moved, they may leave what the metric can be: they are cut at its `bounds`, by default those of
    a fraction where neither the estimate nor a draw is anything else.

    A positive drawn twice stands at one rank with its copy, so the mAP of resamples is too high:
    by a whole standard deviation where classes have few positives. Simulated with 100 rare classes
    and 1,000 clips, plain 95 % quantiles held the mAP that such test sets have on average in 73 of
    100 cases, these in 90. Draws without a value (no positive was drawn at all) are left out.
    """
    draws = draws[~np.isnan(draws)]
    if not len(draws) or np.isnan(estimate):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) - (draws.mean() - estimate)
    if bounds is None:
        ends = min(estimate, draws.min()), max(estimate, draws.max())
        bounds = FRACTION if ends[0] >= 0 and ends[1] <= 1 else EVERYWHERE
    return float(max(low, bounds[0])), float(min(high, bounds[1]))


def clip_draws(num_clips: int, num: int, seed: int) -> Iterator[np.ndarray]:
    """`num` times (num_clips,) clips drawn with replacement; all bootstraps here draw the same."""
    generator = np.random.default_rng(seed)
    return (generator.integers(num_clips, size=num_clips) for _ in range(num))


def bootstrap_interval_of(
    metric: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray, targets: np.ndarray,
    num: int = 1000, seed: int = 0, confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float] | None:
    """Bootstrap over clips for any `metric(scores, targets)`; see `interval_of`.

    None for fewer than two clips, or without a value. Measures every resample from the start: for
    the metrics of `evaluate_tags`, `bootstrap_tags` does the same without a sort.
    """
    scores, targets = checked(scores, targets)
    if len(scores) < 2:
        return None
    draws = [metric(scores[rows], targets[rows]) for rows in clip_draws(len(scores), num, seed)]
    return interval_of(metric(scores, targets), np.array(draws, dtype=np.float64), confidence,
                       bounds)


def _averages(per_class: PerClass) -> dict[str, float]:
    return {
        "mean_average_precision": macro(per_class.average_precision),
        "auc": macro(per_class.auc),
        "d_prime_of_mean_auc": d_prime_of_mean_auc(per_class),
        "mean_d_prime": mean_d_prime(per_class),
    }


def bootstrap_tags(
    scores: np.ndarray, targets: np.ndarray, num: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """(num,) draws of every average of `evaluate_tags`, from one sort. A class that loses its
    positives in a resample is left out of that resample's mean, as it would be anywhere."""
    ranking = Ranking.of(scores, targets)
    precision, num_labels = clip_precision(scores, targets)
    found = []
    for rows in clip_draws(len(scores), num, seed):
        weights = np.bincount(rows, minlength=len(scores))
        of_labels = float(divide(weights @ precision, weights @ num_labels))
        found.append({**_averages(ranking.measure(weights)), "lwlrap": of_labels})
    return {key: np.array([draw[key] for draw in found]) for key in (found[0] if found else ())}


def paired_bootstrap_of_map(
    teacher: np.ndarray, student: np.ndarray, targets: np.ndarray,
    num: int = 1000, seed: int = 0, confidence: float = 0.95,
) -> Difference:
    """Is the student's mAP different, on the very same clips and classes?

    Both are measured on the same resamples, so what makes a clip hard for both cancels out. The
    p-value is twice the share of draws in which the sign turns (at least 1 / (draws + 1)).
    """
    rankings = [Ranking.of(scores, targets) for scores in (teacher, student)]

    def difference(weights: np.ndarray | None = None) -> float:
        first, second = (macro(r.measure(weights).average_precision) for r in rankings)
        return second - first

    estimate, num_clips = difference(), len(targets)
    draws = np.array([difference(np.bincount(rows, minlength=num_clips))
                      for rows in clip_draws(num_clips, num if num_clips > 1 else 0, seed)])
    interval = interval_of(estimate, draws, confidence, EVERYWHERE)
    if interval is None:
        return Difference(estimate, None, None)
    draws = draws[~np.isnan(draws)]
    draws = draws - (draws.mean() - estimate)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return Difference(estimate, interval, min(1.0, 2 * (int(tail) + 1) / (len(draws) + 1)))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64; without overflow on either side."""
    small = np.exp(-np.abs(np.asarray(logits, dtype=np.float64)))
    return np.where(np.asarray(logits) >= 0, 1, small) / (1 + small)


def probabilities(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`checked`, and within [0, 1]."""
    scores, targets = checked(scores, targets)
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError("scores must be probabilities, got numbers from "
                         f"{scores.min():g} to {scores.max():g}: apply `sigmoid` to logits")
    return scores, targets


def reliability_bins(
    scores: np.ndarray, targets: np.ndarray, num_bins: int = NUM_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bins,) each: scores in it, their mean, and the share of positives; NaN for an empty bin.

    Bins are equally wide, [k / bins, (k + 1) / bins), the last one with its upper end.
    """
    scores, targets = probabilities(scores, targets)
    index = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1).ravel()
    count = np.bincount(index, minlength=num_bins)
    sums = [np.bincount(index, values.ravel(), num_bins) for values in (scores, targets)]
    return count, divide(sums[0], count), divide(sums[1], count)


def expected_calibration_error(
    scores: np.ndarray, targets: np.ndarray, num_bins: int = NUM_BINS
) -> float:
    """Mean |score - share of positives| over bins (arXiv:1706.04599 sec. 2), each (clip, class) a
    yes-or-no question. Most answers are a sure no: compare taggers on the same classes only."""
    count, mean_score, positive_rate = reliability_bins(scores, targets, num_bins)
    return float(np.nansum(count * np.abs(mean_score - positive_rate)) / count.sum())


def brier_score(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean squared error of the probabilities, over all (clip, class)."""
    scores, targets = probabilities(scores, targets)
    return float(np.square(scores - targets).mean())


def evaluate_tags(
    scores: np.ndarray, targets: np.ndarray, classes: Sequence[str],
    num_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95,
) -> dict[str, Any]:
    """Everything above as one dictionary, ready for JSON: values with the counts behind them.

    Args:
        scores: (clips, classes) probabilities. `NAME_ci` are intervals, [low, high] or None.
    """
    scores, targets = probabilities(scores, targets)
    if len(classes) != scores.shape[1]:
        raise ValueError(f"{scores.shape[1]} classes are scored, but {len(classes)} have names")
    found = per_class_of(scores, targets)
    averages = {**_averages(found), "lwlrap": lwlrap(scores, targets)}
    draws = bootstrap_tags(scores, targets, num_bootstrap if len(scores) > 1 else 0, seed)
    result: dict[str, Any] = {
        "num_clips": len(scores),
        "num_clips_with_labels": int(targets.any(1).sum()),
        "num_labels": int(targets.sum()),
        "num_classes": len(classes),
        "num_classes_with_positives": int((found.num_positives > 0).sum()),
        "num_classes_with_auc": int((~np.isnan(found.auc)).sum()),
        "num_bootstrap": num_bootstrap, "confidence": confidence,
    }
    for name, value in averages.items():
        bounds = EVERYWHERE if "d_prime" in name else FRACTION
        interval = interval_of(value, draws[name], confidence, bounds) if draws else None
        result |= {name: _json(value), f"{name}_ci": interval and list(interval)}
    columns = {
        "num_positives": found.num_positives, "positive_rate": targets.mean(0),
        "mean_score": scores.mean(0), "average_precision": found.average_precision,
        "auc": found.auc, "d_prime": d_prime(found),
    }
    return {
        **result, "ece": expected_calibration_error(scores, targets), "ece_num_bins": NUM_BINS,
        "brier": brier_score(scores, targets),
        "classes": [
            {"name": name, **{key: _json(values[at].item()) for key, values in columns.items()}}
            for at, name in enumerate(classes)
        ],
    }


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
