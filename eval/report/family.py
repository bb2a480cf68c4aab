"""The report's section on a family of students: the picture, what to take, and the table."""

from __future__ import annotations

from html import escape

from distill.html.page import figure, table
from distill.html.tradeoff import Curve, Point, tradeoff_chart
from eval.family.table import (
    about,
    budget_text,
    conclusions,
    difference_text,
    rate_text,
)

_STYLES = {"float32": "b", "int8": "c"}


def picture(results: dict) -> tuple[str, str]:
    """(title, chart): errors on the test split by milliseconds a clip, a curve a number type."""
    rate = "WER" if results["error_unit"] == "word" else "CER"
    title = f"{rate} of test clips by time"
    curves = [Curve("teacher, float32", [_point(results["teacher"], "", False)], "a")]
    for dtype in results["students"][0]["ways"]:
        students = sorted(results["students"], key=lambda each: len(each["decoder_layers"]))
        points = [_point(each["ways"][dtype], str(len(each["decoder_layers"])),
                         _is_chosen(results, each["name"], dtype)) for each in students]
        curves.append(Curve(f"students, {dtype}", points, _STYLES.get(dtype, "d")))
    limit = results["budget"]["milliseconds"]
    seconds = results["timed_clips"]["seconds"]
    return title, tradeoff_chart(title, curves, f"ms a clip of {seconds:g} s", f"{rate} (%)", limit,
                                 f"budget {limit:g} ms" if limit is not None else "")


def _point(way: dict, label: str, is_chosen: bool) -> Point:
    errors = way["test"]
    ends = errors["error_rate_ci"]
    return Point(way["milliseconds"], 100 * errors["error_rate"], label,
                 None if ends is None else (100 * ends[0], 100 * ends[1]), is_chosen)


def _is_chosen(results: dict, name: str, dtype: str) -> bool:
    chosen = results["chosen"]
    return chosen is not None and (chosen["name"], chosen["dtype"]) == (name, dtype)


def render_family(results: dict) -> str:
    """HTML of family/results.json."""
    title, chart = picture(results)
    caption = (
        "Test split, each clip by itself. Numbers are decoder layers; whiskers are 95 % bootstrap "
        "intervals over clips; the ring is the student that was chosen, on the validation split"
        + (f", for a budget of {limits}" if (limits := budget_text(results["budget"])) else "")
        + ".")
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in conclusions(results))
    return (f'<div class="grid-2">{figure(title, chart, caption)}<div class="card">{said}'
            f'<p class="note">{escape(about(results))}</p></div></div>'
            f'<div class="card">{_table(results)}</div>')


def _table(results: dict) -> str:
    rate = "WER" if results["error_unit"] == "word" else "CER"
    rows = [_row("teacher", "float32", results["teacher"])]
    for student in results["students"]:
        layers = " ".join(map(str, student["decoder_layers"]))
        rows += [_row(f"decoder layers {layers}", dtype, way)
                 for dtype, way in student["ways"].items()]
    return table(("", "Milliseconds", "Megabytes", f"Validation {rate}", f"Test {rate}",
                  "Test, minus teacher", "Loops\nvalidation + test"), rows)


def _row(name: str, dtype: str, way: dict) -> tuple[str, ...]:
    loops = f"{way['validation']['looping_clips']} + {way['test']['looping_clips']}"
    return (f"{name}\n{dtype}", f"{way['milliseconds']:.0f}", f"{way['megabytes']:.0f}",
            rate_text(way["validation"]), rate_text(way["test"]), difference_text(way["test"]),
            loops)
