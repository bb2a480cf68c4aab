"""What every threshold of the filter would keep, and how wrong that is. Needs no new labels.

    python -m pseudo_label.sweep RECIPE [key=value ...]

Each filter alone, over the whole range of its threshold. References, where there are any, are the
truth: the error rates of what is kept and of what is dropped say how well a filter that needs no
reference finds bad labels. Writes `sweep.json` and `sweep.html` beside the labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.files import read_jsonl, write_json, write_text
from distill.endings import run, writing_to
from distill.metrics.normalize import normalizer
from distill.whisper.data.label_files import planned_rows
from distill.whisper.recipe import FilterConfig, WhisperRecipe, load_recipe
from pseudo_label.filtering.filters import MEASURES, drop_reason, error_rate, lacking
from pseudo_label.labelling.compare import recount
from pseudo_label.labelling.shards import label_parts

# Thresholds are quantiles of what the labels have, denser where little is dropped.
_GRID = np.sort(np.append(np.linspace(0, 1, 51), [0.005, 0.01, 0.99, 0.995]))
_DIGITS = 3  # of a threshold: what is printed is what was counted


@dataclass
class Labels:
    """What thresholds decide about: labels that are whole and not empty, one entry each.

    Attributes:
        seconds: of audio.
        errors, tokens: edits against the reference, and its words (characters where words are not
            spaced); 0 without a reference.
        rates: the error rate a label is filtered by; NaN without a reference.
        values: key of a threshold -> what is compared with it; NaN where a label lacks it.
        units: labels with a reference by unit, `word` or `char`.
        left_out: labels that are dropped whatever the thresholds, by reason.
    """

    seconds: np.ndarray
    errors: np.ndarray
    tokens: np.ndarray
    rates: np.ndarray
    values: dict[str, np.ndarray]
    units: Counter
    left_out: Counter


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    folder = Path(recipe.labels_dir)
    from pseudo_label.filtering.sweep_text import page, table

    with writing_to(folder):
        recount(recipe)
        result = sweep(read_table(recipe), recipe.filter)
        write_json(folder / "sweep.json", result)
        write_text(folder / "sweep.html", page(result, Path(recipe.output_dir).name))
    print(table(result))
    print(f"Written to {folder}/sweep.json and {folder}/sweep.html")


def read_table(recipe: WhisperRecipe) -> Labels:
    """Numbers of all labels; the rows themselves need not fit the memory.

    Raises:
        ValueError: nothing is labelled, shards are missing, or no label is whole.
    """
    off = FilterConfig(max_wer=None, keep_unreferenced=recipe.filter.keep_unreferenced)
    numbers, units, left_out = [], Counter(), Counter()
    for row in _rows(Path(recipe.labels_dir)):
        reason = drop_reason(row, off, None)
        if reason is not None:
            left_out[reason] += 1
            continue
        errors, tokens = _edits(row, recipe)
        units[row["unit"]] += bool(tokens)
        values = [measure(row) for measure in MEASURES.values()]
        numbers.append((row["duration"], errors, tokens, error_rate(row), *values))
    if not numbers:
        lost = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(f"no label in {recipe.labels_dir} is left to sweep over ({lost})")
    columns = np.array(numbers, dtype=np.float64).T  # None becomes NaN
    values = dict(zip(MEASURES, columns[4:], strict=True))
    return Labels(*columns[:4], values, units, left_out)


def _rows(folder: Path) -> Iterator[dict]:
    for part in label_parts(folder):
        yield from planned_rows(folder, read_jsonl(part))


def _edits(row: dict, recipe: WhisperRecipe) -> tuple[int, int]:
    """(errors, reference tokens) in the row's unit; rows store counts of words only, so those of
    characters follow from the rate."""
    rate = error_rate(row)
    if rate is None:
        return 0, 0
    if row["unit"] == "word":
        return row["substitutions"] + row["deletions"] + row["insertions"], row["num_words"]
    clean = normalizer(recipe.evaluation.normalizer, row["language"] or recipe.language)
    num_chars = len(clean(row["reference"]))
    return round(rate * num_chars), num_chars


def sweep(labels: Labels, config: FilterConfig) -> dict:
    """Everything that sweep.json says.

    Labels count as bad above `config.max_wer`; its default where that is off.
    """
    limit = FilterConfig().max_wer if config.max_wer is None else config.max_wer
    referenced = ~np.isnan(labels.rates)
    return {
        "labels": len(labels.seconds),
        "hours": _hours(labels.seconds.sum()),
        "left_out": dict(sorted(labels.left_out.items())),
        "referenced": int(referenced.sum()),
        "referenced_hours": _hours(labels.seconds[referenced].sum()),
        "units": dict(sorted(labels.units.items())),
        "error_rate": _rate(labels.errors.sum(), labels.tokens.sum()),
        "bad_above": limit,
        "bad": int((labels.rates > limit).sum()),
        "filters": {key: _sweep_one(labels, key, getattr(config, key), limit) for key in MEASURES},
    }


def _sweep_one(labels: Labels, key: str, chosen: float | None, limit: float) -> dict:
    """One filter: `lacks` says why there is nothing to see, else `auc` and `points`."""
    values = labels.values[key]
    num_missing = int(np.isnan(values).sum())
    if key == "max_wer":
        if num_missing == len(values):
            return {"recipe": chosen, "lacks": "no label has a reference text"}
    elif num_missing:
        missing = f"{num_missing} of {len(values)} labels lack it"
        return {"recipe": chosen, "lacks": f"{missing}: {lacking(key)}"}
    referenced = ~np.isnan(labels.rates)
    bad = labels.rates[referenced] > limit
    return {
        "recipe": chosen,
        # of max_wer it is 1 by definition: it looks at what the others have to guess
        "auc": None if key == "max_wer" else auc(_sign(key) * values[referenced], bad),
        "points": curve(labels, key, chosen),
    }


def auc(scores: np.ndarray, bad: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a bad label scores higher than a good one, ties half.

    None where all are bad or none is. 0.5 is a guess.
    """
    num_bad = int(bad.sum())
    num_good = len(bad) - num_bad
    if not num_bad or not num_good:
        return None
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]  # from 1, equal ones share their mean
    above = ranks[bad].sum() - num_bad * (num_bad + 1) / 2
    return round(float(above / (num_bad * num_good)), 4)


def curve(labels: Labels, key: str, chosen: float | None) -> list[dict]:
    """What is kept at every threshold of the grid and at the recipe's own, in rising order.

    Labels without a reference pass `max_wer`.
    """
    values, sign = labels.values[key], _sign(key)
    known = ~np.isnan(values)
    columns = np.stack([np.ones(len(values)), labels.seconds, labels.errors, labels.tokens])
    order = np.argsort(sign * values[known], kind="stable")  # the best first
    scores = sign * values[known][order]
    kept = np.concatenate([np.zeros((4, 1)), columns[:, known][:, order].cumsum(1)], axis=1)
    kept += columns[:, ~known].sum(1, keepdims=True)
    total, points = columns.sum(1), []
    for threshold in thresholds(values[known], key, chosen):
        at = np.searchsorted(scores, sign * threshold, side="right")  # what is exactly at it stays
        count, seconds, errors, tokens = kept[:, at]
        points.append({
            "threshold": threshold,
            "labels": int(count),
            "hours": _hours(seconds),
            "error_rate_kept": _rate(errors, tokens),
            "error_rate_dropped": _rate(total[2] - errors, total[3] - tokens),
        })
    return points


def thresholds(values: np.ndarray, key: str, chosen: float | None) -> list[float]:
    """Quantiles of the values, rounded to the side that keeps them, and the recipe's own."""
    found = {
        _round_out(value, _sign(key))
        for value in np.quantile(values, _GRID, method="inverted_cdf").tolist()
    }
    return sorted(found if chosen is None else found | {chosen})


def _round_out(value: float, sign: int) -> float:
    """Up for an upper limit (sign 1), down for a lower one (-1), to a few significant digits."""
    if value == 0:
        return 0.0
    power = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    scaled = value * 10.0**power * sign
    whole = math.ceil(scaled - 1e-9) * sign  # 0.07 * 1000 is a little more than 70
    return float(f"{whole / 10.0**power:.{_DIGITS + 1}g}")


def _sign(key: str) -> int:
    """1 where more is worse."""
    return -1 if key.startswith("min_") else 1


def _hours(seconds: float) -> float:
    return round(float(seconds) / 3600, 4)


def _rate(errors: float, tokens: float) -> float | None:
    return round(float(errors / tokens), 6) if tokens else None


if __name__ == "__main__":
    run(main)
