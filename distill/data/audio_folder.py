"""Clips of a folder of audio, and which columns of a table mean what. Used by hub_dataset."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.data.find_files import find_audio

_TABLES = (".tsv", ".csv", ".jsonl")
_FILE_COLUMNS = ("file_name", "audio_filepath", "path", "file", "audio")
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
_SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")


@dataclass(frozen=True)
class Clip:
    """A row of any source: audio as a `path` or as `data` (the bytes of an audio file).

    Attributes:
        offset, duration: seconds, of a part of the file; duration None: to its end.
        language: as the source says it, of this clip.
        problem: (reason, detail) of a row that is no clip and has to be counted.
    """

    id: str
    text: str | None = None
    speaker: str | None = None
    path: Path | None = None
    data: bytes = b""
    name: str | None = None  # the file's name at its source
    labels: tuple[str, ...] | None = None  # classes of a sound
    offset: float = 0.0
    duration: float | None = None
    language: str | None = None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Columns:
    """Names of columns. Before `resolve` None means "find it"; after it, "there is none". Labels
    are never looked for.

    Attributes:
        label_names: what numbers in the column of labels stand for.
    """

    text: str | None = None
    speaker: str | None = None
    id: str | None = None
    labels: str | None = None
    label_names: tuple[str, ...] = ()

    def resolve(self, names: Sequence[str], source: str) -> Columns:
        """Check the names given and find the others among `names`.

        Raises:
            ValueError: a column is not there; the message lists those that are.
        """
        text = _pick("text_column", self.text, _TEXT_COLUMNS, names, source)
        if text is None and self.text != "none":
            raise ValueError(
                f"{source}: no transcripts under any of {', '.join(_TEXT_COLUMNS)}; the columns "
                f"are {', '.join(names)}. Say text_column=NAME, or text_column=none"
            )
        speaker = _pick("speaker_column", self.speaker, _SPEAKER_COLUMNS, names, source)
        return Columns(
            text, speaker, _pick("id_column", self.id, ("id",), names, source),
            _pick("label_column", self.labels, (), names, source), self.label_names,
        )

    def clip(self, row: dict, id: str, data: bytes = b"", name: str | None = None) -> Clip:  # noqa: A002
        """A row as a Clip; texts are stripped, empty ones are None."""
        return Clip(
            id=id,
            text=_text(row.get(self.text)) if self.text else None,
            speaker=_text(row.get(self.speaker)) if self.speaker else None,
            data=data,
            name=name,
            labels=self.labels_of(row.get(self.labels)) if self.labels else None,
        )

    def labels_of(self, value: Any) -> tuple[str, ...] | None:
        """Classes of a value: a list, or a text that is split at semicolons and at commas without a
        space behind them; None where there is no value, which is not the same as no class."""
        if value is None:
            return None
        parts = re.split(r";|,(?! )", value) if isinstance(value, str) else value
        parts = parts if isinstance(parts, list | tuple) else [parts]
        names = [self.label_names[part] if self.label_names and isinstance(part, int) else
                 " ".join(str(part).split()) for part in parts]
        return tuple(dict.fromkeys(name for name in names if name))


def _pick(
    key: str, wanted: str | None, usual: Sequence[str], names: Sequence[str], source: str
) -> str | None:
    if wanted == "none":
        return None
    if wanted is None:
        return next((name for name in usual if name in names), None)
    if wanted not in names:
        raise ValueError(f"{source}: no column {wanted} ({key}); there are {', '.join(names)}")
    return wanted


def _text(value: Any) -> str | None:
    return None if value is None else (" ".join(str(value).split()) or None)


def find_clips(folder: Path, split: str, columns: Columns) -> Iterator[Clip]:
    """Clips of a folder, in the order of its table, or by path where there is none.

    The table is `<split>` or `metadata` with .tsv, .csv or .jsonl. Files it names lie in the folder
    or in its `clips` folder (the layout of Common Voice). Without a table, `clip.txt` beside
    `clip.wav` is the transcript.

    Raises:
        ValueError: no audio at all, or a column is missing.
    """
    tables = [folder / f"{stem}{suffix}" for stem in (split, "metadata") for suffix in _TABLES]
    table = next((path for path in tables if path.is_file()), None)
    if table is not None:
        return _from_table(folder, table, columns)
    files = find_audio(folder)
    if not files:
        names = ", ".join(path.name for path in tables)
        raise ValueError(f"{folder}: no audio and none of {names}")
    return _from_sidecars(folder, files, columns)


def _from_sidecars(folder: Path, files: list[Path], columns: Columns) -> Iterator[Clip]:
    for path in files:
        sidecar = path.with_suffix(".txt")
        text = None
        if columns.text != "none" and sidecar.is_file():
            text = _text(sidecar.read_text(encoding="utf-8"))
        relative = path.relative_to(folder)
        identity = relative.with_suffix("").as_posix()
        yield Clip(identity, text=text, path=path, name=relative.as_posix())


def _from_table(folder: Path, table: Path, columns: Columns) -> Iterator[Clip]:
    rows = _read_table(table)
    if not rows:
        raise ValueError(f"{table}: no rows")
    names = list(rows[0])
    file_column = next((name for name in _FILE_COLUMNS if name in names), None)
    if file_column is None:
        raise ValueError(
            f"{table}: no column with the audio's file name (one of {', '.join(_FILE_COLUMNS)}); "
            f"there are {', '.join(names)}"
        )
    columns = columns.resolve(names, str(table))
    return (_clip_of_row(folder, row, file_column, columns) for row in rows)


def _clip_of_row(folder: Path, row: dict, file_column: str, columns: Columns) -> Clip:
    name = str(row.get(file_column) or "")
    path = next((p for p in (folder / name, folder / "clips" / name) if p.is_file()), folder / name)
    identity = row.get(columns.id) if columns.id else None
    clip = columns.clip(row, str(identity or Path(name).with_suffix("").as_posix()), name=name)
    return replace(clip, path=path)


def _read_table(path: Path) -> list[dict]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        if path.suffix == ".tsv":
            # Common Voice's tables have bare quotation marks in their sentences.
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(file))
