"""Which folders below a source are train, validation and test, and which of them was asked for.

    splits = find_splits(tree)          # false where there are none
    splits.chosen("dev")                # names of its folders; an error lists those there are
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distill.data.sources.layouts.tree import Tree

ALL = "all"
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "data_split", "usage", "phase")
_WORDS = {
    "train": "train training trn trainset",
    "validation": "validation valid validate val dev devel development devset valset",
    "test": "test testing tst eval evaluation testset",
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words.split()}
# What stands beside the split's name in a folder's: train-clean-100, test_other, data.dev
_BESIDE = (
    "clean other all set split data audio wav wavs flac clips segments full small medium large "
    "balanced unbalanced seen unseen files sounds recordings manifest part subset s m l xl")
_QUALIFIERS = frozenset(_BESIDE.split())


def split_of(name: str) -> str | None:
    """train, validation or test, by the one word of it in a name: `train-clean-100`, `val.csv`."""
    found = {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def is_split_name(name: str) -> bool:
    """Whether a name says nothing but a split; `train-horn` may be a class of sounds."""
    words = _words(name)
    return split_of(name) is not None and all(
        word in _SPLIT_OF or word in _QUALIFIERS for word in words)


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())


def is_same_split(name: str, asked: str) -> bool:
    """Whether a split's written name is the one asked for, under any of its usual names."""
    if name.casefold() == asked.casefold():
        return True
    split = _SPLIT_OF.get(asked.casefold())
    return split is not None and split_of(name) == split


def match(names: Iterable[str], asked: str) -> list[str]:
    """Those of the names that are the split asked for: the one called so, else all its parts."""
    names = list(names)
    exact = [name for name in names if name.casefold() == asked.casefold()]
    return exact or [name for name in names if is_same_split(name, asked)]


@dataclass(frozen=True)
class Splits:
    """Folders that are splits.

    Attributes:
        root: for messages.
        prefix: the folder they lie in, relative to the source: "" or "audio/".
        depth: how many folders lie between `prefix` and them.
        names: of the folders, as they are written.
    """

    root: Path
    prefix: str = ""
    depth: int = 0
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names)

    def folder_of(self, name: str) -> str | None:
        """The split's folder that a file (relative to the source) lies in."""
        if not name.startswith(self.prefix):
            return None
        parts = PurePosixPath(name[len(self.prefix):]).parts[:-1]
        found = parts[self.depth] if len(parts) > self.depth else None
        return found if found in self.names else None

    def files(self, names: Iterable[str], folders: Sequence[str]) -> list[str]:
        """Those of `names` (relative to the source) that lie in the folders of a split, or, beside
        them, in one of the same path (`txt/train` beside `wav/train`)."""
        beside = bool(self.prefix) and self.prefix.count("/") == 1
        found = []
        for name in names:
            place = self.folder_of(name)
            if place is None and beside and not name.startswith(self.prefix):
                place = self.folder_of(self.prefix + name.partition("/")[2])
            if place in folders:
                found.append(name)
        return found

    def chosen(self, asked: str) -> list[str]:
        """Raises:
            ValueError: none is called so; the message lists those that are there.
        """
        if found := match(self.names, asked):
            return found
        raise ValueError(f"{self.root}: no split {asked}; there are {', '.join(self.names)}. "
                         f"Say split={self.names[0]}, or split={ALL} for all of them")


def find_splits(tree: Tree) -> Splits:
    """The folders of splits below a source: at its top, in one folder (`audio/train`), or in each
    folder (`ann/train`).

    Raises:
        ValueError: one folder has a split's name and others beside it have not.
    """
    kaldi = [name for name in tree.layouts if name.endswith("wav.scp")]
    files = [PurePosixPath(name) for name in kaldi or (*tree.audio, *tree.layouts)]
    prefix: tuple[str, ...] = ()
    while True:
        parts = [path.parts[len(prefix):-1] for path in files if path.parts[:len(prefix)] == prefix]
        tops = sorted({each[0] for each in parts if each})
        if kaldi and any(map(split_of, tops)):  # train_si84: no class of sounds is called so
            names = tuple(tops)
        else:
            names = _split_names(tree.root.joinpath(*prefix), tops)
        if names:
            return Splits(tree.root, "".join(f"{part}/" for part in prefix), 0, names)
        if len(tops) != 1 or not all(parts):
            break
        prefix += (tops[0],)
    return _deeper(tree.root, files)


def _split_names(folder: Path, tops: list[str]) -> tuple[str, ...]:
    if tops and all(split_of(name) for name in tops) and any(map(is_split_name, tops)):
        return tuple(tops)
    plain = [name for name in tops if is_split_name(name)]
    if len({split_of(name) for name in plain}) > 1:
        return tuple(tops)  # what else lies there is a split by its own name: unlabelled, noise
    if plain:
        others = [name for name in tops if name not in plain]
        raise AmbiguousSplit(
            f"{folder}: is {plain[0]} a split, or one of the folders beside it "
            f"({', '.join(others[:5])})? Say SOURCE={folder / plain[0]} for it alone, or "
            f"split={ALL} for all")
    return ()


class AmbiguousSplit(ValueError):
    """A folder may be a split or a class; only `split=all` does not mind."""


def _deeper(root: Path, files: list[PurePosixPath]) -> Splits:
    """Splits in each folder: every file lies in one, at one depth."""
    depth = min((len(path.parts) - 1 for path in files), default=0)
    for level in range(1, min(depth, 4)):
        names = sorted({path.parts[level] for path in files})
        if all(map(is_split_name, names)) and len({split_of(name) for name in names}) > 1:
            return Splits(root, "", level, tuple(names))
    return Splits(root)
