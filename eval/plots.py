"""The pictures of a model card: SVG files that need no page around them.

    python -m eval.plots runs/demo     # writes runs/demo/eval/plots/*.svg

Drawn from results.json and metrics.jsonl; a picture whose figures are not there is not drawn.
Publishing (`distill.hub`) takes the files as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from distill.data.files import read_json, write_text
from distill.endings import run as run_command
from distill.html.charts import WIDTH, Bar, Series, bar_chart, line_chart
from distill.html.page import CHART_STYLE, COLOURS, interval, percent
from eval.report.run_folder import folder_argument, metrics_of

_HEAD = 30  # units above a chart, for its title
_FONT = 'svg { font: 12px system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }'
# key of results.json, title, axis
_QUALITY = {
    "wer": ("WER", "errors per 100 words (%), lower is better"),
    "cer": ("CER", "errors per 100 characters (%), lower is better"),
    "mean_average_precision": ("mAP", "mean average precision (%), higher is better"),
}
_SPEED = {
    "rtfx": ("Speed", "seconds of audio per second, higher is better"),
    "clips_per_second": ("Speed", "clips per second, higher is better"),
}
_VALIDATION = {
    "wer": ("Validation error rate", "error rate (%)"),
    "map": ("Validation mAP", "mean average precision (%)"),
}


def write_plots(run: Path) -> list[Path]:
    """Draw what there are figures for; files of older figures go."""
    results = read_json(run / "eval" / "results.json")
    drawn = {"1-quality": _quality(results), "2-speed": _speed(results),
             "3-loss": _loss(metrics_of(run, "train")),
             "4-validation": _validation(metrics_of(run, "validation"))}
    folder = run / "eval" / "plots"
    for path in folder.glob("*.svg"):
        if not drawn.get(path.stem):
            path.unlink()
    for name, picture in drawn.items():
        if picture:
            write_text(folder / f"{name}.svg", picture)
    return sorted(folder.glob("*.svg"))


def standalone(title: str, chart: str, note: str = "") -> str:
    """A whole SVG file of a chart of `distill.html.charts`, in the light or dark colours of its
    reader.

    Args:
        chart: what `bar_chart` or `line_chart` returned; what is not SVG in it is left out.
    """
    found = re.search(r'<svg class="chart"[^>]*viewBox="0 0 \S+ ([\d.]+)">(.*?)</svg>', chart, re.S)
    if found is None:  # nothing that could be drawn
        return ""
    height = float(found[1]) + _HEAD + (18 if note else 0)
    below = f'<text x="8" y="{height - 6:g}">{escape(note)}</text>' if note else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{2 * WIDTH}" height="{2 * height:g}" role="img">'
        f"<style>{COLOURS}{CHART_STYLE}{_FONT}</style>"
        f'<rect width="{WIDTH}" height="{height:g}" rx="8" style="fill: var(--card)"/>'
        f'<g class="chart"><text class="strong" x="8" y="18">{escape(title)}</text>{below}'
        f'<g transform="translate(0 {_HEAD})">{found[2]}</g></g></svg>\n'
    )


def _quality(results: dict) -> str:
    key = next((k for k in _preferred(results) if _student(results).get(k) is not None), None)
    if key is None:
        return ""
    name, axis = _QUALITY[key]
    bars = []
    for role, model in _models(results):
        if model.get(key) is not None:
            ends = model.get(f"{key}_ci")
            text = f"{percent(model[key])} {interval(ends)}".strip()
            scaled = None if ends is None else (100 * ends[0], 100 * ends[1])
            bars.append(Bar(role.capitalize(), 100 * model[key], text, role, scaled))
    title = f"{name} on the {results['split']} split, with 95 % intervals"
    return standalone(title, bar_chart(title, bars, axis))


def _preferred(results: dict) -> Sequence[str]:
    """The key figure first: characters where words are not spaced."""
    return sorted(_QUALITY, key=lambda key: key != "cer") if (
        results.get("error_unit") == "char") else list(_QUALITY)


def _speed(results: dict) -> str:
    key = next((k for k in _SPEED if _student(results).get(k) is not None), None)
    if key is None:
        return ""
    title, axis = _SPEED[key]
    facts = results | _student(results)
    where = ", ".join(str(facts[k]) for k in ("dtype", "device") if k in facts)
    title += f" ({where})" if where else ""
    bars = [Bar(role.capitalize(), model[key], f"{model[key]:.1f}", role)
            for role, model in _models(results) if model.get(key) is not None]
    return standalone(title, bar_chart(title, bars, axis))


def _models(results: dict) -> list[tuple[str, dict]]:
    models = results.get("systems", results)
    return [(role, models[role]) for role in ("teacher", "student") if models.get(role)]


def _student(results: dict) -> dict:
    return dict(_models(results))["student"]


def _loss(rows: list[dict]) -> str:
    points = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    finite = [y for _, y in points if 0 < y < math.inf]
    if not finite:
        return ""
    log = max(finite) > 20 * min(finite)
    title = "Training loss" + (", logarithmic" if log else "")
    return standalone(title, line_chart(title, [Series("loss", points, "a")], "step", "loss", log))


def _validation(rows: list[dict]) -> str:
    key = next((k for k in _VALIDATION if any(row.get(k) is not None for row in rows)), None)
    if key is None:
        return ""
    title, axis = _VALIDATION[key]
    points = [(row["step"], 100 * row[key]) for row in rows if row.get(key) is not None]
    return standalone(title, line_chart(title, [Series(title, points, "a", markers=True)],
                                        "step", axis))


def main(arguments: list[str]) -> None:
    if run := folder_argument(arguments, __doc__):
        for path in write_plots(run):
            print(path)


if __name__ == "__main__":
    run_command(main)
