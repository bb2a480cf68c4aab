"""What an import wrote and left out: OUT/drops.json, which also tells our files from others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from distill.data.files import locked, read_json, write_json
from distill.data.sources.journal import Journal, is_journal, made_by
from distill.data.sources.notes import Notes
from distill.data.sources.output import (
    hash_of_file,
    is_same_source,
    place_from,
    refuse_foreign,
)
from distill.data.sources.rows import Drops, RowFile, ids_of, read_rows
from distill.data.sources.vanished import part_of_row, refuse_vanished

REPORT = "drops.json"
_HINT = ". For audio without transcripts say text_column=none"
_ENTRY = {"rows_read", "rows_kept"}


class Report:
    """Of the manifest `out/<name>.jsonl`.

    Attributes:
        asked: keys of the command, kept to know another command from the same again.
        unread: what lies in shards beside the audio and is not read, by suffix.
    """

    def __init__(self, source: str, out: Path, name: str, asked: dict[str, Any] | None = None):
        self.source, self.out, self.name, self.asked = source, out, name, asked or {}
        self.drops, self.notes = Drops(), Notes()
        self.unread: Counter[str] = Counter()
        self.manifest = out / f"{name}.jsonl"
        self.journal = out / f".{name}.progress.jsonl"

    def check_output(self) -> None:
        """Refuse to write over what is not ours.

        Raises:
            ValueError: see `refuse_foreign`.
        """
        made: dict[str, str | None] = {}
        if (entries := read_report(self.out)) is not None:
            made = {f"{name}.jsonl": entry.get("sha256") for name, entry in entries.items()}
            made |= {REPORT: None, "audio": None}
            entry = entries.get(self.name)
            if entry and self.manifest.exists() and not self._is_same_source(entry):
                print(f"{self.manifest} is of {entry.get('source')}, and will be of {self.source}")
        if any(is_journal(path) for path in self.out.glob(".*.progress.jsonl")):
            made["audio"] = None
        made |= dict.fromkeys(made_by(self.journal))
        refuse_foreign(self.out, [self.manifest.name, REPORT, "audio"], made)

    def finish(
        self, rows: RowFile, journal: Journal, num_read: int, may_be_gone: bool = False
    ) -> None:
        """Write the manifest and drops.json, say what happened, forget the journal.

        Args:
            may_be_gone: many clips of the manifest may be there no longer.

        Raises:
            ValueError: there is no row, or clips of the manifest cannot be opened now, or many of
                them are there no longer: it stays.
        """
        reasons = self.drops.text()
        journal.making(REPORT)
        if not rows.num_rows:
            self._write_entry(rows, num_read, None)
            print(self.drops.examples())
            raise ValueError(
                f"not one usable row of {num_read} ({reasons or 'the source is empty'}); see "
                f"{self.out / REPORT}{_HINT if self.drops.counts['missing_text'] else ''}")
        self._check_old_rows()
        if not may_be_gone and self._is_same_command():
            refuse_vanished([self.manifest], lambda: set(map(part_of_row, rows.rows())))
        old = set(self._old_audio(journal))
        journal.making(self.manifest.name)
        rows.write(self.manifest)
        self._write_entry(rows, num_read, hash_of_file(self.manifest))
        self._remove_unused(old)
        self._remove_torn(journal)
        journal.remove()
        self._say(rows, num_read)

    def _check_old_rows(self) -> None:
        if not (self.drops.transient and self.manifest.is_file()):
            return
        lost = len(self.drops.transient & ids_of(self.manifest))
        if lost:
            print(self.drops.examples())
            raise ValueError(
                f"{lost} clips of {self.manifest} cannot be opened now ({self.drops.text()}), so "
                "it stays as it is. Is a disk not mounted? With these "
                "files back the same command goes on; if they are gone for good, take them out of "
                f"the source's table, or remove {self.manifest}")

    def _is_same_command(self) -> bool:
        entry = (read_report(self.out) or {}).get(self.name, {})
        return self._is_same_source(entry) and entry.get("asked", self.asked) == self.asked

    def _is_same_source(self, entry: dict[str, Any]) -> bool:
        return is_same_source(entry, self.out, self.source)

    def _old_audio(self, journal: Journal) -> list[str]:
        """Files in `audio` that this import or one before it stored."""
        folder = f"audio/{self.name}/"
        named = (row["audio_filepath"] for row in read_rows(self.manifest)) \
            if self.manifest.is_file() else ()
        return [path for path in (*named, *journal.read_stored()) if path.startswith(folder)]

    def _remove_unused(self, paths: set[str]) -> None:
        if not paths:
            return
        paths -= {row["audio_filepath"] for row in read_rows(self.manifest)}
        removed = 0
        for path in paths:
            if (self.out / path).is_file():
                (self.out / path).unlink()
                removed += 1
        if removed:
            print(f"{removed} stored clips that are in no row any longer are removed")

    def _remove_torn(self, journal: Journal) -> None:
        """What a killed run had begun to store."""
        for path in map(Path, journal.read_stored()):
            for torn in (self.out / path.parent).glob(f".{path.name}.*.tmp"):
                torn.unlink()

    def _write_entry(self, rows: RowFile, num_read: int, sha256: str | None) -> None:
        entry = {
            "source": self.source,
            "place": place_from(self.out, self.source),
            "asked": self.asked,
            "rows_read": num_read,
            "rows_kept": rows.num_rows,
            "hours_kept": round(rows.seconds / 3600, 4),
            "drops": dict(self.drops.counts),
            "dropped": self.drops.listed,
        }
        with locked(self.out):  # other names may be imported at the same time
            entries = read_report(self.out) or {}
            before = entries.get(self.name, {}).get("sha256")
            entries[self.name] = {**entry, "sha256": sha256 or before}
            write_json(self.out / REPORT, entries)

    def _say(self, rows: RowFile, num_read: int) -> None:
        print(f"{self.manifest}: {rows.num_rows} clips, {rows.seconds / 3600:.2f} h")
        if rows.changes is not None:
            new, changed, gone = rows.changes
            print(f"since the last import: {new} new, {changed} changed, {gone} gone")
        if rows.num_renamed:
            print(f"{rows.num_renamed} rows had ids that were not unique: they have an ending now")
        if rows.num_conflicts:
            self.notes.add("have a sound that is there before with other words or labels",
                           rows.conflict, rows.num_conflicts)
        print(self.notes.text(), end="")
        print(f"dropped {self.drops.total} of {num_read} rows: {self.drops.text() or 'none'}")
        if self.drops.total:
            print(self.drops.examples())
        if self.unread:
            names = ", ".join(f"{kind or 'no suffix'} {n}" for kind, n in self.unread.most_common())
            print(f"not read in the shards: {names}")
        if sentence := self.drops.not_complete():
            print(sentence)


def read_report(out: Path) -> dict[str, dict[str, Any]] | None:
    """Entries of OUT/drops.json by manifest; None: there is none, or it is not ours."""
    try:
        report = read_json(out / REPORT)
    except (OSError, ValueError):
        return None
    is_ours = isinstance(report, dict) and report and all(
        isinstance(entry, dict) and set(entry) >= _ENTRY for entry in report.values())
    return report if is_ours else None
