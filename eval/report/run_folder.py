"""What the pages and pictures of a finished run have in common: its folder, its log, its recipe."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import yaml

from distill.data.files import read_jsonl, write_text
from distill.html.page import broken, folded, missing, render_page, section

TRAIN = "accelerate launch -m distill.train RECIPE"
EVALUATE = "python -m eval RECIPE"


def folder_argument(arguments: list[str], about: str) -> Path | None:
    """The one run folder that a command was given; None after `about` was printed, for --help.

    Raises:
        ValueError: more than one argument.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(about)
        return None
    if len(arguments) != 1:
        raise ValueError(f"expected one run folder, got {len(arguments)} arguments")
    return Path(arguments[0])


def read_config(run: Path) -> dict:
    """The resolved recipe of a run; {} where there is none yet.

    Raises:
        ValueError: there is no such folder.
    """
    if not run.is_dir():
        raise ValueError(f"run folder not found: {run}")
    return yaml.safe_load(_config_text(run)) or {}


def read_if_there(path: Path, reader: Callable[[Path], Any]) -> Any:
    """The content of a file; None when it is not there yet."""
    return reader(path) if path.is_file() else None


def metrics_of(run: Path, split: str) -> list[dict]:
    """Rows of a split in metrics.jsonl, in order of step. A resumed run repeats steps: the last
    one counts."""
    rows = read_if_there(run / "metrics.jsonl", _read_log) or []
    last = {row["step"]: row for row in rows if row.get("split") == split}
    return [last[step] for step in sorted(last)]


def training_pictures(run: Path, draw: Callable[[list[dict], list[dict]], list[str]]) -> str:
    """What `draw(train, validation)` makes of the rows of metrics.jsonl, side by side."""
    train, validation = (metrics_of(run, split) for split in ("train", "validation"))
    if not train and not validation:
        return missing("There is no metrics.jsonl yet.", TRAIN)
    return f'<div class="grid-2">{"".join(draw(train, validation))}</div>'


def guarded_section(title: str, part: Callable[[], str], intro: str = "") -> str:
    """A section of what `part` returns; a file that is broken does not cost the rest of a page."""
    try:
        return section(title, part(), intro)
    except ValueError as error:
        return section(title, broken(str(error)))


def write_page(run: Path, title: str, facts: list[str], sections: list[str]) -> Path:
    """Write `<run>/report/index.html`: a heading, what is known of the run, sections, its recipe.

    Args:
        title: after the name of the run.
        facts: for the line below the heading; empty ones are left out.
    """
    name = f"{run.resolve().name}: {title}"
    line = escape(", ".join(fact for fact in facts if fact))
    parts = [f'<h1>{escape(name)}</h1><p class="note">{line}</p>', *sections]
    if text := _config_text(run):
        parts.append(section("Recipe", folded("config.yaml", text)))
    path = run / "report" / "index.html"
    write_text(path, render_page(name, "\n".join(parts)))
    return path


def _config_text(run: Path) -> str:
    return read_if_there(run / "config.yaml", lambda path: path.read_text(encoding="utf-8")) or ""


def _read_log(path: Path) -> list[dict]:
    return read_jsonl(path, may_be_torn=True)  # it may be written at this moment
