"""A Hub dataset or a folder of audio -> a manifest.

    python -m distill.data.hub_dataset SOURCE OUT_FOLDER key=value...

SOURCE is one of
    a Hub id             openslr/librispeech_asr
    a folder of parquet  whatever datasets.load_dataset reads offline
    a folder of shards   WebDataset: .tar files of <split>*, clip.flac with clip.txt or clip.json
    a folder of audio    with <split> or metadata .csv, .tsv or .jsonl (a file name and a text in
                         each row; an extracted Common Voice release works as it is), or with a .txt
                         beside each clip

Keys:
    split=train          a+b joins splits (Hub, parquet); for audio folders it picks <split>.tsv,
                         for shards <split>*.tar (all: every shard)
    name=train           OUT_FOLDER/<name>.jsonl is written; default: the split
    config= revision=    of the Hub dataset
    text_column=         default: text, sentence, transcript or transcription; none: do without
    speaker_column=      default: speaker_id, speaker or client_id where there is one
    id_column=           default: id; otherwise the row number (Hub) or the file's path
    label_column=        classes of sounds: a list, a class, or text with ; or , between them; no
                         transcripts then, unless text_column says where they are
    language=            written in every row
    max_hours=           stop there
    streaming=true       keep no copy of the dataset in datasets' cache

Audio from the Hub is written to OUT_FOLDER/audio byte for byte, never re-encoded; a folder's audio
stays where it is and is pointed at. Rows that cannot be used are counted, printed and listed in
OUT_FOLDER/drops.json. Started again after a kill, it goes on with the row it had reached.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path

from distill.data.audio import AudioError, audio_info
from distill.data.audio_folder import Clip, Columns, find_clips
from distill.data.files import hash_of, read_json, write_atomic, write_json
from distill.data.manifest import Row, write_manifest
from distill.data.tar_shards import find_shards, read_shards

_LISTED = 20  # dropped rows named in drops.json, per reason; the counts are complete
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
    language: str | None = None
    max_hours: float | None = None
    streaming: bool = False

    @property
    def columns(self) -> Columns:
        text = "none" if self.label_column and not self.text_column else self.text_column
        return Columns(text, self.speaker_column, self.id_column, self.label_column)

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
    if key == "streaming":
        if value.lower() not in ("true", "false"):
            raise ValueError(f"streaming must be true or false, got {value!r}")
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
    """Write the manifest (and, from the Hub, the audio); returns the manifest's path.

    Raises:
        ValueError: no such source, a column that is not there, or not one usable row.
    """
    from tqdm import tqdm

    out = Path(out_folder)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"source": source, **asdict(options)}
    with Journal(out / f".{options.manifest}.progress.jsonl", settings) as journal:
        clips, total = _open_source(source, out, options, skip=journal.num_read)
        progress = tqdm(total=total, initial=journal.num_read, unit="clip", desc=options.manifest)
        with progress:
            while not journal.has_hours(options.max_hours):
                clip = next(clips, None)
                if clip is None:
                    break
                journal.add(_check_clip(clip, out, options, journal.ids))
                progress.update()
        return _finish(journal, out, options)


def _check_clip(clip: Clip, out: Path, options: Options, ids: set[str]) -> Row | dict:
    """The manifest row of a clip, or why there is none: {id, reason, detail}."""
    if clip.id in ids:
        return {"id": clip.id, "reason": "duplicate_id", "detail": str(clip.name or "")}
    if options.columns.text != "none" and not clip.text:
        return {"id": clip.id, "reason": "missing_text", "detail": str(clip.name or "")}
    try:
        path = _store_audio(clip, out / "audio" / options.manifest)
        try:
            duration, _ = audio_info(path)
        except AudioError:
            if clip.path is None:
                path.unlink(missing_ok=True)
            raise
    except AudioError as error:
        return {"id": clip.id, "reason": error.reason, "detail": error.detail}
    return Row(
        id=clip.id,
        audio_filepath=Path(os.path.relpath(path, out)).as_posix(),
        duration=round(duration, 4),
        text=clip.text,
        speaker=clip.speaker,
        language=options.language,
        labels=None if clip.labels is None else list(clip.labels),
    )


def _store_audio(clip: Clip, folder: Path) -> Path:
    """Where the clip's audio lies; bytes are written first, once, in one step."""
    if clip.path is not None:
        return clip.path
    if not clip.data:
        raise AudioError("empty", f"{clip.id}: no bytes")
    digest = hashlib.sha256(clip.id.encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "_", clip.id)[:100].lstrip(".") or "clip"
    if name != clip.id:
        name = f"{name}-{digest[:8]}"  # "a/b" and "a_b" are two clips
    # Folders of a million files are slow everywhere: 256 of them.
    path = folder / digest[:2] / f"{name}{_suffix(clip)}"
    if not (path.is_file() and path.stat().st_size == len(clip.data)):
        write_atomic(path, lambda temporary: temporary.write_bytes(clip.data))
    return path


def _suffix(clip: Clip) -> str:
    """File suffix by content, else by the name the dataset gives, else none."""
    for signature, suffix in _SIGNATURES.items():
        if clip.data.startswith(signature):
            return suffix
    suffix = Path(clip.name or "").suffix.lower()
    return suffix if re.fullmatch(r"\.\w{1,5}", suffix) else ""


class Journal:
    """What became of each source row so far, in order, one JSON line each; survives a kill.

    A journal written with other settings, or by another source, is started anew.
    """

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.rows: list[Row] = []
        self.drops: list[dict] = []
        self.ids: set[str] = set()
        self.seconds = 0.0
        header = json.dumps({"settings": hash_of(settings)}) + "\n"
        lines = self._whole_lines()
        if not lines or lines[0] != header:
            lines = [header]
        for line in lines[1:]:
            raw = json.loads(line)
            self._count(raw if "reason" in raw else Row(**raw))
        # Rewritten, which cuts off the torn last line of a killed run.
        self.path.write_text("".join(lines), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)

    def _whole_lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        return [line + "\n" for line in lines]

    @property
    def num_read(self) -> int:
        return len(self.rows) + len(self.drops)

    def has_hours(self, hours: float | None) -> bool:
        return hours is not None and self.seconds >= hours * 3600

    def add(self, result: Row | dict) -> None:
        self._count(result)
        raw = asdict(result) if isinstance(result, Row) else result
        self._file.write(json.dumps(raw, ensure_ascii=False) + "\n")
        self._file.flush()

    def _count(self, result: Row | dict) -> None:
        if isinstance(result, Row):
            self.rows.append(result)
            self.ids.add(result.id)
            self.seconds += result.duration
        else:
            self.drops.append(result)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def _finish(journal: Journal, out: Path, options: Options) -> Path:
    """Write the manifest and drops.json, say what happened, forget the journal."""
    counts = Counter(drop["reason"] for drop in journal.drops)
    listed = {
        reason: [d for d in journal.drops if d["reason"] == reason][:_LISTED] for reason in counts
    }
    path = out / "drops.json"
    report = read_json(path) if path.is_file() else {}
    report[options.manifest] = {
        "rows_read": journal.num_read,
        "rows_kept": len(journal.rows),
        "hours_kept": round(journal.seconds / 3600, 4),
        "drops": dict(counts),
        "dropped": listed,
    }
    write_json(path, report)
    journal.path.unlink()
    reasons = ", ".join(f"{reason} {number}" for reason, number in counts.most_common())
    if not journal.rows:
        raise ValueError(
            f"not one usable row of {journal.num_read} ({reasons or 'the source is empty'}); see "
            f"{path}. For audio without transcripts say text_column=none"
        )
    manifest = out / f"{options.manifest}.jsonl"
    write_manifest(manifest, journal.rows)
    print(f"{manifest}: {len(journal.rows)} clips, {journal.seconds / 3600:.2f} h")
    print(f"dropped {sum(counts.values())} of {journal.num_read} rows: {reasons or 'none'}")
    return manifest


def _open_source(
    source: str, out: Path, options: Options, skip: int
) -> tuple[Iterator[Clip], int | None]:
    """The clips after the first `skip`, and how many there are in all where that is known."""
    folder = Path(source)
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        shards = find_shards(folder, options.split)
        clips = (read_shards(shards, options.columns) if shards
                 else find_clips(folder, options.split, options.columns))
        return islice(clips, skip, None), None
    if not folder.is_dir() and (folder.is_absolute() or source.count("/") != 1):
        raise ValueError(f"no folder {source!r}, and a Hub id looks like owner/name")
    return _open_dataset(source, out, options, skip)


def _open_dataset(
    source: str, out: Path, options: Options, skip: int
) -> tuple[Iterator[Clip], int | None]:
    from datasets import Audio, concatenate_datasets, load_dataset

    parts = [
        load_dataset(
            source,
            options.config,
            split=split,
            revision=options.revision,
            streaming=options.streaming,
        )
        for split in options.split.split("+")
    ]
    dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    features = dataset.features or {}
    names = list(features) or list(next(iter(dataset), {}))
    audio = [name for name in names if isinstance(features.get(name), Audio)] or ["audio"]
    if len(audio) > 1 or audio[0] not in names:
        raise ValueError(f"{source}: expected one audio column, the columns are {', '.join(names)}")
    # Decoding would need torchcodec; the bytes are what we want anyway.
    if options.streaming:
        dataset = dataset.decode(False)
    elif isinstance(features.get(audio[0]), Audio):
        dataset = dataset.cast_column(audio[0], Audio(decode=False))
    columns = options.columns.resolve(names, source)
    if columns.labels:
        kind = features.get(columns.labels)
        kind = getattr(kind, "feature", kind)  # of a list
        columns = replace(columns, label_names=tuple(getattr(kind, "names", ()) or ()))
    total = None if options.streaming else len(dataset)
    rest = dataset.skip(min(skip, total) if total is not None else skip)
    prefix = f"{out.resolve().name}-{options.manifest}"

    def clips() -> Iterator[Clip]:
        for number, row in enumerate(rest, skip):
            identity = row[columns.id] if columns.id else f"{prefix}-{number:08d}"
            yield columns.clip(row, str(identity), *_bytes_of(row[audio[0]]))

    return clips(), total


def _bytes_of(audio: dict | bytes | str | None) -> tuple[bytes, str | None]:
    """(bytes, file name) of an undecoded audio value; no bytes where there is no audio."""
    if isinstance(audio, bytes):
        return audio, None
    value = audio if isinstance(audio, dict) else {"bytes": None, "path": audio}
    data, path = value.get("bytes"), value.get("path")
    if data is None and path:
        from datasets.utils.file_utils import xopen  # opens hf:// and zip:// as well

        with xopen(path, "rb") as file:
            data = file.read()
    return data or b"", path


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if len(arguments) < 2 or "=" in arguments[1]:
        print("error: expected SOURCE OUT_FOLDER key=value...; --help explains", file=sys.stderr)
        return 2
    try:
        build(arguments[0], arguments[1], parse_options(arguments[2:]))
    except (ValueError, OSError) as error:  # OSError: no network, no such dataset, disk full
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
