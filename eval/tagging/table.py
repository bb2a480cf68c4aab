"""Results of `distill.metrics.tagging.evaluate_tags`: models side by side, and all classes as CSV.

    print(markdown_table({"teacher": results, "student": others}))
    write_class_csv("runs/NAME/eval/classes.csv", results)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from distill.data.files import write_text

CLASS_COLUMNS = ("name", "num_positives", "positive_rate", "mean_score", "average_precision",
                 "auc", "d_prime")


def write_class_csv(path: str | Path, results: Mapping) -> None:
    """One line per class, in the order of the model's outputs; all or nothing.

    A value that does not exist is an empty field, not a 0. Names with commas are quoted (75 of
    AudioSet's 527 have one), lines end in LF.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CLASS_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results["classes"])
    write_text(path, text.getvalue())


def markdown_table(systems: Mapping[str, Mapping]) -> str:
    """A Markdown table, padded to be read as plain text too: models are columns.

    Args:
        systems: what each model is called, and its results. `parameters`, `bytes`,
            `clips_per_second` and `ms_per_10_s` (numbers) are shown if any of them has it; what
            one lacks is "-".
    """
    if not systems:
        raise ValueError("no results to show: expected at least one model")
    rows = [(label, show) for label, key, show in _rows(_confidence(systems))
            if any(results.get(key) is not None for results in systems.values())]
    cells = [["", *(name.replace("|", "\\|") for name in systems)]]
    cells += [[label, *map(show, systems.values())] for label, show in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]]) + "\n"


def _line(row: list[str], widths: list[int]) -> str:
    first = row[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *others])} |"


def _confidence(systems: Mapping[str, Mapping]) -> str:
    """How sure the intervals are, the same for all models: 95 %."""
    found = {results["confidence"] for results in systems.values()}
    if len(found) > 1:
        raise ValueError("models in one table need intervals of the same confidence, got "
                         f"{sorted(found)}")
    return f"{100 * found.pop():g} % CI"


def _rows(confidence: str) -> list[tuple[str, str, Callable[[Mapping], str]]]:
    """(label, key that must be there, what to write for a model)."""
    numbers = [  # label, key, scale, digits
        (f"mAP, % [{confidence}]", "mean_average_precision", 100, 2),
        (f"AUC, % [{confidence}]", "auc", 100, 2),
        (f"d' of the mean AUC [{confidence}]", "d_prime_of_mean_auc", 1, 3),
        (f"mean d' of classes [{confidence}]", "mean_d_prime", 1, 3),
        (f"lwlrap, % [{confidence}]", "lwlrap", 100, 2),
        ("calibration error (ECE), %", "ece", 100, 3),
        ("Brier score", "brier", 1, 5),
        ("parameters, M", "parameters", 1e-6, 2),
        ("size of the weights, MB", "bytes", 1e-6, 1),
        ("clips per second", "clips_per_second", 1, 1),
        ("ms for 10 s alone", "ms_per_10_s", 1, 1),
        ("recordings measured on", "num_clips", 1, 0),
    ]
    return [
        *((label, key, _number(key, scale, digits)) for label, key, scale, digits in numbers),
        ("classes with positives", "num_classes_with_positives",
         lambda r: f"{r['num_classes_with_positives']} of {r['num_classes']}"),
    ]


def _number(key: str, scale: float, digits: int) -> Callable[[Mapping], str]:
    def show(results: Mapping) -> str:
        if results.get(key) is None:
            return "-"
        ends = results.get(f"{key}_ci")
        interval = f" [{', '.join(f'{scale * end:.{digits}f}' for end in ends)}]" if ends else ""
        return f"{scale * results[key]:.{digits}f}{interval}"

    return show
