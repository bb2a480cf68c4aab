"""The part of a report that `eval.robustness` measured: curves over the SNR, and inventions."""

from __future__ import annotations

from pathlib import Path

from distill.data.files import write_text
from distill.html.charts import Series, line_chart
from distill.html.page import figure, folded, table
from eval.plots import standalone
from eval.robustness.table import (
    about_clips,
    about_others,
    area_text,
    condition_rows,
    difference_text,
    other_rows,
    rate_text,
    text_table,
)

_STYLES = {"teacher": "b", "student": "c"}


def render_robustness(results: dict) -> str:
    """HTML of robustness/results.json."""
    pictures = "".join(
        figure(f"Noise: {kind}", _chart(results, kind),
               "Whiskers: 95 % intervals; models are drawn beside each other.")
        for kind in results["noises"]["teacher"])
    said = "".join(f"<p>{text[0].upper()}{text[1:]}.</p>" for text in _sentences(results))
    parts = [f'<div class="grid-2">{pictures}</div>' if pictures else "", said,
             _table(results), f'<p class="note">{about_clips(results)}</p>']
    if results.get("others"):
        parts.append(_others(results["others"]))
    if "inventions" in results:
        parts.append(_inventions(results))
    return "".join([*parts, folded("As text", text_table(results))])


def write_curves(folder: Path, results: dict) -> list[Path]:
    """A picture of each noise, `<folder>/NOISE.svg`."""
    paths = []
    for kind in results["noises"]["teacher"]:
        title = f"WER with {kind} noise, {results['split']} split, with 95 % intervals"
        names = "dashes: teacher, dots: student" if len(results["noises"]) == 2 else ""
        paths.append(folder / f"{kind}.svg")
        write_text(paths[-1], standalone(title, _chart(results, kind), names))
    return paths


def _sentences(results: dict) -> list[str]:
    return [f"{role}: {text}" for role in results["area"] if (text := area_text(results, role))]


def _chart(results: dict, kind: str) -> str:
    lines = []
    for number, (role, noises) in enumerate(results["noises"].items()):
        rows = sorted((float(snr), entry) for snr, entry in noises[kind].items())
        points = [(snr, 100 * entry["wer"]) for snr, entry in rows]
        spans = [(snr, *(100 * end for end in entry["wer_ci"]))
                 for snr, entry in rows if entry["wer_ci"]]
        style = _STYLES.get(role, "ad"[number % 2])
        lines.append(Series(role, points, style, markers=True, intervals=spans))
    return line_chart(f"WER, {kind}", lines, "SNR (dB)", "WER (%)")


def _table(results: dict) -> str:
    roles = list(results["noises"])
    lines = []
    for name, entries in condition_rows(results):
        line = [name]
        for role in roles:
            entry = entries[role]
            counts = f"{entry['insertions']} inserted, {entry['loops']} loops"
            apart = "" if role == "teacher" else f"; {difference_text(entry)} points"
            line.append(f"{rate_text(entry)}\n{counts}{apart}")
        lines.append(line)
    return table(("", *roles), lines)


def _others(others: dict) -> str:
    lines = [[name, f"{100 * entry['wer']:.2f} %", f"{difference_text(entry)} points"]
             for name, entry in other_rows(others)]
    return (table(("Other models than the student", "WER", "student's +"), lines)
            + f'<p class="note">{about_others(others)}</p>')


def _inventions(results: dict) -> str:
    head, lines = ["Words invented a minute"], []
    for role in results["inventions"]:
        head += [f"{role}, with guard", f"{role}, without"]
    for kind, about in results["inventions"]["teacher"].items():
        line = [f"{kind}\n{about['minutes']:.3g} minutes"]
        for role in results["inventions"]:
            line += [f"{results[key][role][kind]:.2f}" for key in (
                "invented_words_per_minute", "invented_words_per_minute_without_guard")]
        lines.append(line)
    return table(head, lines)
