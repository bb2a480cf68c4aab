"""Audio with its text in a file of the same name: beside it, or in a folder beside its own.

    clip.wav  clip.txt                             also .lab, .normalized.txt (LibriTTS), .json
    wav48_silence_trimmed/p225/p225_001_mic1.flac  txt/p225/p225_001.txt             (VCTK)

Where texts are not asked for, the folder a file lies in is its `label`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from distill.data.sources.clips import Clip, Columns
from distill.data.sources.layouts.speech import is_list, speaker_of
from distill.data.sources.layouts.tree import Tree, is_of_one_file, key, stem
from distill.data.sources.tables.text import read_text
from distill.data.sources.tables.times import Times, with_part

_SUFFIXES = (".normalized.txt", ".original.txt", ".txt", ".lab", ".json")
_NO_TRANSCRIPTS = re.compile(
    r"read_?me|licen[cs]e|copying|copyright|changelog|changes|notes?|speakers|speaker[-_]info|"
    r"chapters|books|index|classes|labels|requirements|citation|about|info|log|files|filelist|"
    r"train|dev|val|valid|validation|test|.*checksums?|md5|sha256", re.IGNORECASE)
_PEEK = 100  # files of JSON that the columns are seen from
_TEXT_FOLDERS = re.compile(r"te?xt|trans|lab|annot|sentence|prompt|script", re.IGNORECASE)
_TIMES = re.compile(r"\d+(\.\d+)?\s+\d+(\.\d+)?(\s|$)")


def clips_of_files(
    tree: Tree, audio: list[str], texts: list[str], columns: Columns, splits: Sequence[str] = ()
) -> Iterator[Clip]:
    """Clips by path, then texts that have no audio, as problems.

    Args:
        splits: names of folders that are no labels.

    Raises:
        ValueError: a column that was named and is not there (at once).
    """
    beside, parallel = _by_stem(texts, {_first(name) for name in audio})
    names = ["text", "label", "speaker"]
    known = {key(stem(each)) for each in audio}
    described = [name for name in texts
                 if name.lower().endswith(".json") and key(_bare(name)) in known]
    for name in described[:_PEEK]:
        names += list(_object(tree, name)[0])
    columns = columns.resolve(list(dict.fromkeys(names)), str(tree.root))
    stems = {stem(name) for name in audio}
    found = ((name, *_texts_of(name, stems, beside, parallel)) for name in audio)
    return _clips(tree, found, texts, columns, splits)


def _clips(
    tree: Tree, files: Iterator[tuple[str, list[str], bool]], texts: list[str], columns: Columns,
    splits: Sequence[str],
) -> Iterator[Clip]:
    used, audio = set(), set(tree.audio)
    for name, found, is_second in files:
        used.update(found)
        if is_second and columns.text:
            detail = f"{tree.root / name}: the same words as of the first microphone"
            yield Clip(stem(name), name=name, problem=("second_microphone", detail))
            continue
        row, problem = _row(tree, name, found, columns)
        if _parent(name) and _parent(name) not in splits:
            row.setdefault("label", [_parent(name)])
        where = str(tree.root / (found[0] if found else name))
        identity = (row.get(columns.id) if columns.id else None) or stem(name)
        clip = columns.clip(row, str(identity), name=name, where=where)
        clip = with_part(clip, row, Times.among(tuple(row), columns.offset))
        yield replace(clip, path=tree.root / name, problem=problem or clip.problem)
    for name in texts if columns.text else ():
        if name not in used and _is_transcript(name) and not is_of_one_file(name, audio):
            detail = f"{tree.root / name}: no audio of this name"
            yield Clip(_bare(name), name=name, problem=("no_audio", detail))


def _is_transcript(name: str) -> bool:
    bare = PurePosixPath(_bare(name)).name
    return not (name.lower().endswith(".json") or is_list(name) or _NO_TRANSCRIPTS.fullmatch(bare))


def _bare(name: str) -> str:
    """A text's path without its suffix."""
    suffix = next((each for each in _SUFFIXES if name.lower().endswith(each)), "")
    return name[: len(name) - len(suffix)]


def _parent(name: str) -> str:
    return PurePosixPath(name).parent.name


def _first(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _rest(name: str) -> str:
    """A path without its first folder."""
    return name.partition("/")[2]


def _by_stem(
    texts: list[str], folders: set[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Texts by their path, and those of a folder of texts by it without that folder: never those of
    another speaker.

    Args:
        folders: those at the top that audio lies in.
    """
    beside: dict[str, list[str]] = {}
    parallel: dict[str, list[str]] = {}
    for name in sorted(texts, key=lambda n: next(
            i for i, each in enumerate((*_SUFFIXES, "")) if n.lower().endswith(each))):
        beside.setdefault(key(_bare(name)), []).append(name)
        if _TEXT_FOLDERS.match(_first(name)) and _first(name) not in folders:
            parallel.setdefault(key(_rest(_bare(name))), []).append(name)
    return beside, parallel


def _texts_of(
    name: str, stems: set[str], beside: dict[str, list[str]], parallel: dict[str, list[str]]
) -> tuple[list[str], bool]:
    """A file's texts, best first, and whether another microphone's file has them, too."""
    bare = stem(name)
    one = re.sub(r"_mic\d$", "", bare)
    is_second = one != bare and not bare.endswith("_mic1") and f"{one}_mic1" in stems
    for each in dict.fromkeys((bare, name, one)):  # `a.wav.txt` is of a.wav, too
        if same := beside.get(key(each)):
            return same, is_second
        found = parallel.get(key(_rest(each)), []) if _first(each) else []
        if len({_first(text) for text in found}) == 1:
            return found, is_second
    return [], is_second


def _row(
    tree: Tree, name: str, found: list[str], columns: Columns
) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The columns of a file, and what is wrong with its texts."""
    row = {"speaker": speaker_of(name)}
    for each in found:
        if each.lower().endswith(".json"):
            described, problem = _object(tree, each)
            if problem:
                return row, problem
            row = {**row, **{k: v for k, v in described.items() if row.get("text") is None
                             or k != "text"}}
        elif columns.text == "text" and row.get("text") is None:
            try:
                row["text"] = _transcript(read_text(tree.root / each))
            except ValueError as error:
                return row, ("bad_text", str(error))
            except OSError as error:
                return row, ("cannot_open", f"{tree.root / each}: {error.strerror}")
            if row["text"] is None:
                detail = f"{tree.root / each}: times and labels of parts, not one transcript"
                return row, ("bad_text", detail)
    return row, None


def _transcript(text: str) -> str | None:
    """What is said; None for a list of times, as HTK and Audacity write them. TIMIT's one line
    begins with the first and the last sample."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or not all(_TIMES.match(line) for line in lines):
        return text
    words = lines[0].split(maxsplit=2)
    if len(lines) == 1 and len(words) == 3 and words[0] == "0" and words[1].isdigit():
        return words[2]
    return None if any(len(line.split()) > 2 for line in lines) else text


def _object(tree: Tree, name: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
    try:
        value = json.loads(read_text(tree.root / name))
    except OSError as error:
        return {}, ("cannot_open", f"{tree.root / name}: {error.strerror}")
    except (json.JSONDecodeError, RecursionError) as error:
        return {}, ("bad_text", f"{tree.root / name}: no JSON: {error}")
    except ValueError as error:
        return {}, ("bad_text", str(error))
    if isinstance(value, dict):
        return value, None
    return {}, ("bad_text", f"{tree.root / name}: expected an object {{...}}")
