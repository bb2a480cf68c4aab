"""A folder of audio for each class -> manifests with labels, split by file.

    python -m distill.data.class_folders SOURCE OUT_FOLDER key=value...

SOURCE is SOURCE/CLASS/any/depth/sound.wav; or it is split already, SOURCE/{train,validation,test}/
CLASS/... (dev, val, valid and eval are names of validation, too), or by lists in SOURCE such as
validation_list.txt and testing_list.txt (Speech Commands), and stays so. A file that lies in
several folders, under any name, has all their classes and is one row: no sound is in two splits.

Keys:
    validation=0.1 test=0.1   share of each class's files; of three files or more at least one
    seed=0                    another seed, another split
    background=               name of a folder whose sounds belong to no class
    splits=auto               whether folders called train, test, ... are splits (folders) or
                              classes (none): by default they are splits where all folders are
                              called so, or two of them have classes in common
    allow_gone=false          true: write manifests without the sounds that were in them and are
                              there no longer; else a run again stops where many are gone

Writes OUT_FOLDER/{train,validation,test}.jsonl and classes.txt. Audio stays where it is and is
pointed at (m4a, mp4, wma and the like need `pip install 'audio-distill[media]'`, in every stage).
SOURCE is never written to, nor are files of OUT_FOLDER that this command did not make. What cannot
be used is counted, printed and listed in OUT_FOLDER/drops.json. Exit code 1: some audio could not
be opened now (a disk that is not mounted?), and the same command takes it in later.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

from distill.data.audio import AudioError, audio_info
from distill.data.files import read_json, write_json, write_text
from distill.data.find_files import is_left_out
from distill.data.hub_ids import nearest_path
from distill.data.manifest import Row, write_manifest
from distill.data.sources.class_layout import SPLITS, WAYS, Layout, understand
from distill.data.sources.clips import class_name
from distill.data.sources.journal import Journal, made_by
from distill.data.sources.layouts.file_lists import find_lists
from distill.data.sources.layouts.tree import Tree, key
from distill.data.sources.output import (
    Outside,
    hash_of_file,
    is_same_source,
    place_from,
    refuse_foreign,
    refuse_overlap,
)
from distill.data.sources.rows import Drops, ids_of
from distill.data.sources.vanished import part_of_row, refuse_vanished
from distill.endings import Stopped, run, writing_to
from distill.progress import progress

MANIFESTS = tuple(f"{split}.jsonl" for split in SPLITS)
_WRITES = (*MANIFESTS, "classes.txt", "drops.json")


@dataclass
class Options:
    """The key=value arguments; see the head of this file."""

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    background: str = ""
    splits: str = "auto"
    allow_gone: bool = False


@dataclass
class Sound:
    """A file, by its content.

    Attributes:
        path: the first, where there are several.
        labels: names of the folders it lies in.
        split: the one it lies in, None where SOURCE is not split.
    """

    path: Path
    duration: float
    labels: set[str]
    split: str | None


def main(arguments: list[str]) -> int:
    """0; 1 if audio could not be opened."""
    if len(arguments) < 2 or {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    _, drops = _build(Path(arguments[0]), Path(arguments[1]), parse_options(arguments[2:]))
    return 1 if drops.num_transient else 0


def parse_options(arguments: list[str]) -> Options:
    """`key=value` words -> Options.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    options = Options()
    known = {each.name: type(getattr(options, each.name)) for each in fields(Options)}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise ValueError(f"expected one of {', '.join(f'{k}=' for k in known)}, got "
                             f"{argument!r}")
        if known[key] is bool and value.lower() not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, got {value!r}")
        try:
            setattr(options, key, value.lower() == "true" if known[key] is bool
                    else known[key](value))
        except ValueError:
            raise ValueError(f"{key} must be a number, got {value!r}") from None
    ok = options.validation >= 0 and options.test >= 0 and options.validation + options.test < 1
    if not ok:
        raise ValueError("validation and test must be shares >= 0 that leave something to train "
                         f"on, got {options.validation} and {options.test}")
    if options.splits not in WAYS:
        raise ValueError(f"splits must be one of {', '.join(WAYS)}, got {options.splits!r}")
    return options


def build(source: Path, out: Path, options: Options) -> dict[str, Counter]:
    """Write the manifests; returns how many files of each class are in each split.

    Raises:
        ValueError: no folders of classes, no audio in them, or an output folder that is not ours to
            write to.
    """
    return _build(Path(source), Path(out), options)[0]


def _build(source: Path, out: Path, options: Options) -> tuple[dict[str, Counter], Drops]:
    if not source.is_dir():
        near = nearest_path(str(source))
        raise ValueError(f"{source}: the folder cannot be read: there is none"
                         + (f"; did you mean {near}?" if near else ""))
    refuse_overlap(source, out)
    journal_path = out / ".classes.progress.jsonl"
    refuse_foreign(out, _WRITES, _made(out) | dict.fromkeys(made_by(journal_path)))
    tree = Tree(source, out)
    layout = understand(source, [source / name for name in tree.audio], options.splits)
    if not layout.files:
        raise ValueError(f"{source}: no folder with audio; expected {source}/CLASS/sound.wav")
    _take_lists(tree, layout, options)
    options = replace(options, background=class_name(options.background) or "")
    labels = {label for _, label, _ in layout.files}
    if options.background and options.background not in labels:
        raise ValueError(f"background={options.background}: no folder of that name holds audio; "
                         f"there are {', '.join(sorted(labels))}")
    if layout.sentence:
        print(layout.sentence)
    tree.say_unread()
    drops = Drops()
    for path, reason in layout.drops:
        drops.add(_id(path, source), reason, str(path))
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with Journal(journal_path) as journal:
            sounds = find_sounds(source, layout, drops, journal, out)
            journal.making(*_WRITES)
            counts = _write(sounds, source, out, options, drops)
            journal.remove()
    _say(sounds, counts, drops, options)
    if empty := empty_folders(source, layout, sounds):
        print(f"No usable file in {', '.join(empty)}: no class of that name.")
    return counts, drops


def _take_lists(tree: Tree, layout: Layout, options: Options) -> None:
    """Splits of lists of files beside the folders of classes (validation_list.txt)."""
    source = tree.root
    lists = find_lists(tree) if options.splits == "auto" and not layout.splits else None
    if not lists:
        return
    listed = lists.split_of_files()
    rest = None if "train" in listed.values() else "train"
    files = [(path, label, listed.get(key(_id(path, source)), rest))
             for path, label, _ in layout.files]
    there = {key(_id(path, source)) for path, *_ in layout.files}
    layout.drops += [(source / name, "missing_file") for names in lists.names.values()
                     for name in names if key(name) not in there]
    layout.drops += [(path, "in_no_list") for path, _, split in files if split is None]
    layout.files = sorted((each for each in files if each[2]),
                          key=lambda each: SPLITS.index(each[2]))
    layout.sentence = (f"{source}: splits are those of "
                       f"{', '.join(f'{name}.txt' for name in lists.names)} (splits=none: anew)")


def find_sounds(
    source: Path, layout: Layout, drops: Drops, journal: Journal, out: Path
) -> list[Sound]:
    """Sounds in the order of splits and of their paths."""
    found: dict[bytes, Sound] = {}
    outside = Outside(out)
    if journal.num_known:
        print(f"{out}: goes on; {journal.num_known} files were read before")
    try:
        for path, label, split in progress(layout.files, len(layout.files), "reading", "files"):
            outside.check(path)
            try:
                duration, content = journal.of(path, _measure)
                str(path).encode()
            except AudioError as error:
                drops.add(_id(path, source), error.reason, error.detail)
                continue
            except UnicodeEncodeError:  # it could not be written into any manifest
                drops.add(_id(path, source), "name_not_utf8", str(path))
                continue
            sound = found.setdefault(content, Sound(path, duration, set(), split))
            if sound.split != split:  # kept where it was first: train before test
                drops.add(_id(path, source), f"also_in_{sound.split}", str(path))
            else:
                sound.labels.add(label)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped; {len(found)} files are read, the same command goes on.") from None
    return list(found.values())


def _measure(path: Path) -> tuple[float, str]:
    """(seconds, hash of the content).

    Raises:
        AudioError: see `audio_info`; also `cannot_open`.
    """
    duration, _ = audio_info(path)
    try:
        with open(path, "rb") as file:
            return duration, hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise AudioError("cannot_open", f"{path}: {error.strerror}") from error


def assign_splits(sounds: list[Sound], options: Options) -> None:
    """Give each sound without a split one: by a hash of its path, class by class."""
    groups: dict[tuple[str, ...], list[Sound]] = {}
    for sound in sounds:
        if sound.split is None:
            groups.setdefault(tuple(sorted(sound.labels)), []).append(sound)
    for group in groups.values():
        group.sort(key=lambda sound: hashlib.blake2b(
            f"{options.seed}/{sound.path.parent.name}/{sound.path.name}".encode()).digest())
        test, validation = (_share(len(group), each) for each in (options.test, options.validation))
        for number, sound in enumerate(group):
            sound.split = ("test" if number < test else
                           "validation" if number < test + validation else "train")


def _share(count: int, share: float) -> int:
    return 0 if count < 3 or not share else max(1, round(count * share))


def _write(
    sounds: list[Sound], source: Path, out: Path, options: Options, drops: Drops
) -> dict[str, Counter]:
    """Write all files; returns how many files of each class are in each split.

    Raises:
        ValueError: not one sound, or some that the manifests have cannot be opened now: they stay.
    """
    lost = len(drops.transient & {each for name in MANIFESTS if (out / name).is_file()
                                  for each in ids_of(out / name)}) if drops.transient else 0
    if lost or not sounds:
        print(drops.examples())
        what = (f"{lost} files of {out}'s manifests cannot be opened now, so these stay as they are"
                if lost else f"{source}: not one usable file of {drops.total}")
        raise ValueError(f"{what} ({drops.text()}). Is a disk not mounted? With these files back "
                         "the same command goes on" if drops.transient else f"{what} "
                         f"({drops.text()})")
    assign_splits(sounds, options)
    if not options.allow_gone and is_same_source(_report_of(out), out, source):
        refuse_vanished([out / name for name in MANIFESTS], lambda: {
            part_of_row(vars(_row(sound, source, out, options))) for sound in sounds})
    made, counts = {}, {}
    for split, name in zip(SPLITS, MANIFESTS, strict=True):
        rows = [_row(sound, source, out, options) for sound in sounds if sound.split == split]
        write_manifest(out / name, rows)
        made[name] = hash_of_file(out / name)
        counts[split] = Counter(label for row in rows for label in row.labels or ())
    write_text(out / "classes.txt", "\n".join(_classes(sounds, options)) + "\n")
    made["classes.txt"] = hash_of_file(out / "classes.txt")
    write_json(out / "drops.json", {
        "source": str(source), "place": place_from(out, source), "counts": drops.counts,
        "dropped": drops.listed, "made": made})
    return counts


def _made(out: Path) -> dict[str, str | None]:
    """Files in the output folder that this command made, with their hashes."""
    try:
        report = read_json(out / "drops.json")
        if set(report) >= {"counts", "files"}:  # of an earlier version
            return dict.fromkeys(_WRITES)
        if set(report) >= {"source", "counts", "made"}:
            return {**report["made"], "drops.json": None}
    except (OSError, ValueError, TypeError):
        pass  # there is none, or it is somebody else's
    return {}


def _report_of(out: Path) -> dict:
    try:
        return read_json(out / "drops.json")
    except (OSError, ValueError):
        return {}


def _classes(sounds: list[Sound], options: Options) -> list[str]:
    return sorted({label for sound in sounds for label in sound.labels} - {options.background})


def _id(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()


def _row(sound: Sound, source: Path, out: Path, options: Options) -> Row:
    return Row(
        id=_id(sound.path, source),
        audio_filepath=Path(os.path.relpath(sound.path.resolve(), out.resolve())).as_posix(),
        duration=round(sound.duration, 6),
        labels=sorted(sound.labels - {options.background}),
    )


def empty_folders(source: Path, layout: Layout, sounds: list[Sound]) -> list[str]:
    """Names of folders of classes that no sound is from."""
    roots = [source / name for name in layout.splits] or [source]
    names = {path.name for root in roots for path in root.iterdir()
             if path.is_dir() and not is_left_out(path.name)}
    used = {label for sound in sounds for label in sound.labels}
    return sorted(name for name in names if class_name(name) not in used)


def _say(
    sounds: list[Sound], counts: dict[str, Counter], drops: Drops, options: Options
) -> None:
    classes = _classes(sounds, options)
    width = max(map(len, (*classes, "class")))
    print(f"{'class':<{width}}" + "".join(f"{split:>12}" for split in SPLITS))
    for name in classes:
        print(f"{name:<{width}}" + "".join(f"{counts[split][name]:>12,}" for split in SPLITS))
    print(f"{len(sounds):,} files of {len(classes)} classes; dropped: {drops.text() or 'nothing'}")
    if drops.total:
        print(drops.examples())
    if few := [name for name in classes if not counts["test"][name]]:
        print(f"No test file of {', '.join(few)}: fewer than three files, or test=0.")
    if sentence := drops.not_complete():
        print(sentence)


if __name__ == "__main__":
    run(main)
