"""A folder of audio for each class -> manifests with labels, split by file.

    python -m distill.data.class_folders SOURCE OUT_FOLDER key=value...

SOURCE is SOURCE/CLASS/any/depth/sound.wav; or it is split already, SOURCE/{train,validation,test}/
CLASS/..., and stays so. A file that lies in several folders, under any name, has all their classes
and is one row: no sound is in two splits.

Keys:
    validation=0.1 test=0.1   share of each class's files; of three files or more at least one
    seed=0                    another seed, another split
    background=               name of a folder whose sounds belong to no class

Writes OUT_FOLDER/{train,validation,test}.jsonl and classes.txt. Audio stays where it is and is
pointed at (m4a, mp4, wma and the like need `pip install 'audio-distill[media]'`, in every stage).
What cannot be read is counted, printed and listed in OUT_FOLDER/drops.json.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

from distill.data.audio import AudioError, audio_info
from distill.data.files import write_json, write_text
from distill.data.find_files import find_audio
from distill.data.manifest import Row, write_manifest

SPLITS = ("train", "validation", "test")


@dataclass
class Options:
    """The key=value arguments; see the head of this file."""

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    background: str = ""


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


def main(arguments: list[str]) -> None:
    if len(arguments) < 2 or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    build(Path(arguments[0]), Path(arguments[1]), parse_options(arguments[2:]))


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
        try:
            setattr(options, key, known[key](value))
        except ValueError:
            raise ValueError(f"{key} must be a number, got {value!r}") from None
    ok = options.validation >= 0 and options.test >= 0 and options.validation + options.test < 1
    if not ok:
        raise ValueError("validation and test must be shares >= 0 that leave something to train "
                         f"on, got {options.validation} and {options.test}")
    return options


def build(source: Path, out: Path, options: Options) -> dict[str, Counter]:
    """Write the manifests; returns how many files of each class are in each split.

    Raises:
        ValueError: no folders of classes, or no audio in one of them.
    """
    sounds, drops = find_sounds(source)
    classes = sorted({label for sound in sounds for label in sound.labels} - {options.background})
    if not classes:
        raise ValueError(f"{source}: no folder with audio; expected {source}/CLASS/sound.wav")
    assign_splits(sounds, options)
    counts = {}
    for split in SPLITS:
        rows = [_row(sound, source, out, options) for sound in sounds if sound.split == split]
        write_manifest(out / f"{split}.jsonl", rows)
        counts[split] = Counter(label for row in rows for label in row.labels or ())
    write_text(out / "classes.txt", "\n".join(classes) + "\n")
    write_json(out / "drops.json", {"counts": Counter(why for _, why in drops),
                                    "files": [[str(path), why] for path, why in drops]})
    _report(classes, counts, len(sounds), drops)
    if empty := empty_folders(source, sounds):
        print(f"No usable file in {', '.join(empty)}: no class of that name.")
    if any(why == "needs_ffmpeg" for _, why in drops):
        print("needs_ffmpeg: m4a, mp4, wma and the like need `pip install 'audio-distill[media]'`; "
              "or convert them yourself, for example with `ffmpeg -i sound.m4a sound.flac`.")
    return counts


def find_sounds(source: Path) -> tuple[list[Sound], list[tuple[Path, str]]]:
    """Sounds in the order of their paths, and files that cannot be used with the reason."""
    from tqdm import tqdm

    given = [source / split for split in SPLITS if (source / split).is_dir()]
    roots = [(folder, folder.name) for folder in given] or [(source, None)]
    files = [(path, root, split) for root, split in roots for path in find_audio(root)
             if path.parent != root]
    found: dict[bytes, Sound] = {}
    drops = []
    for path, root, split in tqdm(files, "reading", unit="file", disable=None, leave=False):
        label = path.relative_to(root).parts[0]
        try:
            duration, _ = audio_info(path)
        except AudioError as error:
            drops.append((path, error.reason))
            continue
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        sound = found.setdefault(content, Sound(path, duration, set(), split))
        if sound.split != split:  # kept where it was first: train before test
            drops.append((path, f"also_in_{sound.split}"))
        else:
            sound.labels.add(label)
    return list(found.values()), drops


def empty_folders(source: Path, sounds: list[Sound]) -> list[str]:
    """Names of folders of classes that no sound is from."""
    given = [source / split for split in SPLITS if (source / split).is_dir()]
    names = {path.name for root in given or [source] for path in root.iterdir() if path.is_dir()}
    return sorted(names - {label for sound in sounds for label in sound.labels})


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


def _row(sound: Sound, source: Path, out: Path, options: Options) -> Row:
    return Row(
        id=sound.path.relative_to(source).as_posix(),
        audio_filepath=Path(os.path.relpath(sound.path.resolve(), out.resolve())).as_posix(),
        duration=round(sound.duration, 6),
        labels=sorted(sound.labels - {options.background}),
    )


def _report(classes: list[str], counts: dict[str, Counter], total: int, drops: list) -> None:
    width = max(map(len, (*classes, "class")))
    print(f"{'class':<{width}}" + "".join(f"{split:>12}" for split in SPLITS))
    for name in classes:
        print(f"{name:<{width}}" + "".join(f"{counts[split][name]:>12,}" for split in SPLITS))
    reasons = Counter(why for _, why in drops)
    dropped = ", ".join(f"{n} {why}" for why, n in sorted(reasons.items())) or "nothing"
    print(f"{total:,} files of {len(classes)} classes; dropped: {dropped}")
    few = [name for name in classes if not counts["test"][name]]
    if few:
        print(f"No test file of {', '.join(few)}: fewer than three files, or test=0.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
