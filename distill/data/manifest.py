"""The manifest: one JSON object a line, one clip an object. The contract between stages.

Field names are those of NeMo and of the Open ASR Leaderboard, so that their manifests are read as
they are. Audio paths are relative to the manifest's folder, so that a corpus can be moved; or URLs.
Audio in a shard is named by the shard and `byte_offset` and `num_bytes`, or `member` of a tar file
that is not compressed. All types are checked when a manifest is opened, before any model is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.data.files import hash_of, write_jsonl
from distill.data.formats.addresses import Resolver, member_of_file, part_of_file
from distill.data.json_rows import BadLines, read_rows
from distill.data.languages import language_code

_OUTSIDE_PARTS = 3  # of an absolute path, in an id: more would tell where a corpus lies
_LONGEST = 1e6  # seconds, eleven days: what is longer is a mistake, or another unit
_OTHER_NAMES = {  # that hub_dataset knows, and manifests do not have
    "offset": ("start", "start_time", "start_seconds", "start_ms", "begin", "onset"),
    "text": ("sentence", "transcript", "transcription"), "labels": ("label", "category")}
# folders of clips in runs/NAME, made for a recipe
_MADE = ("scenes", "questions", "no-speech", "read-aloud")
_KEPT = 32  # manifests of a process; a stage looks at each several times
_opened: dict[tuple[str, bytes], Manifest] = {}


@dataclass(frozen=True)
class Row:
    """A clip. `offset` and `duration` in seconds; `text` is the reference, if there is one.
    `recordings` {label: names}: of what a clip that was mixed has its labels."""

    id: str
    audio_filepath: str
    duration: float
    offset: float = 0.0
    text: str | None = None
    speaker: str | None = None
    language: str | None = None  # Whisper's code, or as it was given where Whisper knows none
    labels: list[str] | None = None
    recordings: dict[str, list[str]] | None = None


@dataclass(frozen=True)
class Manifest:
    """What a file says.

    Attributes:
        places: of each row in the file: `line 7`.
        drops: rows that can never be used, by reason: `bad_duration` (not above 0, or of weeks),
            `bad_offset` (not finite, or below zero), `duplicate_clip` (the same in everything).
        num_renamed: rows whose id others have, too; a hash of what they are stands behind it.
        num_unread: rows with a field that is not read and seems to stand for one that is, which
            they lack: `start` for `offset`.
    """

    path: str
    rows: list[Row]
    places: list[str]
    drops: Counter
    num_renamed: int = 0
    num_unread: Counter = field(default_factory=Counter)


def read_manifest(path: str | Path) -> tuple[list[Row], Counter]:
    """Rows of a manifest with absolute audio paths, and a Counter of drops by reason.

    Raises:
        ValueError: see `open_manifest`.
    """
    found = open_manifest(path)
    return list(found.rows), Counter(found.drops)


def open_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest. A row without an id (NeMo's have none) is named by its file and
    offset. The same file is parsed once in a process.

    Raises:
        ValueError: there is no such file, it cannot be decoded, or lines lack a field or hold
            something else than text, numbers and lists where these belong: the first three are
            named, and how many there are.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(_not_found(path))
    data = path.read_bytes()
    key = str(path.absolute()), hashlib.blake2b(data).digest()
    if key not in _opened:
        if len(_opened) >= _KEPT:
            del _opened[next(iter(_opened))]
        _opened[key] = _open(path, data)
    return _opened[key]


def load_rows(manifests: Sequence[str], spoken: bool = False) -> tuple[list[Row], Counter]:
    """Rows of several manifests; ids are made unique by the manifest's name if there are several.

    Args:
        spoken: for Whisper: a row's language is one that it knows.

    Raises:
        ValueError: see `open_manifest`; two manifests of the same name, or an unknown language.
    """
    rows: list[Row] = []
    drops: Counter = Counter()
    names = ["/".join(Path(path).with_suffix("").parts[-2:]) for path in manifests]
    if len(set(names)) != len(names):
        raise ValueError(f"data: manifests need different names, got {', '.join(manifests)}")
    for path, name in zip(manifests, names, strict=True):
        found = open_manifest(path)
        if spoken:
            _check_languages(found)
        drops += found.drops
        rows += found.rows if len(names) == 1 else [replace(r, id=f"{name}:{r.id}")
                                                    for r in found.rows]
    return rows, drops


def recordings_of(rows: Sequence[Row], groups: Sequence[Sequence[str]]) -> list[list[set[str]]]:
    """Of which recordings clips have their labels: a set of names for each group of labels and each
    row; empty where the row does not say it. [] where no row does."""
    if not any(row.recordings for row in rows):
        return []
    return [[{name for label in group for name in (row.recordings or {}).get(label, ())}
             for row in rows] for group in groups]


def counts_text(counts: dict[str, int]) -> str:
    """`3 bad_duration, 1 duplicate_clip`; `nothing` of none."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items())) or "nothing"


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as they are; fields that are None are left out."""
    write_jsonl(
        path,
        ({k: v for k, v in asdict(row).items() if v is not None} for row in rows),
    )


# Reading

def _open(path: Path, data: bytes) -> Manifest:
    rows, places, problems, drops, unread = [], [], [], Counter(), Counter()
    for place, raw in read_rows(data, path):
        try:
            row = _row(raw, path.parent)
        except ValueError as error:
            problems.append((place, str(error)))
            continue
        reason = _unusable(row)
        if reason:
            drops[reason] += 1
        else:
            rows.append(row)
            places.append(place)
            unread.update(_unread(raw))
    if problems:
        raise BadLines(path, problems)
    named = _unique(rows)
    drops["duplicate_clip"] = sum(name is None for name in named)
    kept = [number for number, name in enumerate(named) if name is not None]
    resolve = Resolver(path.parent)
    return Manifest(
        str(path),
        [replace(rows[n], id=named[n], audio_filepath=resolve(rows[n].audio_filepath))
         for n in kept],
        [places[n] for n in kept], +drops, sum(named[n] != rows[n].id for n in kept), unread)


def _unread(raw: object) -> list[str]:
    """`start for offset` of each field that is there under another name."""
    assert isinstance(raw, dict)  # it is a row
    return [f"{name} for {key}" for key, names in _OTHER_NAMES.items() if raw.get(key) is None
            for name in names if raw.get(name)]


def _not_found(path: Path) -> str:
    """What stands where a manifest should."""
    if path.is_dir():
        names = sorted(each.name for each in path.glob("*.json*"))[:5]
        there = f"; it has {', '.join(names)}" if names else ""
        return f"manifest not found: {path} is a folder: name a .jsonl file in it{there}"
    if any(sign in path.name for sign in "*?["):
        names = sorted(each.name for each in path.parent.glob(path.name))[:5]
        return (f"manifest not found: {path}: patterns are not expanded: name each file"
                + (f" ({', '.join(names)})" if names else ""))
    there = {each.stem: each.name for each in path.parent.glob("*.json*")}
    near = difflib.get_close_matches(path.stem, there, n=1)
    command = made_by(path)
    hint = (f"; did you mean {there[near[0]]}?" if near
            else f"; `{command}` makes it" if command else "")
    return f"manifest not found: {path}{hint}"


def made_by(path: Path) -> str | None:
    """What makes a manifest of clips that a recipe does not bring along; None of others."""
    run = path.parent.parent
    made = path.parent.name in _MADE and run.parent.name == "runs"
    return f"make {run.name}.plan" if made else None


def _row(raw: object, folder: Path) -> Row:
    """A line as a Row, its path as it stands there.

    Raises:
        ValueError: says what is wrong with which field.
    """
    if isinstance(raw, ValueError):
        raise raw
    if not isinstance(raw, dict):
        raise ValueError(f"expected a JSON object, got {_shown(raw)}")
    lacks = [key for key in ("audio_filepath", "duration") if raw.get(key) in (None, "")]
    if lacks:
        raise ValueError(f"lacks {' and '.join(lacks)}; a row needs audio_filepath and duration, "
                         f"it has {', '.join(map(str, raw)) or 'nothing'}")
    audio = raw["audio_filepath"]
    if not isinstance(audio, str) or "\0" in audio:
        raise ValueError(f"audio_filepath must be a path, got {_shown(audio)}")
    offset, named = _number(raw, "offset", 0.0), audio
    if any(raw.get(key) is not None for key in ("member", "byte_offset", "num_bytes")):
        audio, named = _part_of_shard(raw, audio)
    recordings, language = raw.get("recordings"), _name(raw, "language")
    if recordings is not None and not (isinstance(recordings, dict) and all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in recordings.values())):
        raise ValueError(f"recordings must be {{label: [names]}}, got {_shown(recordings)}")
    return Row(
        id=_name(raw, "id") or _id_of(named, offset, folder), audio_filepath=audio,
        duration=_number(raw, "duration", None), offset=offset, text=_text(raw, "text"),
        speaker=_name(raw, "speaker"), language=_code(language or ""), labels=_labels(raw),
        recordings=recordings)


def _labels(raw: dict) -> list[str] | None:
    labels = raw.get("labels")
    if labels is not None and not (isinstance(labels, list)
                                   and all(isinstance(each, str) for each in labels)):
        raise ValueError(f"labels must be a list of strings, got {_shown(labels)}")
    if not all(map(str.strip, labels or ())):
        raise ValueError(f"labels must have names, got {_shown(labels)}")
    return labels


def _part_of_shard(raw: dict, audio: str) -> tuple[str, str]:
    """(the audio as one text, what an id is made of)."""
    member = raw.get("member")
    if member is not None and not (isinstance(member, str) and member):
        raise ValueError(f"member must be the name of one, got {_shown(member)}")
    parts = [raw.get("byte_offset"), raw.get("num_bytes")]
    if parts != [None, None]:
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in parts):
            raise ValueError("byte_offset and num_bytes must be two whole numbers of bytes, got "
                             f"{_shown(parts[0])} and {_shown(parts[1])}")
        place = part_of_file(audio, *parts)
    else:
        place = member_of_file(audio, member)
    stem = os.path.splitext(audio)[0]
    return place, f"{stem}/{member}" if member else f"{stem}-{parts[0]}"


def _text(raw: dict, key: str) -> str | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text or null, got {_shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a pair: no file could hold it
            raise ValueError(f"{key} has half a character in it: {value!a:.60}") from None
    return value


def _name(raw: dict, key: str) -> str | None:
    """A text; people name clips and speakers by numbers, too."""
    value = raw.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value) if float(value).is_integer() else value)
    return _text(raw, key)


def _number(raw: dict, key: str, default: float | None) -> float:
    value = raw.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} must be a number of seconds, got {_shown(value)}")
    try:
        float(value)
    except OverflowError:
        return math.inf
    return value  # a whole number stays one: hashes of labels say 3 and not 3.0


def _code(language: str) -> str | None:
    if not language.strip():
        return None
    try:
        return language_code(language)
    except ValueError:  # a tagger does not ask
        return language


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unusable(row: Row) -> str | None:
    if not 0 < row.duration <= _LONGEST:  # also of NaN
        return "bad_duration"
    return None if math.isfinite(row.offset) and row.offset >= 0 else "bad_offset"


# Ids

def _id_of(audio: str, offset: float, folder: Path) -> str:
    """The id of a row that has none: its file, as the corpus knows it, and where it begins."""
    path = Path(audio)
    if path.is_absolute() and path.is_relative_to(folder.absolute()):
        path = path.relative_to(folder.absolute())
    elif path.is_absolute():
        path = Path(*path.parts[1:][-_OUTSIDE_PARTS:])
    name = "/".join(part for part in path.with_suffix("").parts if part != "..")
    return f"{name}@{f'{offset:.6f}'.rstrip('0').rstrip('.')}s" if offset else name


def _unique(rows: Sequence[Row]) -> list[str | None]:
    """An id for each row that no other has; None for a row that is there already, in all it says.

    Ids that several rows have are followed by a hash of what sets these apart, so that an id does
    not depend on the order of rows.
    """
    twice = {name for name, count in Counter(row.id for row in rows).items() if count > 1}
    if not twice:
        return [row.id for row in rows]
    whole = {n: hash_of(_said(row)) for n, row in enumerate(rows) if row.id in twice}
    first = {}
    for number, key in whole.items():
        first.setdefault(key, number)
    distinct = [rows[number] for number in first.values()]
    shared = {name for name, count in Counter(row.id for row in distinct).items() if count > 1}
    parts = Counter((row.id, _part(row)) for row in distinct)
    return [
        row.id if number not in whole or (first[whole[number]] == number and row.id not in shared)
        else None if first[whole[number]] != number
        else f"{row.id}~{(_part(row) if parts[row.id, _part(row)] == 1 else whole[number])[:8]}"
        for number, row in enumerate(rows)
    ]


def _said(row: Row) -> dict[str, Any]:
    """All that it says; hashes of rows without recordings are those of before there were any."""
    found = asdict(row)
    if row.recordings is None:
        del found["recordings"]
    return found


def _part(row: Row) -> str:
    """Which part of which file it is: a corrected transcript is of the same clip."""
    return hash_of([row.audio_filepath, row.offset, row.duration])


def _check_languages(manifest: Manifest) -> None:
    """
    Raises:
        BadLines: a row is in a language that Whisper does not know.
    """
    unknown: dict[str, str | None] = {None: None}
    for row in manifest.rows:
        if row.language not in unknown:
            try:
                unknown[row.language] = language_code(row.language) and None
            except ValueError as error:
                unknown[row.language] = f"language {row.language!r}: {error}"
    problems = [(place, problem) for row, place in zip(manifest.rows, manifest.places, strict=True)
                if (problem := unknown[row.language])]
    if problems:
        raise BadLines(manifest.path, problems)
