"""Lists of files, a .txt with the name of one in each line: which split they are.

    validation_list.txt, testing_list.txt      yes/0a7c2a8d_nohash_0.wav         (Speech Commands)
    train.txt, val.txt, test.txt

What is in no list is train where there is none of train. Lists that say what is spoken, too
(`wavs/a.wav|text`, VITS), are tables: `distill.data.sources.tables.of_splits`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from distill.data.find_files import AUDIO_SUFFIXES, is_left_out
from distill.data.formats.errors import AudioError
from distill.data.sources.layouts.splits import ALL, match, split_of
from distill.data.sources.layouts.tree import Finder, Tree, key
from distill.data.sources.tables.text import read_lines

_PEEK = 20  # lines that a list is known by
_NAMES = re.compile(r".*(list|files|meta|manifest|transcript|annotation).*", re.IGNORECASE)


def may_be_list(name: str) -> bool:
    """Whether a .txt is called like a list or a table, and not like a transcript."""
    stem, suffix = os.path.splitext(name)
    return suffix.lower() == ".txt" and bool(_NAMES.fullmatch(stem) or split_of(stem))


@dataclass(frozen=True)
class FileLists:
    """
    Attributes:
        names: {stem of a list: names of its files, relative to `root`}.
    """

    root: Path
    names: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.names)

    def is_list(self, text: str) -> bool:
        path = PurePosixPath(text)
        return str(path.parent) == "." and path.stem in self.names and path.suffix == ".txt"

    def chosen(self, audio: Iterable[str], split: str) -> tuple[list[str], list[str], str]:
        """(files of a split, names in its lists that are none of them, the lists in words).

        Raises:
            ValueError: no list is of this split.
        """
        known = {key(name): name for name in audio}
        stems = match(self.names, split)
        if stems:
            wanted = [name for stem in stems for name in self.names[stem]]
            there = {known[key(name)] for name in wanted if key(name) in known}
            gone = [name for name in wanted if key(name) not in known]
            return sorted(there), gone, ", ".join(f"{stem}.txt" for stem in stems)
        if split_of(split) != "train":
            raise ValueError(f"{self.root}: no split {split}; there are lists "
                             f"{', '.join(f'{stem}.txt' for stem in self.names)}. Say "
                             f"split={ALL} for all files")
        listed = {key(name) for names in self.names.values() for name in names}
        rest = [name for each, name in known.items() if each not in listed]
        return sorted(rest), [], f"what is not in {', '.join(f'{s}.txt' for s in self.names)}"

    def split_of_files(self) -> dict[str, str]:
        """{name of a file: train, validation or test}."""
        return {key(name): split for stem, names in self.names.items()
                if (split := split_of(stem)) for name in names}


def find_lists(tree: Tree) -> FileLists:
    """Those of a source's folder itself that are of splits by their names; false where there are
    none. Files may be named without a suffix, or as another machine has them."""
    folder, found = tree.root, FileLists(tree.root)
    finder = Finder(tree, [folder])
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_left_out(entry.name))
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() == ".txt" and split_of(stem) and os.path.isfile(folder / name):
            lines = (line.text.strip() for line in read_lines(folder / name) if line.text.strip())
            ahead = list(islice(lines, _PEEK))
            is_transcript = tree.has(stem)  # of train.wav
            if ahead and all(_is_file(line) or (tree.has(line) and not is_transcript)
                             for line in ahead):
                found.names[stem] = [_named(finder, each) for each in (*ahead, *lines)]
    return found


def _is_file(line: str) -> bool:
    return not re.search(r"[|\t]", line) and os.path.splitext(line)[1].lower() in AUDIO_SUFFIXES


def _named(finder: Finder, line: str) -> str:
    """The file that a line means, relative to the source; what is not there as it is written."""
    root = finder.tree.root
    try:
        path = finder.find(line)
        if path.is_file() and path.is_relative_to(root):
            return os.path.normpath(path.relative_to(root))
    except AudioError:  # one of several
        pass
    return os.path.normpath(line.replace("\\", "/"))
