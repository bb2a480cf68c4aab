"""The page of `eval.prompts`: styles, listed words by the length of the list, and examples."""

from __future__ import annotations

from html import escape
from pathlib import Path

from distill.data.files import write_text
from distill.html.charts import Series, line_chart
from distill.html.page import figure, folded, interval, percent, render_page, section, table
from distill.metrics.normalize import normalizer
from eval.prompts.lists import SIZES
from eval.prompts.table import MAIN, text_table, with_numbers
from eval.report.examples import diff

_EXAMPLES = 16
_SHOWN = ("student plain 0", f"student a {MAIN}", f"student b {MAIN}", f"student c {MAIN}",
          f"student a+c {MAIN}", f"student b, another's list {MAIN}",
          "student style upper 0", "student style lower 0", f"student a, another's list {MAIN}",
          "teacher plain 0", f"teacher a {MAIN}")
_WAYS = {"a": "list in the prompt", "b": "list read by the encoder",
         "c": "preferred while decoding", "a+c, b+c": "both"}


def write_page(run: Path, results: dict, name: str = "prompts") -> Path:
    """Write `<run>/report/<name>.html`."""
    path = run / "report" / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Prompts: {run.name}"
    body = f"<h1>{escape(title)}</h1>{render_prompts(results)}"
    write_text(path, render_page(title, body))
    return path


def render_prompts(results: dict) -> str:
    """HTML of prompts.json."""
    about = results["about"]
    said = (f"{about['clips']} clips of the {about['split']} split ({about['minutes']} minutes, "
            f"{about['speakers']} voices), {about['listed_words']} listed words; "
            f"{about['decoding']}; {about['machine']['processor']}, "
            f"{about['machine']['threads']} threads. Intervals are 95 % bootstrap intervals over "
            "clips.")
    ways = "; ".join(f"{way}: {text}" for way, text in _WAYS.items())
    return (f"<p>{escape(said)}</p>"
            + section("Styles", _styles(results), "Texts that are in the style they were asked "
                      "for, and what asking costs.")
            + section("Listed words", _charts(results) + _rates(results), f"{ways}. B-WER: words "
                      "of the reference that are on the list; U-WER: all others.")
            + section("Against no list", _against(results), "On the same clips, paired.")
            + section("Examples", _examples(results), "Struck out: in the reference only. "
                      "Underlined: written instead or in addition.")
            + folded("As text", text_table(results)))


def _styles(results: dict) -> str:
    rows = []
    for role, styles in results["styles"].items():
        for style, each in styles.items():
            change = each["against_plain"]
            rows.append((f"{role}, {style}", percent(each["share"]) + with_numbers(each),
                         percent(each["share_plain"]),
                         f"{percent(each['wer'])}\n{interval(each['interval'])}",
                         f"{100 * change['difference']:+.2f}\n{interval(change['interval'])}",
                         str(each["echoes"])))
    head = ("", "In the style", "Without asking", "WER", "Points more than without", "Echoes")
    if pair := results.get("no_prompt"):
        rows.append(("student, no prompt", "", "", percent(pair["student"]),
                     f"{100 * pair['difference']:+.2f}\n{interval(pair['interval'])}", ""))
        rows.append(("its unprompted twin", "", "", percent(pair["twin"]), "", ""))
    return f'<div class="card">{table(head, rows)}</div>'


def _charts(results: dict) -> str:
    pictures = []
    for key, title in (("b_wer", "B-WER"), ("u_wer", "U-WER")):
        lines = []
        for row, style in (("student", "a"), ("student a", "b"), ("student b", "b"),
                           ("student c", "c"), ("student a+c", "d"), ("student b+c", "d")):
            rates = results[key].get(row)
            if rates:
                points = [(at, 100 * rates[str(size)]) for at, size in enumerate(SIZES)]
                lines.append(Series(row, points, style, markers=True))
        if lines:
            chart = line_chart(title, lines, "words on the list that nobody said", f"{title} (%)",
                               places=[f"{size:,}" for size in SIZES])
            pictures.append(figure(f"{title} of the student", chart, "By the length of the list."))
    return f'<div class="grid-2">{"".join(pictures)}</div>'


def _rates(results: dict) -> str:
    rows = []
    for row, sizes in results["b_wer"].items():
        cells = []
        for size in map(str, SIZES):
            cells.append("" if size not in sizes else
                         f"{percent(sizes[size])} / {percent(results['u_wer'][row][size])}\n"
                         f"{results['false_insertions'][row][size]} false, "
                         f"{results['echoes'][row][size]} echoes")
        rows.append((row, *cells))
    head = ("B-WER / U-WER", *(f"{size:,} others" for size in SIZES))
    return f'<div class="card">{table(head, rows)}</div>'


def _against(results: dict) -> str:
    rows = []
    for row, sizes in results["against_no_list"].items():
        for size, each in sizes.items():
            b, u = each["b_wer"], each["u_wer"]
            signs = b["sign_test"]
            rows.append((f"{row}, {size} others",
                         f"{100 * b['difference']:+.1f}\n{interval(b['interval'])}",
                         f"{100 * u['difference']:+.2f}\n{interval(u['interval'], 2)}",
                         f"{signs['better']} better, {signs['worse']} worse\n"
                         f"sign test p = {signs['p_value']:.2g}"))
    head = ("", "B-WER, points", "U-WER, points", "Clips, by listed words")
    return f'<div class="card">{table(head, rows)}</div>'


def _examples(results: dict) -> str:
    normalise, parts = normalizer("english", "en", "word"), []
    for row in results["examples"][:_EXAMPLES]:
        shown = "".join(
            f"<dt>{escape(key)}</dt><dd>{escape(row[key])}</dd>"
            + (f'<dd class="diff">{diff(normalise(row["reference"]), normalise(row[key]), "word")}'
               "</dd>")
            for key in _SHOWN if key in row)
        parts.append(f'<article class="card example"><h3><code>{escape(row["id"])}</code></h3>'
                     f"<dl><dt>Reference</dt><dd>{escape(row['reference'])}</dd>{shown}</dl>"
                     "</article>")
    return "".join(parts)
