"""Curves of models by what they cost and how much they err: points with intervals and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from distill.html.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    grid,
    linear_axis,
    log_axis,
    number,
    svg,
)

_EDGE = 40  # units from the right: labels there stand on the left of their points
_ROW = 15  # units of a name below the axes
_LOG_FROM = 8  # times: where the values differ by more, their axis is logarithmic


@dataclass(frozen=True)
class Point:
    """A model.

    Attributes:
        label: drawn beside it, short.
        interval: (low, high) of y, where it is known.
        is_chosen: a ring is drawn around it.
    """

    x: float
    y: float
    label: str = ""
    interval: tuple[float, float] | None = None
    is_chosen: bool = False


@dataclass(frozen=True)
class Curve:
    """Models of a kind, in the order in which a line joins them; `style` as in `Series`."""

    name: str
    points: Sequence[Point]
    style: str


def tradeoff_chart(
    title: str, curves: Sequence[Curve], x_label: str, y_label: str,
    limit: float | None = None, note: str = "",
) -> str:
    """Curves with whiskers.

    Args:
        limit: an x; a vertical line with `note` is drawn there.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return f'<p class="note">{escape(title)}: nothing to draw.</p>'
    ends = [end for point in points for end in (point.y, *(point.interval or ()))]
    is_log = min(ends) > 0 and max(ends) > _LOG_FROM * min(ends)
    y_axis = (log_axis if is_log else linear_axis)(ends, HEIGHT - BOTTOM, TOP)
    limits = [] if limit is None else [limit]
    x_axis = linear_axis([*(point.x for point in points), *limits], LEFT, WIDTH - RIGHT)
    parts = [grid(x_axis, y_axis, x_label, y_label), _limit(x_axis, limit, note)]
    parts += [_curve(curve, x_axis, y_axis) for curve in curves]
    parts += [_name(curve, HEIGHT + _ROW * (row + 0.5)) for row, curve in enumerate(curves)]
    said = "; ".join(
        f"{curve.name}: " + ", ".join(
            f"{point.label} {number(point.y)} at {number(point.x)}"
            + (" (chosen)" if point.is_chosen else "") for point in curve.points)
        for curve in curves)
    return svg("".join(parts), title, f"{y_label} over {x_label}. {said}. {note}",
               height=HEIGHT + _ROW * len(curves) + 4)


def _name(curve: Curve, y: float) -> str:
    """Below the axes, beside a sample of its line: a file of its own has it, too."""
    return (f'<path class="line line-{curve.style}" d="M{LEFT} {y}H{LEFT + 22}"/>'
            f'<text x="{LEFT + 28}" y="{y + 4}">{escape(curve.name)}</text>')


def _limit(x_axis: Axis, limit: float | None, note: str) -> str:
    if limit is None:
        return ""
    x = x_axis(limit)
    is_right = x > (LEFT + WIDTH) / 2  # then its words stand on its left
    where = f'x="{x - 4 if is_right else x + 4}" y="{TOP + 6}"'
    anchor = ' text-anchor="end"' if is_right else ""
    return (f'<line class="threshold" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text {where}{anchor}>{escape(note)}</text>')


def _curve(curve: Curve, x_axis: Axis, y_axis: Axis) -> str:
    path = " ".join(f"{x_axis(point.x)},{y_axis(point.y)}" for point in curve.points)
    parts = [f'<polyline class="line line-{curve.style}" points="{path}"/>']
    for point in curve.points:
        x, y = x_axis(point.x), y_axis(point.y)
        if point.interval:
            low, high = map(y_axis, point.interval)
            parts.append(f'<path class="axis" d="M{x} {low}V{high}M{x - 3} {low}H{x + 3}'
                         f'M{x - 3} {high}H{x + 3}"/>')
        if point.is_chosen:
            parts.append(f'<circle class="whisker" fill="none" cx="{x}" cy="{y}" r="7"/>')
        parts.append(f'<g class="mark mark-{curve.style}"><circle cx="{x}" cy="{y}" r="3"/></g>')
        style = ' class="strong"' if point.is_chosen else ""
        side = f'x="{x - 5}" text-anchor="end"' if x > WIDTH - _EDGE else f'x="{x + 5}"'
        parts.append(f'<text{style} {side} y="{y - 6}">{escape(point.label)}</text>')
    return "".join(parts)
