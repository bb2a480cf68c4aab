"""Clips of whatever `datasets` reads: a Hub id, parquet, or a folder that `save_to_disk` wrote.

Audio is taken as the bytes that are stored; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.data.files import read_json
from distill.data.find_files import find_audio, find_files
from distill.data.formats.addresses import is_remote
from distill.data.formats.errors import pointer
from distill.data.formats.remote import find_urls
from distill.data.sources.clips import FILE_COLUMNS, Clip, Columns, column_of
from distill.data.sources.layouts.splits import ALL
from distill.data.sources.parquet_places import hash_of_bytes, places_in
from distill.data.sources.tables.of_splits import check_unsplit, is_metadata, say
from distill.data.sources.tables.times import Times, with_part


def is_dataset(path: Path) -> bool:
    """Whether a file or folder is one for `datasets`: parquet, or saved with `save_to_disk`. A
    metadata.parquet beside audio is a table of it."""
    if path.is_file():
        return path.suffix.lower() == ".parquet"
    if _is_saved(path):
        return True
    found = _parquet_in(path)
    return bool(found) and not (
        all(is_metadata(each.name) for each in found) and find_audio(path))


def _parquet_in(folder: Path) -> list[Path]:
    """Without links to nothing, which may stand for anything."""
    return [path for path in find_files(folder, (".parquet",))
            if path.name.lower().endswith(".parquet") and path.is_file()]


def open_dataset(
    source: str, split: str, config: str | None, revision: str | None, streaming: bool,
    columns: Columns, prefix: str, unpack: bool = True,
) -> tuple[Iterator[Clip], int | None]:
    """The clips of a dataset, and how many there are where that is known.

    Args:
        split: a+b joins splits.
        prefix: of ids that are made of row numbers, where there is no column of ids.
        unpack: do not look where in parquet files the audio lies (`Clip.place`).

    Raises:
        ValueError: there is no such dataset, split or column.
    """
    from datasets import Audio, concatenate_datasets

    if Path(source).is_dir() and (loose := find_audio(Path(source))):
        say(f"{source}: read as parquet; {len(loose)} audio files beside it are not read, where it "
            f"does not name them ({', '.join(path.name for path in loose[:3])}"
            f"{', ...' if loose[3:] else ''})")
    parts = [_load(source, config, name, revision, streaming) for name in split.split("+")]
    dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    features = dataset.features or {}
    names = list(features) or list(next(iter(dataset), {}))
    audio = _audio_column(source, names, features)
    # Decoding would need torchcodec; the bytes are what we want anyway.
    if is_streamed(dataset):
        dataset = dataset.decode(False)
    elif isinstance(features.get(audio), Audio):
        dataset = dataset.cast_column(audio, Audio(decode=False))
    columns = columns.resolve(names, source)
    if columns.labels:
        kind = features.get(columns.labels)
        kind = getattr(kind, "feature", kind)  # of a list
        columns = replace(columns, label_names=tuple(getattr(kind, "names", ()) or ()))
    times = Times.among(names, columns.offset)
    if times.offset is not None:
        say(f"{source}: clips are parts of their files by {times.offset}, "
            f"{times.duration or times.end or 'to the end'} (offset_column=none: whole files)")
    total = None if is_streamed(dataset) else len(dataset)
    places = {} if unpack else _places(source, audio)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent

    def clips() -> Iterator[Clip]:
        for number, row in enumerate(_rows(dataset, source)):
            identity = row[columns.id] if columns.id else None
            identity = f"{prefix}-{number:08d}" if identity in (None, "") else str(identity)
            data, name, problem = _bytes_of(row[audio], folder)
            clip = with_part(columns.clip(row, identity, data, name), row, times)
            place = places.get(hash_of_bytes(data)) if places and data else None
            yield replace(clip, problem=problem, place=place) if problem or place else clip

    return clips(), total


def is_streamed(dataset: Any) -> bool:
    return not hasattr(dataset, "__len__")


def _places(source: str, column: str) -> dict[str, str]:
    """Where in parquet files the audio lies, by the hash of its bytes; {} of other datasets.

    Raises:
        ValueError: a file cannot be read.
    """
    path = Path(source)
    if is_remote(source):
        files = find_urls(source)
    elif path.is_file():
        files = [str(path.absolute())]
    elif path.is_dir() and not _is_saved(path):
        files = [str(each.absolute()) for each in _parquet_in(path)]
    else:
        return {}
    try:
        places = places_in(files, column)
    except (OSError, ValueError) as error:  # pyarrow's are ValueErrors
        raise ValueError(f"{source}: {error}") from error
    if places.num_packed:
        say(f"{source}: audio of {places.num_packed:,} row groups is compressed; it is stored "
            "instead of being read where it lies")
    return places.found


def _rows(dataset: Any, source: str) -> Iterator[dict[str, Any]]:
    """
    Raises:
        ValueError: the connection broke, or a file of the dataset is broken.
    """
    number = 0
    try:
        for row in dataset:
            yield row
            number += 1
    except Exception as error:  # of the network, of parquet; shown to the user
        raise ValueError(f"{source}: reading stops after row {number} ({type(error).__name__}: "
                         f"{error}); what is stored is kept, the same command goes on") from error


def _load(
    source: str, config: str | None, split: str, revision: str | None, streaming: bool
) -> Any:
    from datasets import load_dataset, load_from_disk

    path = Path(source)
    try:
        if _is_saved(path):
            return _saved(path, split, load_from_disk, streaming)
        if is_remote(source):
            check_unsplit(path, path.stem, split)
            return load_dataset("parquet", data_files={"train": source}, split="train",
                                streaming=True)
        if path.is_file():
            check_unsplit(path, path.stem, split)
            return load_dataset("parquet", data_files={"train": str(path)}, split="train",
                                streaming=streaming)
        return load_dataset(source, config, split=split, revision=revision, streaming=streaming)
    except Exception as error:  # its many ways to say no; shown to the user
        raise ValueError(f"{source}: datasets cannot open it (split {split}): "
                         f"{_not_fetched(path) or _said(error)}") from error


def _said(error: BaseException | None) -> str:
    """What an error says, and what it comes from: some only say that there is one."""
    texts: list[str] = []
    while error is not None and len(texts) < 3:
        texts.append(" ".join(str(error).split()) or type(error).__name__)
        error = error.__cause__
    return ": ".join(dict.fromkeys(texts))[:500]


def _not_fetched(path: Path) -> str | None:
    """What is to be done about a file that is only a pointer to it."""
    files = [path] if path.is_file() else _parquet_in(path) if path.is_dir() else []
    for file in files:
        with open(file, "rb") as opened:
            if told := pointer(opened.read(64)):
                return f"{file}: {told}"
    return None


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _saved(path: Path, split: str, load: Callable[[str], Any], streaming: bool) -> Any:
    from datasets import concatenate_datasets

    if (path / "dataset_dict.json").is_file():
        splits = read_json(path / "dataset_dict.json")["splits"]
        if split not in splits and split != ALL:
            raise ValueError(f"the splits are {', '.join(splits)}")
        parts = [load(str(path / each)) for each in (splits if split == ALL else [split])]
    else:
        parts = [load(str(path))]
        check_unsplit(path, str(parts[0].split or path.name), split)
    if streaming:
        parts = [each.to_iterable_dataset() for each in parts]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _audio_column(source: str, names: list[str], features: dict[str, Any]) -> str:
    """The only column of audio, else the one that is called so, else the only one of files' bytes.

    Raises:
        ValueError: there is none, there are several, or it holds decoded samples.
    """
    from datasets import Audio

    found = [name for name in names if isinstance(features.get(name), Audio)]
    found = found or [name for name in names if name == "audio"]
    found = found or [name for name in names if isinstance(features.get(name), dict)
                      and {"bytes", "path"} <= set(features[name])]
    found = found or [name for name in names
                      if getattr(features.get(name), "dtype", "") in ("binary", "large_binary")]
    named = column_of(FILE_COLUMNS, names)
    if not found and named is not None and getattr(
            features.get(named), "dtype", "") in ("string", "large_string"):
        found = [named]
    if len(found) != 1:
        raise ValueError(f"{source}: expected one audio column, the columns are {', '.join(names)}")
    kind = features.get(found[0])
    if kind is not None and not _holds_files(kind):
        raise ValueError(f"{source}: the column {found[0]} holds {kind}, expected audio files "
                         "(the type Audio, their bytes, or their paths)")
    return found[0]


def _holds_files(kind: Any) -> bool:
    from datasets import Audio

    if isinstance(kind, dict):
        return "bytes" in kind or "path" in kind
    return isinstance(kind, Audio) or getattr(kind, "dtype", "") in (
        "string", "large_string", "binary", "large_binary")


def _bytes_of(
    audio: dict[str, Any] | bytes | str | None, folder: Path
) -> tuple[bytes, str | None, tuple[str, str] | None]:
    """(bytes, file name, problem) of an undecoded audio value; no bytes where there is no audio.

    Args:
        folder: of the dataset, which paths may be relative to.
    """
    if isinstance(audio, bytes):
        return audio, None, None
    data, path = (audio.get("bytes"), audio.get("path")) if isinstance(audio, dict) else (
        None, audio)
    if data is not None or not path:
        return data or b"", path, None
    try:
        if (folder / path).is_file():
            return (folder / path).read_bytes(), path, None
        from datasets.utils.file_utils import xopen  # opens hf:// and zip:// as well

        with xopen(path, "rb") as file:
            return file.read(), path, None
    except FileNotFoundError:
        return b"", path, ("missing_file", path)
    except OSError as error:
        return b"", path, ("cannot_open", f"{path}: {error}")
