"""From texts to error rates by model, noise and SNR, their intervals, and one number for them all.

The number is the **area** between the curves of a model and of the teacher: the difference of their
WER, averaged over the decibels of the SNRs that were measured (trapezoids) and over the noises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from distill.metrics.error_rates import (
    ErrorCounts,
    bootstrap_interval,
    error_counts,
    paired_bootstrap,
    total,
)
from eval.robustness.conditions import Condition
from eval.robustness.others import others_against

Texts = Mapping[Condition, dict]  # `texts` of all clips, `loops`, `again`


def figures(
    references: Sequence[str], texts: Mapping[str, Texts], normalise: Callable[[str], str],
    unit: str, num_bootstrap: int, seed: int,
) -> dict:
    """Figures of results.json that are about clips; rates are fractions.

    Args:
        references: normalised, of the clips in their order.
        texts: of each model; `teacher` is what others are compared with.

    Returns:
        `num_words`; `wer` {model: {noise: {SNR: rate}}} and `wer_of` {model: {clean or change:
        rate}}; `noises` and `changes`, the same with everything there is: wer, wer_ci,
        substitutions, deletions, insertions, loops, again and, but for the teacher's, difference,
        difference_ci, p_value; `others` (`eval.robustness.others`); `area` {model: {noise: area,
        all: mean}}, `area_ci` {model: ends}.
    """
    counts = {role: {condition: [error_counts(reference, normalise(text), unit) for reference, text
                                 in zip(references, found["texts"], strict=True)]
                     for condition, found in each.items()} for role, each in texts.items()}
    noises: dict = {role: defaultdict(dict) for role in texts}
    changes: dict = {role: {} for role in texts}
    for role, each in texts.items():
        for condition, found in each.items():
            entry = _entry(counts[role][condition], num_bootstrap, seed)
            entry |= {"loops": found["loops"], "again": found["again"]}
            if role != "teacher":
                entry |= _against(counts["teacher"][condition], counts[role][condition],
                                  num_bootstrap, seed)
            if condition.snr_db is None:
                changes[role][condition.kind] = entry
            else:
                noises[role][condition.kind][f"{condition.snr_db:g}"] = entry
    area, ends = {}, {}
    for role in texts.keys() - {"teacher"}:
        area[role], ends[role] = area_between(counts["teacher"], counts[role], num_bootstrap, seed)
    others = {role: counts[role] for role in texts if role not in ("teacher", "student")}
    return {
        "others": others_against(counts["student"], others, num_bootstrap, seed),
        "num_words": total(error_counts(text, "", unit) for text in references).num_reference,
        "wer": {role: {kind: {snr: entry["wer"] for snr, entry in row.items()}
                       for kind, row in each.items()} for role, each in noises.items()},
        "wer_of": {role: {kind: entry["wer"] for kind, entry in each.items()}
                   for role, each in changes.items()},
        "noises": {role: dict(each) for role, each in noises.items()}, "changes": changes,
        "area": area, "area_ci": ends,
    }


def _entry(counts: Sequence[ErrorCounts], num_bootstrap: int, seed: int) -> dict:
    sums, ends = asdict(total(counts)), bootstrap_interval(counts, num_bootstrap, seed)
    return {"wer": total(counts).rate, "wer_ci": list(ends) if ends else None,
            **{key: sums[key] for key in ("substitutions", "deletions", "insertions")}}


def _against(teacher: Sequence[ErrorCounts], model: Sequence[ErrorCounts], num_bootstrap: int,
             seed: int) -> dict:
    paired = paired_bootstrap(teacher, model, num_bootstrap, seed)
    assert paired is not None, "clips have references"
    return {"difference": paired.difference, "p_value": paired.p_value,
            "difference_ci": list(paired.interval) if paired.interval else None}


def area_between(
    teacher: Mapping[Condition, Sequence[ErrorCounts]],
    model: Mapping[Condition, Sequence[ErrorCounts]], num_bootstrap: int, seed: int,
) -> tuple[dict[str, float], list[float] | None]:
    """Mean difference of the error rates over the SNRs, as fractions: {noise: area, all: mean}, and
    a 95 % bootstrap interval of the mean over clips; ({}, None) where no noise was measured."""
    kinds = dict.fromkeys(each.kind for each in teacher if each.snr_db is not None)
    if not kinds:
        return {}, None
    excess = []  # of each noise: errors of each clip that the model has more
    words = np.array([count.num_reference for count in next(iter(teacher.values()))], float)
    for kind in kinds:
        rows = sorted((each for each in teacher if each.kind == kind), key=lambda c: c.snr_db)
        more = np.array([[one.errors - other.errors for one, other in
                          zip(model[row], teacher[row], strict=True)] for row in rows], float)
        excess.append(_weights([row.snr_db for row in rows]) @ more)
    areas = {kind: float(each.sum() / words.sum())
             for kind, each in zip(kinds, excess, strict=True)}
    mean = np.mean(excess, axis=0)
    areas["all"] = float(mean.sum() / words.sum())
    if len(words) < 2:
        return areas, None
    drawn = np.random.default_rng(seed).multinomial(
        len(words), np.full(len(words), 1 / len(words)), size=num_bootstrap)
    sizes = drawn @ words
    rates = (drawn @ mean)[sizes > 0] / sizes[sizes > 0]
    return areas, [float(end) for end in np.quantile(rates, [0.025, 0.975])]


def _weights(snrs: Sequence[float]) -> np.ndarray:
    """Of each SNR in the mean over all decibels between the first and the last."""
    if len(snrs) == 1:
        return np.ones(1)
    steps = np.diff(snrs)
    weights = np.zeros(len(snrs))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return weights / weights.sum()
