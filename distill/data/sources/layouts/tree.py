"""What lies below a source's folder, and which file a row means by a name."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from distill.data.find_files import AUDIO_SUFFIXES, find_files
from distill.data.formats.addresses import is_remote, local_path
from distill.data.formats.errors import AudioError
from distill.data.sources.output import Outside

TEXT_SUFFIXES = (".txt", ".lab", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".json.gz")
# What may hold clips or texts, and is not read: said, never passed over.
_UNREAD = (".zip", ".7z", ".rar", ".xlsx", ".xls", ".ods", ".numbers", ".docx",
           ".trn", ".text", ".transcript", ".done.data", ".srt", ".vtt",
           ".textgrid", ".ctm", ".eaf", ".trs", ".cha", ".mlf", ".rttm",
           ".m3u", ".m3u8", ".xml", ".arrow", ".h5", ".hdf5", ".pkl", ".npz")
# Where datasets keep audio that their tables name without a folder.
_AUDIO_FOLDERS = ("", "clips", "audio", "wavs", "wav", "data", "audios", "sounds", "recordings")
_OTHER = (*TEXT_SUFFIXES, *TABLE_SUFFIXES, *_UNREAD, ".stm", "wav.scp", "metadata.parquet")


class Tree:
    """Files below a folder, listed once and only when asked for.

    Paths in all lists are relative to `root`, with "/".

    Args:
        out: where an import writes to; what lies there is not of the source, though a link of the
            source may lead there.

    Raises:
        ValueError: one does (also when a list is asked for).
    """

    def __init__(self, root: Path, out: Path | None = None):
        self.root = root
        self._outside = None if out is None else Outside(out)

    def check(self, path: Path) -> None:
        """
        Raises:
            ValueError: the path lies where an import writes to.
        """
        if self._outside is not None:
            self._outside.check(path)

    @cached_property
    def _names(self) -> list[str]:
        kinds = (*AUDIO_SUFFIXES, *_OTHER)
        begin = len(str(self.root / "x")) - 1
        paths = find_files(self.root, kinds, True)
        for path in paths:
            self.check(path)
        return [str(path)[begin:].replace(os.sep, "/") for path in paths]

    @cached_property
    def audio(self) -> list[str]:
        return [name for name in self._names if not name.lower().endswith(_OTHER)]

    @cached_property
    def texts(self) -> list[str]:
        return [name for name in self._names if name.lower().endswith(TEXT_SUFFIXES)]

    @cached_property
    def tables(self) -> list[str]:
        return [name for name in self._names if name.lower().endswith(TABLE_SUFFIXES)]

    @cached_property
    def stm(self) -> list[str]:
        return [name for name in self._names if name.lower().endswith(".stm")]

    @cached_property
    def unread(self) -> list[str]:
        return [name for name in self._names if name.lower().endswith(_UNREAD)]

    def say_unread(self) -> None:
        """On standard error, beside the progress."""
        if self.unread:
            print(f"{self.root}: {len(self.unread)} files are not read, which may hold clips or "
                  f"texts: {', '.join(self.unread[:5])}{', ...' if self.unread[5:] else ''}",
                  file=sys.stderr, flush=True)

    @cached_property
    def layouts(self) -> list[str]:
        """What says how the folder it lies in is read: wav.scp, metadata.csv and the like."""
        kinds = ("wav.scp", *(f"metadata{suffix}" for suffix in (*TABLE_SUFFIXES, ".parquet")))
        return [name for name in self._names if PurePosixPath(name).name.lower() in kinds]

    @cached_property
    def by_path(self) -> dict[str, list[str]]:
        """Audio by its path, with and without the suffix, as `key` writes it."""
        return _index((each, name) for name in self.audio for each in (name, stem(name)))

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Audio by its name alone, with and without the suffix."""
        return _index((each, name) for name in self.audio
                      for each in (PurePosixPath(name).name, stem(PurePosixPath(name).name)))

    def has(self, name: str) -> bool:
        """Whether there is audio that may be called so."""
        return key(name) in self.by_path or key(name) in self.by_name


def _index(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for given, name in pairs:
        names = found.setdefault(key(given), [])
        if names[-1:] != [name]:  # its path with and without the suffix come one after the other
            names.append(name)
    return found


def is_of_one_file(name: str, audio: Collection[str]) -> bool:
    """Whether a file is called like one of audio and more, `a.wav.json`, `a.wav.tags.csv`: what is
    said of it alone, by our own commands, too.

    Args:
        audio: names of audio in the same folder, or paths.
    """
    places = [place for place, letter in enumerate(name) if letter == "."]
    return any(name[:place] in audio for place in places)


def stem(name: str) -> str:
    """A path without the suffix of audio: "1.5" has none."""
    bare, suffix = os.path.splitext(name)
    return bare if suffix.lower() in AUDIO_SUFFIXES else name


def key(name: str) -> str:
    """A path for comparison: any case, and letters with accents in one form (a Mac's are two)."""
    return unicodedata.normalize("NFC", name).casefold()


class Finder:
    """The audio that names of a table mean.

    Args:
        tree: of the whole source.
        folders: where names are relative to, first to last; the table's own comes first.
    """

    def __init__(self, tree: Tree, folders: Sequence[Path]):
        self.tree = tree
        places = [folder / name for folder in dict.fromkeys(folders) for name in _AUDIO_FOLDERS]
        self.folders = [places[0], *(place for place in places[1:] if place.is_dir())]
        self._written = list(map(str, self.folders))

    def find(self, name: str) -> Path:
        """The file, or where it should be: there is nothing then.

        Raises:
            AudioError: `no_file_name`, `remote_file`, `bad_file_name` or `ambiguous_file`.
        """
        if not name.strip():
            raise AudioError("no_file_name", "the row names no file")
        if is_remote(name.strip()):
            raise AudioError("remote_file", f"{name.strip()}: download it first")
        if (plain := local_path(name.strip())) != name.strip():
            name = plain
        if "\0" in name or "\n" in name:
            raise AudioError("bad_file_name", f"no name of a file: {name!r}")
        for each in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
            if path := self._beside(each):
                return path
        plain = re.sub(r"^[A-Za-z]:/", "/", name.strip().replace("\\", "/"))
        return self._by_key(plain) or self._moved(plain) or self.folders[0] / name.strip()

    def _beside(self, name: str) -> Path | None:
        paths = (os.path.join(folder, name) for folder in self._written)
        return next((Path(path) for path in paths if os.path.isfile(path)), None)

    def _by_key(self, name: str) -> Path | None:
        """In another case or form of accents, without or with another suffix, or, where only the
        name is given, in whatever folder: if there is one such file."""
        if name.startswith("/"):
            return None
        given = str(PurePosixPath(name))
        bases = [""] + [f"{place}/" for folder in self.folders
                        if (place := self._place(folder)) not in (None, "", ".")]
        for wanted in (given, stem(given)):
            for base in bases:
                if found := self.tree.by_path.get(key(base + wanted)):
                    return self._only(found, name)
        for wanted in (given, stem(given)) if "/" not in given else ():
            if found := self.tree.by_name.get(key(wanted)):
                return self._only(found, name)
        return None

    def _only(self, names: list[str], given: str) -> Path:
        if len(names) > 1:
            shown = ", ".join(names[:3])
            raise AudioError("ambiguous_file", f"{given} may be {shown}; say which")
        return self.tree.root / names[0]

    def _place(self, folder: Path) -> str | None:
        inside = folder.is_relative_to(self.tree.root)
        return folder.relative_to(self.tree.root).as_posix() if inside else None

    def _moved(self, name: str) -> Path | None:
        """A path of another machine, by its end: at least a folder and a name, since a name alone
        may be another file."""
        if not name.startswith("/"):
            return None
        parts = PurePosixPath(name).parts[1:]
        root = self.tree.root
        for start in range(len(parts) - 1):
            tail = parts[start:]
            path = root.joinpath(*tail)
            if tail[0] == root.resolve().name and os.path.isfile(root.joinpath(*tail[1:])):
                path = root.joinpath(*tail[1:])
            if os.path.isfile(path):
                return path
        return None
