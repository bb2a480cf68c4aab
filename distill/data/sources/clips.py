"""Clips, what every source becomes, and which columns of a source mean what."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FILE_COLUMNS = (
    "file_name", "audio_filepath", "path", "file", "audio", "filename", "filepath", "file_path",
    "audio_path", "audio_file", "audio_file_path", "audio_filename", "wav_filename", "wav_path",
    "wav", "wav_file", "audio_file_name", "slice_file_name", "fname", "ytid",
)
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
LANGUAGE_COLUMNS = ("language", "lang", "locale")


@dataclass(frozen=True)
class Clip:
    """A row of any source: audio as a `path` or as `data` (the bytes of an audio file).

    Attributes:
        place: where `data` lies in a shard that can be read by ranges, as
            `distill.data.formats.places` writes it; None: it has to be stored.
        offset, duration: seconds, of a part of the file; duration None: to its end.
        said_seconds: the file's length as a source says it that knows no offset: it is the length
            of a part from the beginning if the file is clearly longer.
        may_be_cut: offset and duration may be of a longer recording that this file was cut from.
        language: as the source says it, of this clip.
        problem: (reason, detail) of a row that is no clip and has to be counted.
    """

    id: str
    text: str | None = None
    speaker: str | None = None
    path: Path | None = None
    data: bytes = b""
    place: str | None = None
    name: str | None = None  # the file's name at its source
    labels: tuple[str, ...] | None = None  # classes of a sound
    offset: float = 0.0
    duration: float | None = None
    said_seconds: float | None = None
    may_be_cut: bool = False
    language: str | None = None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class Columns:
    """Names of columns. Before `resolve` None means "find it"; after it, "there is none". Labels
    are never looked for.

    Attributes:
        offset: where in its file a row begins; None even after `resolve`: it is looked for.
        label_names: what numbers in the column of labels stand for.
    """

    text: str | None = None
    speaker: str | None = None
    id: str | None = None
    labels: str | None = None
    offset: str | None = None
    label_names: tuple[str, ...] = ()
    language: str | None = None

    def resolve(self, names: Sequence[str], source: str) -> Columns:
        """Check the names given and find the others among `names`, in any case.

        Raises:
            ValueError: a column is not there; the message lists those that are.
        """
        text = _pick("text_column", self.text, TEXT_COLUMNS, names, source)
        if text is None and self.text != "none":
            raise ValueError(
                f"{source}: no transcripts under any of {', '.join(TEXT_COLUMNS)}; the columns "
                f"are {', '.join(names)}. Say text_column=NAME, or text_column=none, or "
                "label_column=NAME for classes of sounds"
            )
        return replace(
            self,
            text=text,
            speaker=_pick("speaker_column", self.speaker, SPEAKER_COLUMNS, names, source),
            id=_pick("id_column", self.id, ("id",), names, source),
            labels=_pick("label_column", self.labels, (), names, source),
            offset=self.offset if self.offset in (None, "none") else _pick(
                "offset_column", self.offset, (), names, source),
            language=_pick("language", None, LANGUAGE_COLUMNS, names, source),
        )

    def clip(
        self, row: dict[str, Any], id: str, data: bytes = b"",  # noqa: A002
        name: str | None = None, where: str = "",
    ) -> Clip:
        """A row as a Clip; texts are stripped, empty ones are None.

        Args:
            where: file and line of the row, for a value of the wrong type: the clip then has a
                `problem` (`bad_text`, `bad_speaker`, `bad_labels`).
        """
        clip = Clip(id=id, data=data, name=name)
        where = where or id
        text = row.get(self.text) if self.text else None
        if not (text is None or isinstance(text, str) or _is_nan(text)):
            fault = f"{where}: {self.text} must be a string, got {_shown(text)}"
            return replace(clip, problem=("bad_text", fault))
        speaker = row.get(self.speaker) if self.speaker else None
        if isinstance(speaker, list | dict):
            fault = f"{where}: {self.speaker} must be a string, got {_shown(speaker)}"
            return replace(clip, problem=("bad_speaker", fault))
        try:
            labels = self.labels_of(row.get(self.labels)) if self.labels else None
        except ValueError as error:
            return replace(clip, problem=("bad_labels", f"{where}: {self.labels} {error}"))
        language = row.get(self.language) if self.language else None
        return replace(clip, text=one_line(text), speaker=one_line(speaker), labels=labels,
                       language=one_line(language))

    def labels_of(self, value: Any) -> tuple[str, ...] | None:
        """Classes of a value: a list, or a text that is split at ; and | and at commas without a
        space behind them; None where there is no value, which is not the same as no class.

        Raises:
            ValueError: it holds something else than names (or numbers of names).
        """
        if value is None or _is_nan(value):
            return None
        parts = _parts(value)
        names = []
        for part in parts:
            number = int(part) if self.label_names and _is_index(part) else None
            if number is not None and not 0 <= number < len(self.label_names):
                if number == -1 and len(parts) == 1:
                    return None  # how datasets.ClassLabel writes "not known"
                raise ValueError(f"must be 0 to {len(self.label_names) - 1}, got {number}")
            if isinstance(part, bool | list | tuple | dict) or part is None or _is_nan(part):
                raise ValueError(f"must be a name or a list of names, got {_shown(value)}")
            names.append(class_name(self.label_names[number] if number is not None else part))
        return tuple(dict.fromkeys(name for name in names if name))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str) and re.fullmatch(r"\s*[\[{].*[\]}]\s*", value, re.DOTALL):
        return _written_list(value)
    parts = re.split(r"[;|]|,(?! )", value) if isinstance(value, str) else value
    return list(parts) if isinstance(parts, list | tuple) else [parts]


def _written_list(text: str) -> list[Any]:
    """The list that was written into a cell: ["a", "b"] of JSON, or ['a', 'b'] of Python."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, TypeError):
            continue
        if isinstance(found, list | set):
            return sorted(found, key=str) if isinstance(found, set) else found
    raise ValueError(f"must be a name or a list of names, got {_shown(text)}")


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_nan(value: Any) -> bool:
    """What pandas writes for "nothing" in a column of numbers."""
    return isinstance(value, float) and math.isnan(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def folded(name: str) -> str:
    """A column's name for comparison: ` File Name` and `file_name` are one."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def column_of(usual: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the `usual` names that is among `names`, as it is written there."""
    written = {folded(name): name for name in reversed(names)}
    return next((name if name in names else written[folded(name)]
                 for name in usual if name in names or folded(name) in written), None)


def _pick(
    key: str, wanted: str | None, usual: Sequence[str], names: Sequence[str], source: str
) -> str | None:
    if wanted == "none":
        return None
    if wanted is None:
        return column_of(usual, names)
    found = column_of([wanted], names)
    if found is None:
        raise ValueError(f"{source}: no column {wanted} ({key}); there are {', '.join(names)}")
    return found


def class_name(value: Any) -> str | None:
    """As `one_line`, with accents in one form: é of a Mac is two letters, and another class."""
    text = one_line(value)
    return text and unicodedata.normalize("NFC", text)


def one_line(value: Any) -> str | None:
    """A value as text without line breaks and double spaces; None where there is nothing."""
    if value is None or _is_nan(value):
        return None
    return " ".join(str(value).replace("\ufeff", "").split()) or None
