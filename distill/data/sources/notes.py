"""What an import keeps as it is, and what may be meant otherwise: printed at its end."""

from __future__ import annotations

from collections import Counter

from distill.data.manifest import Row
from distill.data.sources.clips import Clip

# What programs write where there is nothing; somebody may say "none", so the case counts.
_NOTHING = frozenset({"nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "N/A", "#N/A", "n/a"})


class Notes:
    """What was kept as it is, and may be meant otherwise: printed once, with a count."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def look_at(self, row: Row, clip: Clip, label_column: str | None) -> None:
        """Count what is odd about a row, made of a clip.

        Args:
            label_column: that was asked for.
        """
        if clip.may_be_cut and clip.offset and not row.offset:
            self.add("are whole files, which are as long as the parts that their rows name: "
                     "they were cut already", row.id)
        for what, value in (("text", row.text), ("speaker", row.speaker)):
            if value in _NOTHING:
                self.add(f'have the {what} "{value}", which programs write where there is none',
                         row.id)
        if row.text and not any(map(str.isalnum, row.text)):
            self.add("have a text without a letter", f"{row.id} {row.text!r}")
        if label_column and row.labels is None:
            self.add(f"have nothing in {label_column}: nobody knows their classes", row.id)
        if row.labels is not None and not row.labels:
            self.add("are of no class at all", row.id)
        for label in row.labels or ():
            if ", " in label:
                self.add("have a label with a comma in it, which is one class (; divides "
                         "classes)", label)

    def add(self, what: str, example: str, count: int = 1) -> None:
        self.counts[what] += count
        self.first.setdefault(what, example)

    def text(self) -> str:
        """A line for each, `2 clips are of no class at all: a, ...`; "" if there is none."""
        return "".join(f"{count} clips {what}: {self.first[what]}{', ...' if count > 1 else ''}\n"
                       for what, count in self.counts.items())
