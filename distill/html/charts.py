"""Small charts as inline SVG: they follow the page's light or dark colours and need no script.

All are drawn 360 units wide, the width of a phone, so that their text stays readable there; pages
put them side by side where there is room. Nothing is told by colour alone: lines have dashes,
bars have labels, dropped bars are hatched.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 40
_MAX_POINTS = 300  # a line on 300 units cannot show more
_APART = 7.0  # units between lines with whiskers, which would cover each other


@dataclass(frozen=True)
class Series:
    """A line: (x, y) points and the CSS classes `line line-<style>` that draw it.

    `intervals` are (x, low, high), drawn as whiskers; only of lines whose points are all shown.
    Several lines with whiskers are drawn beside each other, a few units from where they are.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str  # a, b, c or d: a colour with a dash pattern of its own
    markers: bool = False
    intervals: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Bar:
    """A bar with a direct label and, where known, an interval (low, high)."""

    label: str
    value: float
    text: str
    style: str = "a"
    interval: tuple[float, float] | None = None


@dataclass
class Axis:
    """Maps [low, high] to [start, end] SVG units, on a linear or logarithmic scale. Ticks are
    labelled with their numbers, or with `labels`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)
    labels: Sequence[str] = ()

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = (math.log(value) if self.log else value) - low
        return round(self.start + at / (high - low) * (self.end - self.start), 1)


def linear_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis over zero and `values` whose ends are round numbers."""
    low, high = min(0.0, *values), max(values)
    if high <= low:
        high = low + (abs(low) or 1.0)
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], start, end, ticks=ticks)


def places_axis(labels: Sequence[str], start: float, end: float) -> Axis:
    """An axis over 0, 1, 2, ..., of which each has a label."""
    ticks = [float(place) for place in range(len(labels))]
    return Axis(0, len(labels) - 1, start, end, ticks=ticks, labels=labels)


def log_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """A logarithmic axis over positive `values`, ticks at 1, 2 and 5 or at powers of ten."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    first = max(i for i, tick in enumerate(ticks) if tick <= min(values) * (1 + 1e-9))
    last = next(i for i, tick in enumerate(ticks) if tick >= max(values) * (1 - 1e-9))
    ticks = ticks[first : max(last, first + 1) + 1]
    return Axis(ticks[0], ticks[-1], start, end, log=True, ticks=ticks)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)


def number(value: float) -> str:
    """A short label: 0.05, 12, 2,500, 1.5e-4."""
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, log: bool = False,
    places: Sequence[str] = (),
) -> str:
    """Lines over a shared x axis. Points that are not finite (or not positive on a log scale) are
    left out, and the chart says how many.

    Args:
        places: labels of x = 0, 1, 2, ...; without them the axis has numbers.
    """
    drawable = [(line, [p for p in line.points if _drawable(p[1], log)]) for line in series]
    points = [point for _, kept in drawable for point in kept]
    if not points:
        return f'<p class="note">{escape(title)}: no finite value to draw.</p>'
    x_values, y_values = [x for x, _ in points], [y for _, y in points]
    y_values += [end for line in series for _, *ends in line.intervals for end in ends]
    ends = LEFT, WIDTH - RIGHT
    x_axis = places_axis(places, *ends) if places else linear_axis(x_values, *ends)
    bottom, top = HEIGHT - BOTTOM, TOP
    y_axis = log_axis(y_values, bottom, top) if log else linear_axis(y_values, bottom, top)
    parts = [grid(x_axis, y_axis, x_label, y_label)]
    shifts, apart = _shifts(series, x_axis)
    for (line, kept), shift in zip(drawable, shifts, strict=True):
        shown = [(round(x_axis(x) + shift, 1), y_axis(y)) for x, y in _thin(kept)]
        path = " ".join(f"{x},{y}" for x, y in shown)
        parts.append(f'<polyline class="line line-{line.style}" points="{path}"/>')
        for x, low, high in line.intervals:
            x = round(x_axis(x) + shift, 1)
            parts.append(_upright(x, y_axis(low), y_axis(high), line.style, apart))
        if line.markers:
            marks = (f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in shown)
            parts.append(f'<g class="mark mark-{line.style}">{"".join(marks)}</g>')
    missing = sum(len(line.points) for line in series) - len(points)
    description = "; ".join(
        f"{line.name}: from {number(kept[0][1])} to {number(kept[-1][1])}, "
        f"lowest {number(min(y for _, y in kept))}"
        for line, kept in drawable
        if kept
    )
    chart = svg("".join(parts), title, f"{y_label} over {x_label}. {description}.")
    notes = f"{missing} values that are not finite are not drawn. " if missing else ""
    size = max(_group_size(kept) for _, kept in drawable)
    notes += f"Each point is the mean of {size} logged ones." if size > 1 else ""
    return chart + legend(series) + (f'<p class="note">{notes.strip()}</p>' if notes else "")


def _shifts(series: Sequence[Series], x_axis: Axis) -> tuple[list[float], float]:
    """Units to the right that each line is moved so that no whisker lies on another, and how far
    they are apart: less where points are near each other, so that neighbours stay apart, too."""
    upright = [number for number, line in enumerate(series) if line.intervals]
    places = sorted({x_axis(x) for line in series for x, *_ in line.intervals})
    step = min((b - a for a, b in zip(places, places[1:], strict=False)), default=math.inf)
    apart = min(_APART, step / (len(upright) + 1)) if len(upright) > 1 else _APART
    middle = (len(upright) - 1) / 2
    shifts = [0.0] * len(series)
    for place, number in enumerate(upright):
        shifts[number] = (place - middle) * apart
    return shifts, apart


def _upright(x: float, low: float, high: float, style: str, room: float) -> str:
    """An interval of a line's point, in the line's colour, at most `room` wide."""
    half = round(min(3.0, room / 2 - 0.5), 1)
    path = "".join([f"M{x} {low}V{high}", *(f"M{x - half:.1f} {y}h{2 * half:.1f}"
                                            for y in (low, high))])
    thin = "stroke-width: 1; stroke-dasharray: none"
    return f'<path class="line line-{style}" style="{thin}" d="{path}"/>'


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _group_size(points: Sequence) -> int:
    return max(1, math.ceil(len(points) / _MAX_POINTS))


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbours when there are more points than the picture can show."""
    size = _group_size(points)
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def grid(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> str:
    """Ticks, lines and names of two axes, for `svg`."""
    bottom = HEIGHT - BOTTOM
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" class="end">{number(tick)}</text>')
    for tick, label in zip(x_axis.ticks, x_axis.labels or map(number, x_axis.ticks), strict=True):
        x = x_axis(tick)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
        anchor = "end" if tick == x_axis.ticks[-1] else "middle"
        parts.append(f'<text x="{x}" y="{bottom + 17}" class="{anchor}">{escape(label)}</text>')
    line = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"'
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<line class="axis" {line}/>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" class="middle">{escape(x_label)}</text>')
    turn = f'transform="translate(11 {(TOP + bottom) / 2}) rotate(-90)"'
    parts.append(f'<text {turn} class="middle">{escape(y_label)}</text>')
    return "".join(parts)


def legend(series: Sequence[Series]) -> str:
    """Names beside a sample of each line, as text so that it wraps and can be read out."""
    if len(series) < 2:
        return ""
    items = "".join(
        '<li><svg class="sample" viewBox="0 0 28 8" aria-hidden="true">'
        f'<path class="line line-{line.style}" d="M0 4H28"/></svg>{escape(line.name)}</li>'
        for line in series
    )
    return f'<ul class="legend">{items}</ul>'


def bar_chart(title: str, bars: Sequence[Bar], x_label: str) -> str:
    """Horizontal bars, each with its label and value above it, whiskers for the interval."""
    ends = [end for bar in bars for end in (bar.value, *(bar.interval or ()))]
    axis = linear_axis(ends, 8, WIDTH - 20)
    row, top = 44, 6
    bottom = top + row * len(bars)
    parts = []
    for tick in axis.ticks:
        x = axis(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 15}" class="middle">{number(tick)}</text>')
    for index, bar in enumerate(bars):
        y = top + index * row
        # drawn as one text: two texts at both ends meet on narrow screens
        label = f'<tspan class="strong">{escape(bar.label)}</tspan> {escape(bar.text)}'
        parts.append(f'<text x="8" y="{y + 13}">{label}</text>')
        width = max(0.0, axis(bar.value) - 8)
        where = f'x="8" y="{y + 19}" width="{width:.1f}" height="16"'
        parts.append(f'<rect class="bar bar-{bar.style}" {where}/>')
        if bar.interval:
            parts.append(_whisker(axis(bar.interval[0]), axis(bar.interval[1]), y + 27))
    where = f'x="{WIDTH / 2}" y="{bottom + 33}"'
    parts.append(f'<text {where} class="middle">{escape(x_label)}</text>')
    description = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    return svg("".join(parts), title, description, height=bottom + 40)


def _whisker(low: float, high: float, y: float) -> str:
    path = f"M{low} {y}H{high}M{low} {y - 5}V{y + 5}M{high} {y - 5}V{y + 5}"
    # a halo in the colour of the page keeps it visible on the bar
    return f'<path class="halo" d="{path}"/><path class="whisker" d="{path}"/>'


def histogram(
    title: str, bars: Sequence[Bar], x_label: str, y_label: str, threshold: float | None, note: str
) -> str:
    """Vertical bars of equal width and a line at `threshold`, a position in bars from the left
    (2.5 is the middle of the third bar). Bars of style `dropped` are hatched."""
    y_axis = linear_axis([bar.value for bar in bars], HEIGHT - BOTTOM, TOP + 14)
    width = (WIDTH - LEFT - RIGHT) / len(bars)
    parts = [grid(Axis(0, 1, LEFT, WIDTH - RIGHT), y_axis, x_label, y_label)]
    for index, bar in enumerate(bars):
        x, y = LEFT + index * width, y_axis(bar.value)
        middle = f'x="{x + width / 2:.1f}"'
        size = f'width="{width - 2:.1f}" height="{HEIGHT - BOTTOM - y:.1f}"'
        parts.append(f'<rect class="bar bar-{bar.style}" x="{x + 1:.1f}" y="{y}" {size}>')
        parts.append(f"<title>{escape(bar.label)}: {escape(bar.text)}</title></rect>")
        if bar.value:
            parts.append(f'<text {middle} y="{y - 4}" class="middle">{escape(bar.text)}</text>')
        at = f'{middle} y="{HEIGHT - BOTTOM + 17}"'
        parts.append(f'<text {at} class="middle">{escape(bar.label)}</text>')
    if threshold is not None:
        x = round(LEFT + threshold * width, 1)
        line = f'x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line class="threshold" {line}/>')
        parts.append(f'<text x="{x + 5}" y="{TOP + 6}" class="strong">{escape(note)}</text>')
    description = "; ".join(f"{bar.label}: {bar.text}" for bar in bars if bar.value)
    return svg("".join(parts), title, f"{y_label}. {description}. {note}")


def svg(body: str, title: str, description: str, height: float = HEIGHT) -> str:
    """A picture with a name and a description for those who cannot see it."""
    name = f"c{zlib.crc32((title + body).encode()):x}"  # unique in a page, the same on every run
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}t {name}d" '
        f'viewBox="0 0 {WIDTH} {height}">'
        f'<title id="{name}t">{escape(title)}</title>'
        f'<desc id="{name}d">{escape(description)}</desc>{body}</svg>'
    )
