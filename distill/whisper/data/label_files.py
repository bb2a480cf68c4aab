"""What of a label folder counts: its plan may have changed since some of it was labelled.

`plan.jsonl` begins with a line on what is out of the plan; see `pseudo_label.labelling.history`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

PLAN = "plan.jsonl"


def plan_header(folder: Path) -> dict:
    """`retired`: ids of windows that are no longer planned; `idle`: shards of which nothing is.
    Empty where there is no plan file: everything counts."""
    path = folder / PLAN
    if not path.is_file():
        return {"retired": [], "idle": []}
    with open(path, encoding="utf-8") as file:
        return json.loads(file.readline())


def window_of(label_id: str) -> str:
    """Planned window of a label row: those of a recording that was cut while it was labelled are
    numbered behind its name."""
    return label_id.split(".")[0]


def planned_rows(folder: Path, rows: Iterable[dict]) -> list[dict]:
    """Label rows of windows that are still planned."""
    retired = set(plan_header(folder)["retired"])
    return [row for row in rows if window_of(row["id"]) not in retired]
