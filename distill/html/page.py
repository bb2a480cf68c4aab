"""The report's HTML: template, styles and small helpers. Everything is escaped on its way in."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from string import Template

# The policy makes a browser refuse any request the page could make by mistake.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:">
<title>$title</title>
<style>$style</style>
</head>
<body>
<svg width="0" height="0" class="defs" aria-hidden="true"><defs>
<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)"><path d="M0 0V6" class="hatch"/></pattern></defs></svg>
<main>
$body
</main>
</body>
</html>
""")

COLOURS = """
:root {
  --page: #f6f7f9; --card: #ffffff; --text: #1a1f26; --muted: #55606d; --line: #d5dbe2;
  --teacher: #1d5fb8; --student: #b04a06; --third: #0b6e5a; --fourth: #7a3fa3;
  --wrong: #a4161a; --wrong-back: #fde8e8; --right: #0b5d2e; --right-back: #e0f4e7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10141a; --card: #181e26; --text: #e6eaef; --muted: #a2adba; --line: #364150;
    --teacher: #79b0ff; --student: #ffab5e; --third: #5fd6b5; --fourth: #d0a3f5;
    --wrong: #ffa3a3; --wrong-back: #4a1d20; --right: #8be0a8; --right-back: #143a24;
  }
}
"""
CHART_STYLE = """
.chart text { fill: var(--muted); font-size: 12px; }
.chart .strong { fill: var(--text); font-weight: 600; }
.chart .end { text-anchor: end; }
.chart .middle { text-anchor: middle; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line-a { stroke: var(--text); }
.line-b { stroke: var(--teacher); stroke-dasharray: 7 3; }
.line-c { stroke: var(--student); stroke-dasharray: 2 3; stroke-linecap: round; }
.line-d { stroke: var(--third); stroke-dasharray: 8 3 2 3; }
.mark-a { fill: var(--text); }
.mark-b { fill: var(--teacher); }
.mark-c { fill: var(--student); }
.mark-d { fill: var(--third); }
.bar-teacher, .bar-a { fill: var(--teacher); }
.bar-student { fill: var(--student); }
.bar-kept { fill: var(--third); }
.bar-dropped { fill: url(#hatch); stroke: var(--wrong); }
.hatch { stroke: var(--wrong); stroke-width: 3; }
.halo { fill: none; stroke: var(--card); stroke-width: 5; }
.whisker { fill: none; stroke: var(--text); stroke-width: 1.75; }
.threshold { stroke: var(--text); stroke-width: 1.5; stroke-dasharray: 5 3; }
"""

_STYLE = COLOURS + CHART_STYLE + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 75ch; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .875em; }
code { overflow-wrap: anywhere; }
.note, figcaption { color: var(--muted); font-size: .875rem; }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem; margin: 0; min-width: 0; }
.grid-2 { display: grid; gap: 1rem; align-items: start; margin: .75rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.tiles { display: grid; gap: .75rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.missing { border: 1px dashed var(--muted); border-radius: 8px; padding: 1rem; margin: .75rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: normal; }
thead th { font-weight: 600; border-bottom: 2px solid var(--muted); }
td.value { white-space: nowrap; }
td small, th small { display: block; color: var(--muted); }
@media (max-width: 40rem) {
  table { font-size: .875rem; }
  td.value { white-space: normal; }
  th, td { padding-right: .5rem; }
}
pre { overflow-x: auto; margin: .5rem 0 0; }
summary { cursor: pointer; font-weight: 600; }

svg.chart { display: block; width: 100%; height: auto; max-width: 32rem; margin: 0 auto; }
.defs { position: absolute; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem;
  margin: .5rem 0 0; padding: 0; font-size: .875rem; }
.sample { width: 28px; height: 8px; margin-right: .4rem; vertical-align: middle; }

.example { margin: .75rem 0; }
.example dl { margin: .5rem 0 0; }
.example dt { color: var(--muted); font-size: .875rem; }
.example dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
.diff { line-height: 1.9; }
del, ins { padding: .1em .25em; border-radius: 4px; }
del { color: var(--wrong); background: var(--wrong-back); text-decoration: line-through; }
ins { color: var(--right); background: var(--right-back); text-decoration: underline;
  font-weight: 600; }
audio { width: 100%; max-width: 32rem; display: block; margin: .25rem 0; }
:focus-visible { outline: 3px solid var(--teacher); outline-offset: 2px; }
@media print { body { background: none; } .card, figure, .tile { break-inside: avoid; } }
"""


def render_page(title: str, body: str) -> str:
    """A whole HTML document. `body` is HTML, `title` is text."""
    return _PAGE.substitute(title=escape(title), style=_STYLE, body=body)


def section(title: str, body: str, intro: str = "") -> str:
    """`title` and `intro` are text, `body` is HTML."""
    lead = f"<p>{escape(intro)}</p>" if intro else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{body}</section>"


def missing(what: str, command: str) -> str:
    """In place of a section whose input is not there yet: how to make it."""
    return f'<div class="missing">{escape(what)} Make it with <code>{escape(command)}</code></div>'


def broken(why: str) -> str:
    """In place of a section whose input cannot be read."""
    return f'<div class="missing">Cannot be read: {escape(why)}</div>'


def folded(title: str, text: str) -> str:
    """Text as it stands in a file, shown once its title is clicked."""
    return (f"<details class='card'><summary>{escape(title)}</summary>"
            f"<pre>{escape(text)}</pre></details>")


def figure(title: str, picture: str, caption: str) -> str:
    """`picture` is HTML; `title` and `caption` are text."""
    return (
        f"<figure><h3>{escape(title)}</h3>{picture}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def player(ogg: bytes, name: str) -> str:
    """A player with the sound inside: an Ogg file, and what it is called."""
    data = base64.b64encode(ogg).decode("ascii")
    return (f'<audio controls preload="metadata" src="data:audio/ogg;base64,{data}" '
            f'aria-label="Audio of {escape(name)}"></audio>')


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Key figures: (what, value, detail), all text."""
    cells = "".join(
        f'<div class="tile">{escape(what)}<b>{escape(value)}</b>'
        f'<span class="note">{escape(detail)}</span></div>'
        for what, value, detail in items
    )
    return f'<div class="tiles">{cells}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text cells; the first of a row is its heading. A newline starts a smaller second line."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f'<td class="value">{_cell(value)}</td>' for value in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    first, *rest = (escape(part) for part in text.split("\n"))
    return first + "".join(f"<small>{part}</small>" for part in rest)


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.0912 -> `9.1 %`; a dash for None. The space does not break."""
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.{digits}f}\u00a0%"


def interval(ends: Sequence[float] | None, digits: int = 1) -> str:
    """[0.05, 0.1] -> `[5.0, 10.0]`, in per cent; empty for None."""
    return "" if ends is None else f"[{100 * ends[0]:.{digits}f}, {100 * ends[1]:.{digits}f}]"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
