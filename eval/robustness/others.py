"""The models of `robustness.models` beside the student: with other seeds, or trained in noise.

What is compared is the mean of these models with the student, on the very same clips. Intervals are
over clips and models: both are drawn with replacement, so that one lucky seed counts as what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distill.metrics.error_rates import ErrorCounts
from eval.robustness.conditions import Condition

Counts = Mapping[Condition, Sequence[ErrorCounts]]


def others_against(student: Counts, others: Mapping[str, Counts], num_bootstrap: int, seed: int
                   ) -> dict:
    """Rates are fractions, differences those of the other models from the student.

    Returns:
        {} without other models; else `models`, `changes` {clean or change: entry}, `noises`
        {noise: {SNR: entry}} and `all_noises` {SNR: entry}. An entry has wer (the mean of the
        models), difference, difference_ci (95 %; None of a single clip) and each (model by model).
    """
    if not others:
        return {}
    words = np.array([each.num_reference for each in next(iter(student.values()))], float)

    def more(conditions: Sequence[Condition]) -> np.ndarray:
        """(models, clips) errors that the others have more, on average over conditions."""
        return np.array([[[one.errors - other.errors for one, other in
                           zip(counts[each], student[each], strict=True)]
                          for each in conditions] for counts in others.values()], float).mean(1)

    def entry(conditions: Sequence[Condition]) -> dict:
        errors = more(conditions)
        plain = np.mean([[each.errors for each in student[one]] for one in conditions], axis=0)
        difference = errors.mean(0).sum() / words.sum()
        return {"wer": float(plain.sum() / words.sum() + difference),
                "difference": float(difference),
                "difference_ci": interval(errors, words, num_bootstrap, seed),
                "each": (errors.sum(1) / words.sum()).tolist()}

    noises: dict[str, dict[str, dict]] = {}
    at: dict[str, list[Condition]] = {}
    for each in student:
        if each.snr_db is not None:
            noises.setdefault(each.kind, {})[f"{each.snr_db:g}"] = entry([each])
            at.setdefault(f"{each.snr_db:g}", []).append(each)
    return {"models": list(others),
            "changes": {each.kind: entry([each]) for each in student if each.snr_db is None},
            "noises": noises, "all_noises": {snr: entry(found) for snr, found in at.items()}}


def interval(errors: np.ndarray, words: np.ndarray, num_bootstrap: int, seed: int
             ) -> list[float] | None:
    """95 % interval of a mean over models and clips.

    Args:
        errors: (models, clips); words: (clips,).
    """
    models, clips = errors.shape
    if clips < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(clips, np.full(clips, 1 / clips), size=num_bootstrap)
    weights = rng.multinomial(models, np.full(models, 1 / models), size=num_bootstrap) / models
    sizes = drawn @ words
    sums = ((weights @ errors) * drawn).sum(1)
    return [float(end) for end in np.quantile((sums / np.maximum(sizes, 1))[sizes > 0],
                                              [0.025, 0.975])]
