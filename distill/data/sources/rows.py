"""Rows of a manifest in the making: ids made unique, rows that come twice found, all drops counted.

    with RowFile(folder) as rows:
        rows.add(row, content)            # False: the same row again
        rows.write(folder / "train.jsonl")

A million rows take a few hundred MB: what is kept of each is two numbers; itself it lies in a file
without a name.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.files import write_atomic
from distill.data.formats.errors import TRANSIENT
from distill.data.manifest import Row

_LISTED = 20  # dropped rows named in drops.json, per reason; the counts are complete
_SHOWN = 3  # dropped rows named on the screen, per reason


class RowFile:
    """Accepted rows, in order.

    Attributes:
        seconds: of all of them.
        num_renamed: of `num_rows`, whose id was another's, too (after `write`).
        num_conflicts: of `num_rows`, whose sound has other words or labels in an earlier row;
            `conflict` is the first of them.
        changes: (new, changed, gone) against the manifest that was there (after `write`); None:
            there was none.
    """

    def __init__(self, folder: Path):
        self._file = tempfile.TemporaryFile(  # noqa: SIM115 (closed in __exit__)
            "w+", dir=folder, encoding="utf-8", newline="\n")
        self._words: dict[int, int | set[int]] = {}  # of each id, hashed: what its rows say
        self.seconds, self.num_rows, self.num_renamed = 0.0, 0, 0
        self.changes: tuple[int, int, int] | None = None
        self._sounds: dict[int, int] = {}  # of each sound, hashed: what its first row says
        self.num_conflicts, self.conflict = 0, ""

    def add(self, row: Row, content: str, sound: str) -> bool:
        """Take a row.

        Args:
            content: what tells its clip from others, wherever the corpus lies; with its text and
                labels it tells rows of one id apart.
            sound: what tells its sound from others.

        Returns:
            False: the same clip under the same id, with the same words, is there already.
        """
        identity = hash_of_text(row.id)
        words = hash_of_text(json.dumps([content, row.text, row.labels]))
        known = self._words.get(identity)
        if known is None:
            self._words[identity] = words
        elif isinstance(known, set):
            if words in known:
                return False
            known.add(words)
        elif known == words:
            return False
        else:
            self._words[identity] = {known, words}
        said = hash_of_text(json.dumps([row.text, row.labels]))
        if self._sounds.setdefault(hash_of_text(sound), said) != said:
            self.num_conflicts += 1
            self.conflict = self.conflict or row.id
        self._file.write(f"{identity:016x} {words:016x} {_line(row)}")
        self.seconds += row.duration
        self.num_rows += 1
        return True

    def rows(self) -> Iterator[dict[str, Any]]:
        """As they will be written."""
        return (json.loads(line) for _, line in self._unique_lines())

    def write(self, path: Path) -> None:
        """Write the manifest, in one step."""
        before = dict(_read_lines(path)) if path.is_file() else None
        new = changed = 0

        def write(temporary: Path) -> None:
            nonlocal new, changed
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                for identity, line in self._unique_lines():
                    file.write(line)
                    if before is not None:
                        old = before.pop(identity, None)
                        new += old is None
                        changed += old not in (None, hash_of_text(line))

        write_atomic(path, write)
        if before is not None:
            self.changes = new, changed, len(before)

    def _unique_lines(self) -> Iterator[tuple[int, str]]:
        """(id, hashed; line) of each row. Of rows that share an id each gets a new one by what it
        is, whatever their order."""
        self._file.flush()
        self._file.seek(0)
        self.num_renamed = 0
        for entry in self._file:
            identity, words, line = int(entry[:16], 16), entry[17:33], entry[34:]
            if isinstance(self._words[identity], set):
                raw = json.loads(line)
                name = f"{raw['id']}-{words[:12]}"
                if hash_of_text(name) in self._words:
                    name = f"{raw['id']}-{words}"
                raw["id"], identity = name, hash_of_text(name)
                line = json.dumps(raw, ensure_ascii=False) + "\n"
                self.num_renamed += 1
            yield identity, line

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Drops:
    """Rows that are left out, by reason.

    Attributes:
        counts: all of them.
        transient: ids, hashed, of those whose audio could not be opened now.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.listed: dict[str, list[dict[str, str]]] = {}
        self.transient: set[int] = set()

    def add(self, row_id: str, reason: str, detail: str) -> None:
        self.counts[reason] += 1
        if reason in TRANSIENT:
            self.transient.add(hash_of_text(row_id))
        listed = self.listed.setdefault(reason, [])
        if len(listed) < _LISTED:  # names on a disk need not be UTF-8
            texts = [text.encode(errors="backslashreplace").decode() for text in (row_id, detail)]
            listed.append({"id": texts[0], "reason": reason, "detail": texts[1]})

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def num_transient(self) -> int:
        return sum(count for reason, count in self.counts.items() if reason in TRANSIENT)

    def not_complete(self) -> str:
        """A sentence on what could not be opened now; "" if there is none."""
        if not self.num_transient:
            return ""
        parts = []
        if count := self.counts["needs_ffmpeg"]:
            parts.append(f"{count} clips need FFmpeg: `pip install 'audio-distill[media]'`, or "
                         "convert them yourself, for example by `ffmpeg -i sound.m4a sound.flac`")
        if count := self.num_transient - count:
            parts.append(f"{count} clips could not be opened now (a disk that is not mounted?)")
        return f"NOT COMPLETE: {'; '.join(parts)}. The same command takes them in then."

    def text(self) -> str:
        """`unreadable 2, missing_text 1`; "" if there is none."""
        return ", ".join(f"{reason} {count}" for reason, count in self.counts.most_common())

    def examples(self) -> str:
        """A line for each reason, with the first few rows."""
        lines = []
        for reason, count in self.counts.most_common():
            shown = [_shown(**row) for row in self.listed[reason][:_SHOWN]]
            lines.append(f"  {reason}: {'; '.join(shown)}{'; ...' if count > len(shown) else ''}")
        return "\n".join(lines)


def _shown(id: str, reason: str, detail: str) -> str:  # noqa: A002
    return (detail or id) if id in detail else f"{id}: {detail}" if detail else id


def ids_of(path: Path) -> set[int]:
    """Ids of a manifest, hashed."""
    return {identity for identity, _ in _read_lines(path)}


def hash_of_text(text: str) -> int:
    """64 bits of a text."""
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _line(row: Row) -> str:
    """As `write_manifest` writes it."""
    raw = {name: value for name, value in vars(row).items() if value is not None}
    return json.dumps(raw, ensure_ascii=False) + "\n"


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a manifest as they stand there, one at a time."""
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _read_lines(path: Path) -> Iterator[tuple[int, int]]:
    """(id, line) of a manifest, hashed."""
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.strip():
                yield hash_of_text(str(json.loads(line).get("id"))), hash_of_text(line)
