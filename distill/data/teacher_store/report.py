"""What a store holds, and whether the live teacher still says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data.teacher_store.disk import StoreError
from distill.data.teacher_store.shard import Record
from distill.data.teacher_store.store import TeacherStore

KEPT_SHARES = (0.5, 0.9, 0.99)
TOLERANCE = 0.02  # of the column's largest value: half-precision arithmetic on another device
MIN_INDICES = 0.9  # entries at the edge of the top k may change places with those outside
Scorer = Callable[[list[str]], list[Record]]


def stats(store: TeacherStore) -> dict[str, Any]:
    """Counts and sizes; where `log_rest` is stored, how much of the teacher's mass is kept."""
    columns = Counter()
    for shard in store.shards:
        for name, extent in shard.extents.items():
            columns[name.removeprefix("columns/") if "/" in name else "views"] += extent.num_bytes
    num_rows, num_bytes = store.num_rows, store.num_bytes
    found = {
        "views": store.num_views, "copies": store.num_views - len(store.all_rows()),
        "rows": num_rows, "shards": len(store.shards), "bytes": num_bytes,
        "bytes_by_column": dict(sorted(columns.items())),
        "bytes_per_row": num_bytes / num_rows if num_rows else None,
    }
    drawn = store.settings.get("method", "top_k") != "top_k"  # stands for all of the mass
    if {"values", "log_rest"} <= columns.keys() and num_rows and not drawn:
        found["kept_mass"] = _kept_mass(store)
    return found


def _kept_mass(store: TeacherStore) -> dict[str, dict[str, Any]]:
    """By temperature: the mean mass of the kept entries, and the share of rows that keep less."""
    total, below, width = 0.0, 0, 0
    for shard in store.shards:
        for name, values in shard.map().columns:
            if name == "log_rest" and len(values):
                kept = 1.0 - np.exp(values.astype(np.float64)).reshape(len(values), -1)  # (rows, T)
                total = total + kept.sum(0)
                below = below + np.stack([(kept < share).sum(0) for share in KEPT_SHARES])
                width = kept.shape[1]
    temperatures = store.settings.get("temperatures", [f"number {n}" for n in range(width)])
    if len(temperatures) != width:
        raise StoreError(f"{store.folder}: settings.temperatures has {len(temperatures)} entries, "
                         f"log_rest {width} columns")
    return {
        str(temperature): {
            "mean": total[n] / store.num_rows,
            "rows_below": {str(share): float(below[i, n]) / store.num_rows
                           for i, share in enumerate(KEPT_SHARES)},
        }
        for n, temperature in enumerate(temperatures)
    }


@dataclass
class Difference:
    """The largest difference in one column."""

    largest: float = 0.0
    view: str = ""
    scale: float = 0.0  # what the difference is relative to: the column's largest stored value
    same: int = 0  # entries of `indices` found again in their row
    entries: int = 0

    @property
    def relative(self) -> float:
        return self.largest / self.scale if self.scale else float(self.largest > 0)

    @property
    def agreement(self) -> float:
        return self.same / self.entries if self.entries else 1.0


def compare(store: TeacherStore, rows: Sequence[int], scorer: Scorer) -> dict[str, Difference]:
    """Score views again with the live teacher; differences by column.

    `indices` are compared as sets, row by row, since near-ties change places; `log_rest` as mass.

    Raises:
        StoreError: the scorer gives other views, columns or numbers of rows.
    """
    texts = [store.key(row) for row in rows]
    live = {record.key: record.columns for record in scorer(texts)}
    if missing := [text for text in texts if text not in live]:
        raise StoreError(f"the live teacher gave nothing for {len(missing)} of {len(texts)} views, "
                         f"for example {missing[0]}")
    differences: dict[str, Difference] = {}
    for row, text in zip(rows, texts, strict=True):
        stored = store.read(row)
        ours = {name: values.shape for name, values in stored.items()}
        theirs = {name: np.shape(values) for name, values in live[text].items()}
        if ours != theirs:
            raise StoreError(f"view {text}: stored {ours}, the live teacher gives {theirs}")
        for name, values in stored.items():
            found = differences.setdefault(name, Difference())
            both = (_numbers(store, np.asarray(each)) for each in (values, live[text][name]))
            _add(found, name, text, *both)
    return differences


def _numbers(store: TeacherStore, values: np.ndarray) -> np.ndarray:
    """Values as numbers: numpy knows no bfloat16, stores of it hold its bits, half of float32's."""
    if store.settings.get("dtype") != "bfloat16" or values.dtype != np.int16:
        return values
    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _add(found: Difference, name: str, text: str, stored: np.ndarray, live: np.ndarray) -> None:
    """Take one view's column into a difference."""
    if name == "indices":
        pairs = zip(stored.reshape(len(stored), -1), live.reshape(len(live), -1), strict=True)
        found.same += sum(int(np.isin(a, b).sum()) for a, b in pairs)
        found.entries += stored.size
        return
    if not stored.size:
        return
    wide = np.complex128 if stored.dtype.kind == "c" else np.float64
    stored, live = stored.astype(wide), live.astype(wide)
    if name == "log_rest":
        stored, live = np.exp(stored), np.exp(live)
        found.scale = 1.0  # all of the teacher's mass
    else:
        finite = np.abs(stored[np.isfinite(stored)])
        found.scale = max(found.scale, finite.max(initial=0.0))
    with np.errstate(invalid="ignore"):
        difference = np.where(stored == live, 0.0, np.abs(stored - live))
    largest = float(np.nan_to_num(difference, nan=np.inf).max())
    if largest > found.largest or not found.view:
        found.largest, found.view = largest, text


def failures(differences: dict[str, Difference]) -> list[str]:
    """Lines about columns that differ by more than arithmetic explains."""
    lines = []
    for name, found in differences.items():
        if name == "indices" and found.agreement < MIN_INDICES:
            lines.append(f"indices: only {found.agreement:.1%} of the stored entries are among the "
                         f"live teacher's; at least {MIN_INDICES:.0%} should be")
        elif name != "indices" and found.relative > TOLERANCE:
            of = "the teacher's mass" if name == "log_rest" else "the column's largest value"
            lines.append(f"{name}: differs by {found.relative:.1%} of {of}, at most "
                         f"{TOLERANCE:.0%} is arithmetic; in view {found.view}")
    return lines
