"""Folders of speech datasets that are no table with a header: Kaldi, LibriSpeech, LJSpeech, FLEURS.

    Kaldi           wav.scp, text; segments, utt2spk, utt2lang
    LibriSpeech     84/121123/84-121123.trans.txt; also transcripts.txt of MLS and the like
    LJSpeech        metadata.csv: LJ001-0001|text|normalised text
    CSS10           transcript.txt: book/1.wav|text|normalised text|seconds
    VITS            filelists/train.txt: wavs/a.wav|text, or wavs/a.wav|speaker|text
    FLEURS          train.tsv of seven columns without names, audio/train/*.wav
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from distill.data.formats.errors import AudioError
from distill.data.sources.clips import Clip, Columns, one_line
from distill.data.sources.layouts.tree import Finder, Tree, key, stem
from distill.data.sources.tables.rows import Layout
from distill.data.sources.tables.table import Table, has_audio_name, table_stem
from distill.data.sources.tables.text import read_lines

_LISTS = re.compile(r"(.*\.trans|trans|transcripts?|.*[_-]transcripts?(_v[\d.]+)?|prompts)\.txt")


_PEEK = 20  # rows that columns without names are known by


# Tables without names of columns

def without_names(table: Table, finder: Finder) -> tuple[Table, Layout] | None:
    """A table whose first line is a row already, with names for its columns; None for others."""
    if table.header is None:
        return None
    cells = [cell.strip() for cell in table.header.cells]
    if len(cells) == 7 and has_audio_name(cells[1:2]):
        return _fleurs(table)
    is_file = has_audio_name(cells[:1]) or finder.tree.has(cells[0])
    if len(cells) not in (2, 3, 4) or not is_file:
        return None
    if len(cells) == 4 and not re.fullmatch(r"\d+(\.\d+)?", cells[3]):
        return None
    names = ["file_name", "text", "normalized_text", "seconds"][: len(cells)]
    if len(cells) == 3 and table.path.suffix.lower() == ".txt":
        ahead = list(islice(table.records, _PEEK))
        table = replace(table, records=chain(ahead, table.records))
        rows = [cells, *(row.values for row in ahead if row.values and len(row.values) == 3)]
        if all(_is_speaker(*row[1:]) for row in rows):
            names = ["file_name", "speaker", "text"]  # VITS
    return table.without_header(names), Layout("LJSpeech", "file_name", has_times=False)


def _is_speaker(name: str, text: str) -> bool:
    """Whether a cell says who speaks, and not the same words in another way (LJSpeech)."""
    return " " not in name.strip() and name.strip(" .,!?").casefold() != text.strip(
        " .,!?").casefold()


def _fleurs(table: Table) -> tuple[Table, Layout]:
    """`id` is of the sentence, which several people read: the file's name is the clip's."""
    names = ["id", "file_name", "raw_transcription", "transcription", "characters", "num_samples",
             "gender"]
    split = table_stem(table.path)

    def file_of(row: dict[str, Any]) -> str:
        file = row["file_name"].strip()
        there = (table.path.parent / "audio" / split).is_dir()
        return f"{split}/{file}" if there and file else file

    return table.without_header(names), Layout(
        "FLEURS", "file_name", file_of=file_of, id_of=lambda row: stem(row["file_name"].strip()),
        has_times=False)


# Lists of transcripts

def is_list(name: str) -> bool:
    """Whether each line of a file is, by its name, that of a clip and what is said in it."""
    return _LISTS.fullmatch(PurePosixPath(name).name.casefold()) is not None


def clips_of_lists(
    tree: Tree, lists: list[str], audio: list[str], columns: Columns
) -> Iterator[Clip]:
    """Clips in the order of the lists, then `audio` that is in none of them, without a text.

    Raises:
        ValueError: a column other than id, text and speaker (at once).
    """
    columns = columns.resolve(["id", "text", "speaker"], str(tree.root / lists[0]))
    return _clips_of_lists(tree, lists, audio, columns)


def _clips_of_lists(
    tree: Tree, lists: list[str], audio: list[str], columns: Columns
) -> Iterator[Clip]:
    wanted, used = set(audio), set()
    for place in lists:
        for line in read_lines(tree.root / place):
            where = f"{tree.root / place} line {line.number}"
            if line.fault:
                yield Clip(where, name=place, problem=("bad_text", f"{where}: {line.fault}"))
            elif line.text.strip():
                identity, _, text = line.text.strip().partition(
                    "\t" if "\t" in line.text else " ")
                name = _audio_of(tree, place, identity.strip())
                if name is None:
                    detail = f"{where}: no audio called {identity}"
                    yield Clip(identity, name=place, problem=("no_audio", detail))
                    continue
                if name not in wanted:
                    continue  # of another split
                used.add(name)
                row = {"id": identity, "text": text, "speaker": speaker_of(name)}
                clip = columns.clip(row, stem(identity), name=name, where=where)
                yield replace(clip, path=tree.root / name)
    for name in audio:
        if name not in used:
            yield Clip(stem(name), path=tree.root / name, name=name)


def _audio_of(tree: Tree, place: str, identity: str) -> str | None:
    """The audio beside a list, or the only one of that name below it."""
    folder = PurePosixPath(place).parent
    beside = tree.by_path.get(key(str(folder / identity)))
    if beside:
        return beside[0]
    found = tree.by_name.get(key(identity), [])
    below = [name for name in found if PurePosixPath(name).is_relative_to(folder)] or found
    return below[0] if len(below) == 1 else None


def speaker_of(name: str) -> str | None:
    """The first part of a file's name such as 84-121123-0000, if a folder is called so, too."""
    first = re.split(r"[-_]", PurePosixPath(name).name)[0]
    return first if first in PurePosixPath(name).parts[:-1] else None


# Kaldi

def clips_of_kaldi(folder: Path, tree: Tree, columns: Columns) -> Iterator[Clip]:
    """Utterances of a data directory. Commands of wav.scp are not run: where one only decodes a
    file, that file is read.

    Raises:
        ValueError: a column that is not among those its files give (at once).
    """
    files = {"text": "text", "speaker": "utt2spk", "language": "utt2lang"}
    there = {column: folder / file for column, file in files.items() if (folder / file).is_file()}
    columns = columns.resolve(["id", *there], str(folder))
    return _kaldi(folder, there, columns, Finder(tree, _bases(folder, tree.root)))


def _bases(folder: Path, root: Path) -> list[Path]:
    """Paths of wav.scp are relative to where its recipe is run: two folders above, as a rule."""
    return [folder, root, *folder.resolve().parents[:3], Path.cwd()]


def _kaldi(
    folder: Path, there: dict[str, Path], columns: Columns, finder: Finder
) -> Iterator[Clip]:
    values: dict[str, dict[str, str]] = {}
    for column, path in there.items():
        values[column] = {}
        for number, utterance, value, fault in _pairs(path):
            if fault is None and utterance in values[column]:
                fault = ("bad_row", f"{utterance} a second time")
            if fault:
                yield Clip(utterance or f"{path} line {number}", name=path.name,
                           problem=(fault[0], f"{path} line {number}: {fault[1]}"))
            else:
                values[column][utterance] = value
    used = set()
    for utterance, where, recording, offset, duration in _utterances(folder):
        used.add(utterance)
        row = {"id": utterance, **{column: each.get(utterance) for column, each in values.items()}}
        clip = columns.clip(row, utterance, name=str(recording), where=where)
        try:
            if isinstance(recording, AudioError):
                raise recording
            path = finder.find(_file_of(recording))
            yield replace(clip, path=path, offset=offset, duration=duration)
        except AudioError as error:
            yield replace(clip, name=None, problem=(error.reason, f"{where}: {error.detail}"))
    for utterance in values.get("text", {}):
        if utterance not in used:
            detail = f"{there['text']}: {utterance} is in no wav.scp or segments"
            yield Clip(utterance, problem=("no_audio", detail))


def _pairs(path: Path) -> Iterator[tuple[int, str, str, tuple[str, str] | None]]:
    """(line, first word, the rest, fault) of each line that is not empty."""
    for line in read_lines(path):
        first, *rest = line.text.split(maxsplit=1) or [""]
        if line.fault:
            yield line.number, first, "", ("bad_text", line.fault)
        elif first:
            yield line.number, first, rest[0].strip() if rest else "", None


def _utterances(
    folder: Path,
) -> Iterator[tuple[str, str, str | AudioError, float, float | None]]:
    """(utterance, file and line, recording or what is wrong, offset, duration)."""
    scp, segments = folder / "wav.scp", folder / "segments"
    recordings: dict[str, str | AudioError] = {}
    for number, name, value, fault in _pairs(scp):
        if fault is None and recordings.get(name, value) != value:
            fault = "bad_row", f"{name} a second time, of another file"
        known = recordings.setdefault(name, AudioError(*fault) if fault else value)
        if fault or not segments.is_file():
            where = f"{scp} line {number}"
            yield name, where, AudioError(*fault) if fault else known, 0.0, None
    if not segments.is_file():
        return
    for number, name, value, fault in _pairs(segments):
        where = f"{segments} line {number}"
        try:
            if fault:
                raise AudioError(*fault)
            recording, offset, duration = _segment(value)
            if recording not in recordings:
                raise AudioError("no_audio", f"{recording} is not in wav.scp")
            yield name, where, recordings[recording], offset, duration
        except AudioError as error:
            yield name, where, error, 0.0, None


def _segment(value: str) -> tuple[str, float, float | None]:
    """`recording start end` -> (recording, offset, duration); an end of -1 is the file's."""
    parts = value.split()
    try:
        recording, start, end = parts[0], float(parts[1]), float(parts[2])
        is_part = 0 <= start < end or (start >= 0 and end == -1)
    except (IndexError, ValueError):
        is_part = False
    if not (is_part and math.isfinite(end)) or len(parts) > 4:
        raise AudioError("bad_offset", f"expected RECORDING START END in seconds, got {value!r}")
    if len(parts) == 4:
        raise AudioError("one_channel", "a segment of one channel: write the channels to files")
    return recording, start, None if end == -1 else round(end - start, 6)


def _file_of(value: str) -> str:
    """The file of a line of wav.scp.

    Raises:
        AudioError: `needs_command` or `kaldi_archive`.
    """
    if value.endswith("|"):
        file = _decoded_file(value[:-1])
        if file is None:
            raise AudioError("needs_command", f"{one_line(value)} is not run: write what it gives "
                             "to files (wav-copy scp:wav.scp ark,scp:...)")
        return file
    if re.search(r"\.ark(:\d+)?$", value):
        raise AudioError("kaldi_archive", f"{value}: take the audio out of the archive first")
    return value


_DECODERS = {  # options that leave the sound as it is; "=" takes a value
    "cat": {},
    "flac": dict.fromkeys(("-c", "-d", "-s", "-f", "-dc", "-cd", "-cds", "-dcs", "-scd", "-sdc",
                           "--decode", "--stdout", "--silent"), ""),
    "sph2pipe": {"-f": "=", "-p": ""},
    "sox": {"-t": "=", "-r": "=", "-b": "=", "-e": "=", "-V1": "", "-V0": "", "-": ""},
    "ffmpeg": {"-i": "", "-f": "=", "-ar": "=", "-v": "=", "-loglevel": "=", "-acodec": "=",
               "-c:a": "=", "-nostdin": "", "-hide_banner": "", "-y": "", "-vn": "", "-": "",
               "pipe:1": "", "pipe:": "", "/dev/stdout": ""},
}


def _decoded_file(command: str) -> str | None:
    """The file of a command that does nothing but decode it whole."""
    try:
        program, *words = shlex.split(command)
    except ValueError:
        return None
    options = _DECODERS.get(Path(program).name)
    if options is None or {"|", ">", "<", "&&", ";"} & set(words):
        return None
    files, takes_value = [], False
    for word in words:
        if takes_value:
            takes_value = False
        elif word in options:
            takes_value = options[word] == "="
        elif word.startswith("-"):
            return None
        else:
            files.append(word)
    return files[0] if len(files) == 1 else None
