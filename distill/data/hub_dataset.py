"""A Hub dataset, a folder of audio or a table -> a manifest.

    python -m distill.data.hub_dataset SOURCE OUT_FOLDER key=value...

SOURCE is one of
    a Hub id             openslr/librispeech_asr
    parquet              a file or a folder, or what datasets' save_to_disk wrote
    shards               WebDataset: .tar files of <split>*, clip.flac with clip.txt or clip.json;
                         also behind a URL: https://host/shards-{0000..0012}.tar, s3://bucket/folder,
                         and parquet: hf://datasets/OWNER/NAME/data/train-*.parquet
    a folder of audio    with <split> or metadata .csv, .tsv, .jsonl or .json (a file name and a
                         text in each row), or with a .txt beside each clip; as Common Voice,
                         LibriSpeech, Kaldi, NeMo, LJSpeech, FLEURS, VCTK, TEDLIUM, VITS, ESC-50,
                         UrbanSound8K, FSD50K, AudioSet, Speech Commands and audiofolder come
    a table              one of those files

Keys:
    split=train          a+b joins splits, all is every one; of a folder: tables or folders of that
                         name, or the rows with it in a column `split`; of shards: <split>*.tar
    name=train           OUT_FOLDER/<name>.jsonl is written; default: the split
    config= revision=    of the Hub dataset
    text_column=         default: text, sentence, transcript or transcription; none: do without
    speaker_column=      default: speaker_id, speaker or client_id where there is one
    id_column=           default: id; otherwise the row number (Hub) or the file's path
    label_column=        classes of sounds: a list, a class, or text with ; or | or , (no space
                         behind it) between them; no transcripts then, unless text_column says
                         where they are
    offset_column=       where in its file a row begins; default: offset, start, start_ms and the
                         like where there is one; none: rows are whole files
    language=            written in every row, as a code; any name or code of it will do
    max_hours=           stop there
    unpack=true          store the clips of shards and of parquet, too; else the manifest says where
                         in their file they lie (those of compressed ones are always stored)
    streaming=true       keep no copy of the dataset in datasets' cache
    allow_gone=true      write a manifest without the clips that were in it and are there no longer;
                         else an import that is run again stops where many are gone

Audio of Hub ids is written to OUT_FOLDER/audio byte for byte, never re-encoded; that of a folder,
of shards or of parquet stays where it is and is pointed at. The source is never written to, nor are
files of OUT_FOLDER that this command did not make. Ids that several rows share get an ending by
what the rows are. Rows that cannot be used are counted, printed and listed in
OUT_FOLDER/drops.json.

Started again, it goes through the source anew: what was changed, came or went since is seen; what
was stored and measured before is not done again. Exit code 1: some audio could not be opened now
(a disk that is not mounted?), and the same command takes it in later.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path

from distill.data.audio import AudioError, audio_info
from distill.data.files import write_atomic
from distill.data.find_files import AUDIO_SUFFIXES
from distill.data.formats.addresses import is_remote, local_path, split_part
from distill.data.hub_ids import check_hub_id, is_page
from distill.data.languages import language_code
from distill.data.manifest import Row
from distill.data.sources.clips import Clip, Columns
from distill.data.sources.hub_rows import is_dataset, open_dataset
from distill.data.sources.journal import Journal
from distill.data.sources.layouts.folder import find_clips
from distill.data.sources.output import Outside, refuse_overlap, relative_to
from distill.data.sources.parquet_places import hash_of_bytes
from distill.data.sources.report import Report
from distill.data.sources.rows import RowFile
from distill.data.sources.tables.table import TABLES, table_suffix
from distill.data.sources.tables.times import part_of
from distill.data.sources.tar_shards import (
    SUFFIXES,
    find_remote_shards,
    find_shards,
    read_shards,
)
from distill.endings import Stopped, run, writing_to
from distill.progress import progress

_SIGNATURES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}


@dataclass
class Options:
    """The key=value arguments; see the head of this file."""

    split: str = "train"
    name: str | None = None
    config: str | None = None
    revision: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    offset_column: str | None = None
    language: str | None = None
    max_hours: float | None = None
    unpack: bool = False
    streaming: bool = False
    allow_gone: bool = False

    @property
    def columns(self) -> Columns:
        text = "none" if self.label_column and not self.text_column else self.text_column
        return Columns(text, self.speaker_column, self.id_column, self.label_column,
                       self.offset_column)

    @property
    def asked(self) -> dict:
        """What else than the defaults was asked for."""
        return {key: value for key, value in vars(self).items()
                if value not in (None, False) and key not in ("streaming", "allow_gone")}

    @property
    def manifest(self) -> str:
        return self.name or re.sub(r"[^\w.-]+", "-", self.split)


def parse_options(arguments: list[str]) -> Options:
    """`key=value` words -> Options.

    Raises:
        ValueError: not key=value, an unknown key, or a value of the wrong type.
    """
    known = [field.name for field in fields(Options)]
    options = Options()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value:
            raise ValueError(f"expected key=value, got {argument!r}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown key {key}; {hint}")
        setattr(options, key, _parse(key, value))
    return options


def _parse(key: str, value: str) -> str | float | bool:
    if key in ("unpack", "streaming", "allow_gone"):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, got {value!r}")
        return value.lower() == "true"
    if key == "max_hours":
        try:
            hours = float(value)
        except ValueError:
            hours = -1.0
        if not hours > 0:
            raise ValueError(f"max_hours must be a number > 0, got {value!r}")
        return hours
    return value


def build(source: str, out_folder: str | Path, options: Options) -> Path:
    """Write the manifest (and, from the Hub and shards, the audio); returns the manifest's path.

    Raises:
        ValueError: no such source, a column that is not there, an output folder that is not ours to
            write to, or not one usable row.
    """
    return import_clips(source, Path(out_folder), options).manifest


def import_clips(source: str, out: Path, options: Options) -> Report:
    """See `build`; returns what became of the rows."""
    if options.language is not None:
        options = replace(options, language=_language(options.language))
    source = local_path(str(source))
    if not source:
        raise ValueError("SOURCE is empty; expected a folder, a table or an id of the Hub")
    if not re.fullmatch(r"[\w-][\w.-]*(?<!\.jsonl)", options.manifest):
        raise ValueError(f"name={options.manifest}: expected the name of a file, without folders "
                         "and without .jsonl, such as train")
    refuse_overlap(source, out)
    report = Report(source, out, options.manifest, options.asked)
    report.check_output()
    clips, total = open_source(source, out, options, report.unread)
    first = next(clips, None)  # columns that are not there, before anything is written
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with Journal(report.journal) as journal, RowFile(out) as rows:
            importer = Importer(out, options, journal, rows, report)
            if journal.num_known:
                print(f"{report.manifest.name}: goes on; {journal.num_known} files were measured "
                      "before")
            try:
                if first is not None:
                    importer.take_all(chain([first], clips), total)
                report.finish(rows, journal, importer.num_read, options.allow_gone)
            except KeyboardInterrupt:
                raise Stopped(f"Stopped; {rows.num_rows} clips are kept, the same command goes "
                              "on.") from None
    return report


def _language(text: str) -> str:
    try:
        return language_code(text)
    except ValueError as error:
        raise ValueError(f"language={text}: {error}") from None


class Importer:
    """Clips of a source become rows, or drops with a reason."""

    def __init__(
        self, out: Path, options: Options, journal: Journal, rows: RowFile, report: Report
    ):
        self.out, self.options, self.journal = out, options, journal
        self.rows, self.drops, self.notes, self.num_read = rows, report.drops, report.notes, 0
        self.outside, self._folders, self._codes = Outside(out), {}, {}

    def take_all(self, clips: Iterator[Clip], total: int | None) -> None:
        limit = (self.options.max_hours or math.inf) * 3600
        for clip in progress(clips, total, self.options.manifest, "clips"):
            self._take(clip)
            if self.rows.seconds >= limit:
                return

    def _take(self, clip: Clip) -> None:
        self.num_read += 1
        try:
            row, content, sound = self._row(clip)
        except AudioError as error:
            self.drops.add(clip.id, error.reason, error.detail)
            return
        if not self.rows.add(row, content, sound):
            self.drops.add(clip.id, "duplicate", str(clip.name or ""))
            return
        self.notes.look_at(row, clip, self.options.label_column)

    def _row(self, clip: Clip) -> tuple[Row, str, str]:
        """The row of a clip, what tells it from any other wherever the corpus lies, and what tells
        its audio from any other here.

        Raises:
            AudioError: with the reason for which it is dropped.
        """
        if clip.problem is not None:
            raise AudioError(*clip.problem)
        asked = self.options.columns.text
        has_labels = asked is None and clip.labels is not None  # a dataset of sounds
        if asked != "none" and not clip.text and not has_labels:
            raise AudioError("missing_text", str(clip.name or ""))
        language = self._language(clip)
        path, audio, content = self._audio(clip)
        try:
            f"{clip.id}{audio}{clip.text}".encode()
        except UnicodeEncodeError:  # it could not be written into any manifest
            raise AudioError("name_not_utf8", str(clip.name or audio)) from None
        try:
            seconds = audio_info(clip.data)[0] if path is None else self.journal.seconds_of(path)
            offset, duration = part_of(clip, seconds)
        except AudioError:
            if clip.path is None and path is not None:
                path.unlink(missing_ok=True)
            raise
        row = Row(clip.id, audio, duration, offset, clip.text, clip.speaker, language,
                  None if clip.labels is None else list(clip.labels))
        part = f"{offset} {duration}"
        return row, f"{content} {part}", f"{content if clip.path is None else audio} {part}"

    def _relative(self, path: Path) -> str:
        """To the output folder."""
        if path.parent not in self._folders:
            self._folders[path.parent] = relative_to(self.out, path.parent)
        return f"{self._folders[path.parent]}/{path.name}"

    def _language(self, clip: Clip) -> str | None:
        if self.options.language or not clip.language:
            return self.options.language
        if clip.language not in self._codes:
            try:
                self._codes[clip.language] = language_code(clip.language)
            except ValueError as error:
                raise AudioError("unknown_language", f"{clip.name or clip.id}: {error}") from None
        return self._codes[clip.language]

    def _audio(self, clip: Clip) -> tuple[Path | None, str, str]:
        """The clip's file (None: it stays in its shard), how a row names its audio, and what tells
        it from other audio; bytes are written first, once, in one step."""
        if clip.path is not None:
            self.outside.check(clip.path)
            name = clip.name or os.path.relpath(clip.path, self.out)
            return clip.path, self._relative(clip.path), name
        if not clip.data:
            raise AudioError("empty", f"{clip.id}: no bytes")
        if clip.place is not None and not self.options.unpack:
            shard, part = split_part(clip.place)
            shard = shard if is_remote(shard) else self._relative(Path(shard))
            return None, shard + part, hash_of_bytes(clip.data)
        path, content = store_place(clip, self.out / "audio" / self.options.manifest)
        if not (path.is_file() and path.stat().st_size == len(clip.data)):
            self.journal.stored(path.relative_to(self.out).as_posix())
            write_atomic(path, lambda temporary: temporary.write_bytes(clip.data))
        return path, self._relative(path), content


def store_place(clip: Clip, folder: Path) -> tuple[Path, str]:
    """(file for the bytes of a clip, hash of the bytes). Its name tells other bytes under this id,
    and other ids that are written alike, apart."""
    content = hash_of_bytes(clip.data)
    digest = hashlib.blake2b(f"{content} {clip.id}".encode(errors="surrogateescape")).hexdigest()
    name = re.sub(r"[^\w.-]", "_", clip.id).lstrip(".")
    name = name.encode(errors="ignore")[:100].decode(errors="ignore") or "clip"
    # Folders of a million files are slow everywhere: 256 of them.
    return folder / digest[:2] / f"{name}-{digest[2:14]}{_suffix(clip)}", content


def _suffix(clip: Clip) -> str:
    """File suffix by content, else by the name the dataset gives, else none."""
    for signature, suffix in _SIGNATURES.items():
        if clip.data.startswith(signature):
            return suffix
    suffix = Path(clip.name or "").suffix.lower()
    return suffix if re.fullmatch(r"\.\w{1,5}", suffix) else ""


def open_source(
    source: str, out: Path, options: Options, unread: Counter[str]
) -> tuple[Iterator[Clip], int | None]:
    """The clips, and how many there are in all where that is known.

    Args:
        unread: what lies in shards and is not read is counted here, by suffix.
    """
    path = Path(source)
    if is_page(source):
        check_hub_id(source, "SOURCE")
    if is_remote(source) and not source.lower().endswith(".parquet"):
        return read_shards(find_remote_shards(source, options.split), options.columns, unread), None
    if not path.exists() and not is_remote(source):
        check_hub_id(source, "SOURCE")
    if not path.exists() or is_dataset(path):
        prefix = f"{out.resolve().name}-{options.manifest}"
        return open_dataset(source, options.split, options.config, options.revision,
                            options.streaming, options.columns, prefix, options.unpack)
    if path.is_file():
        return _open_file(path, options, unread), None
    shards = find_shards(path, options.split)
    if shards:
        return read_shards(shards, options.columns, unread), None
    return iter(find_clips(path, options.split, options.columns, out)), None


def _open_file(path: Path, options: Options, unread: Counter[str]) -> Iterator[Clip]:
    if path.name.lower().endswith(SUFFIXES):
        return read_shards([path], options.columns, unread)
    if path.suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(f"SOURCE: {path} is one audio file; say its folder, {path.parent}")
    is_table = table_suffix(path) in TABLES
    if not is_table and path.suffix.lower() in (".zip", ".7z", ".rar", ".gz", ".bz2", ".xz"):
        raise ValueError(f"SOURCE: {path} is an archive; unpack it and say the folder")
    return iter(find_clips(path, options.split, options.columns))


def main(arguments: list[str]) -> int:
    """0; 1 if audio could not be opened; 2 for what a user can mend; 130 if it was stopped."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    if len(arguments) < 2 or "=" in arguments[1]:
        print("error: expected SOURCE OUT_FOLDER key=value...; --help explains", file=sys.stderr)
        return 2
    try:
        options = parse_options(arguments[2:])
        report = import_clips(arguments[0], Path(arguments[1]), options)
    except (ValueError, OSError) as error:  # OSError: no network, no such dataset, disk full
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\n{stop or 'Stopped; the same command goes on.'}", file=sys.stderr)
        return 130
    return 1 if report.drops.num_transient else 0


if __name__ == "__main__":
    run(main)
