"""Numbers of a run's JSON as a card shows them. A show is a function of a model's entry; what was
not measured is a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Show = Callable[[dict], str]
DASH = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; cells are text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |"
                     for line in lines)


def compare(models: dict, rows: Iterable[tuple[str, str, Show]]) -> str:
    """Models as columns, their entries of results.json, and last the key that a row shows.

    Args:
        rows: (label, key, show); what no model has is left out.
    """
    roles = [role for role in ("teacher", "student") if models.get(role)]
    shown = [(label, key, show) for label, key, show in rows
             if any(models[role].get(key) is not None for role in roles)]
    return table(
        ["", *roles, "in results.json"],
        [[label, *(show(models[role]) for role in roles), f"`{key}`"]
         for label, key, show in shown])


def percent(value: float | None, digits: int = 2) -> str:
    """0.0912 -> `9.12 %`."""
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def rate(key: str, digits: int = 2) -> Show:
    """A fraction in per cent, with its interval where there is one."""

    def show(model: dict) -> str:
        ends = model.get(f"{key}_ci")
        interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
        return percent(model.get(key), digits) + interval

    return show


def number(key: str, size: float = 1, digits: int = 1, unit: str = "") -> Show:
    """A value over `size`, with its interval where there is one."""

    def show(model: dict) -> str:
        if model.get(key) is None:
            return DASH
        ends = model.get(f"{key}_ci")
        interval = f" [{', '.join(f'{end / size:.{digits}f}' for end in ends)}]" if ends else ""
        return f"{model[key] / size:.{digits}f}{unit}{interval}"

    return show


def ratio(models: dict, key: str) -> float | None:
    """The student's value over the teacher's."""
    teacher, student = ((models.get(role) or {}).get(key) for role in ("teacher", "student"))
    return student / teacher if teacher and student is not None else None
