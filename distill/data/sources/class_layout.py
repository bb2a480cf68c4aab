"""Which folders are splits and which are classes, by their names and by what lies in them.

    layout = understand(source, find_audio(source), "auto")
    for path, label, split in layout.files: ...
    print(layout.sentence)

A folder called train may be a split, or hold the sounds of trains. It is a split if all folders
beside it are called like splits, or another split with the same classes is among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.sources.clips import class_name, one_line
from distill.data.sources.layouts.splits import is_split_name, split_of

SPLITS = ("train", "validation", "test")
_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development", "eval",
                     "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_EVALUATION = ("eval", "evaluation")  # beside a dev they are the test
WAYS = ("auto", "folders", "none")  # values of the key `splits`


@dataclass
class Layout:
    """
    Attributes:
        files: (path, class, split) of each; split None: not split yet. In the order of splits, and
            then of paths.
        drops: (path, reason) of files that are in no class: `no_class_folder`, `outside_splits`.
        splits: {name of a folder: its split}; empty: folders are classes.
        sentence: what was understood; "" where nothing else was possible.
    """

    files: list[tuple[Path, str, str | None]] = field(default_factory=list)
    drops: list[tuple[Path, str]] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)
    sentence: str = ""


def understand(source: Path, paths: Iterable[Path], way: str) -> Layout:
    """
    Args:
        paths: audio files below `source`, sorted.
        way: `folders`: those that are called so are splits; `none`: all folders are classes.

    Raises:
        ValueError: folders are called like splits and hold audio, but no folders of classes; or
            `folders`, and none is called so.
    """
    parts = [(path, path.relative_to(source).parts) for path in paths]
    below: dict[str, set[str]] = {}  # folders in each folder, with audio in them
    for _, names in parts:
        if len(names) > 1:
            below.setdefault(names[0], set()).update(names[1:-1][:1])
    layout = Layout()
    layout.splits, layout.sentence = _splits(source, below, way)
    for path, names in parts:
        split = layout.splits.get(names[0]) if len(names) > 1 else None
        if split is not None:
            names = names[1:]
        if layout.splits and split is None and len(names) > 1:
            layout.drops.append((path, "outside_splits"))
        elif len(names) < 2:
            layout.drops.append((path, "no_class_folder"))
        else:
            layout.files.append((path, class_name(names[0]) or names[0], split))
    written = {names[1 if names[0] in layout.splits else 0] for _, names in parts if len(names) > 1}
    if odd := sorted(name for name in written if name != (one_line(name) or name)):
        layout.sentence += (f"\n{source}: spaces and line breaks are no part of the names of "
                            f"classes: {', '.join(map(repr, odd[:3]))}")
    layout.sentence = layout.sentence.strip()
    if layout.splits:
        layout.files.sort(key=lambda each: SPLITS.index(each[2]))
    return layout


def _splits(source: Path, below: dict[str, set[str]], way: str) -> tuple[dict[str, str], str]:
    """({folder: split}, what was understood)."""
    named = _named(below)
    if way == "none" or not named:
        only = next(iter(below), "")
        if way == "auto" and len(below) == 1 and len(below[only]) > 1:
            return {}, (f"{source}: one class, {only}; if the folders in it are the classes, say "
                        f"{source / only}")
        if way == "folders":
            raise ValueError(f"splits=folders: no folder in {source} is called train, validation "
                             f"or test; there are {', '.join(sorted(below)) or 'none with audio'}")
        common = set.intersection(*below.values()) if len(below) > 1 else set()
        if way == "auto" and common:
            return {}, (f"{source}: the classes are {', '.join(sorted(below)[:3])}, ..., though "
                        f"each of them holds folders {', '.join(sorted(common)[:3])}; if these are "
                        "the classes, put them first")
        return {}, ""
    others = sorted(set(below) - set(named))
    names = ", ".join(named)
    if way == "auto" and others and not _share_classes(named, below):
        return {}, (f"{source}: {names} {_is(named)} taken for {_kinds(named, 'class', 'classes')},"
                    f" since {', '.join(others[:3])}{', ...' if len(others) > 3 else ''} "
                    f"{_is(others)} beside {'it' if len(named) == 1 else 'them'}; "
                    f"splits=folders takes {'it' if len(named) == 1 else 'them'} for splits")
    if not any(below[name] for name in named):
        raise ValueError(
            f"{source}: {names} {_is(named)} called like splits, and hold sounds, not folders of "
            f"classes: expected {source}/{next(iter(named))}/CLASS/sound.wav. Say splits=none if "
            "these are the classes")
    mapping = ", ".join(f"{name} -> {split}" for name, split in named.items())
    left = f"; {', '.join(others)} left out" if others else ""
    return named, f"{source}: folders taken for splits: {mapping}{left} (splits=none: for classes)"


def _named(below: dict[str, set[str]]) -> dict[str, str]:
    """Folders that are called like splits, in the order of splits."""
    named = {name: _NAMES[name.casefold()] for name in sorted(below) if name.casefold() in _NAMES}
    longer = {name: split for name in sorted(below)  # train-clean and test-clean
              if name not in named and is_split_name(name) and (split := split_of(name))}
    if _share_classes(named | longer, below):
        named |= longer
    is_test = [name for name in named if name.casefold() in _EVALUATION]
    validation = [name for name, split in named.items() if split == "validation"]
    if len(validation) > len(is_test) and "test" not in named.values():
        named |= dict.fromkeys(is_test, "test")
    return dict(sorted(named.items(), key=lambda each: SPLITS.index(each[1])))


def _share_classes(named: dict[str, str], below: dict[str, set[str]]) -> bool:
    """Whether two different splits have a class in common."""
    return any(below[a] & below[b] for a in named for b in named if named[a] != named[b])


def _is(names: Iterable[str]) -> str:
    return "is" if len(list(names)) == 1 else "are"


def _kinds(names: Iterable[str], one: str, many: str) -> str:
    return f"a {one}" if len(list(names)) == 1 else many
