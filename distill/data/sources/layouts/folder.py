"""A folder or a table -> clips: what is there decides how it is read.

    <split>.tsv .csv .jsonl .json, train_manifest.json, metadata.csv or the only table
                     a file's name and what belongs to it in each row: Common Voice, NeMo, Hugging
                     Face audiofolder; ESC-50, UrbanSound8K, FSD50K and AudioSet, known by their
                     columns; LJSpeech and FLEURS, which have no names of columns
    wav.scp          Kaldi
    *.trans.txt      LibriSpeech; transcripts.txt: MLS
    *.stm            TEDLIUM
    audio            a .txt, .lab or .json of the same name beside it, or in txt/: LibriTTS, VCTK

Splits are tables, lists of files or folders of that name, or a column `split`; what was taken is
printed. Where there are none, all of it is read, which is printed, too: no clip is in two splits in
silence. `split=all` is everything.

lhotse reads many of these, too. Its readers (1.33) need torch, open the audio of every row, and
pass over what is missing with a word in the log: here each is counted, in some twenty lines each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from distill.data.find_files import AUDIO_SUFFIXES, is_left_out
from distill.data.sources.clips import Clip, Columns
from distill.data.sources.layouts.file_lists import FileLists, find_lists
from distill.data.sources.layouts.sidecars import clips_of_files
from distill.data.sources.layouts.speech import clips_of_kaldi, clips_of_lists, is_list
from distill.data.sources.layouts.splits import (
    ALL,
    AmbiguousSplit,
    Splits,
    find_splits,
    is_split_name,
    split_of,
)
from distill.data.sources.layouts.stm import clips_of_stm
from distill.data.sources.layouts.tree import Tree, stem
from distill.data.sources.tables.of_splits import (
    check_unsplit,
    keep_split,
    metadata_table,
    read_table,
    say,
    say_unread,
    split_named_tables,
    tables_near,
    tables_of_split,
)
from distill.data.sources.tables.table import TABLES, is_table, table_stem, table_suffix

_MARKS = ("wav.scp", "FSD50K.ground_truth")  # what else tells a corpus by its place


def find_clips(
    source: Path, split: str, columns: Columns, out: Path | None = None
) -> Iterator[Clip]:
    """Clips of a folder or of a table, in the order of its rows or by path; rows and files that are
    no clip have a `problem`.

    Args:
        split: "train"; "train+dev" joins, "all" is everything.
        out: where an import writes to, which is never read.

    Raises:
        ValueError: nothing that can be read, no such split, or a column that is not there; or the
            source leads to `out`.
    """
    source = Path(source)
    if source.is_file():
        return chain.from_iterable([_of_file(source, each, columns) for each in split.split("+")])
    if not source.is_dir():
        raise ValueError(f"no folder or table {source}")
    tree = Tree(_descend(source), out)
    tree.say_unread()
    return chain.from_iterable([_of_split(tree, each, columns) for each in split.split("+")])


def _of_file(path: Path, split: str, columns: Columns) -> Iterator[Clip]:
    if table_suffix(path) not in TABLES and not (path.suffix.lower() == ".txt" and is_table(path)):
        raise ValueError(f"{path}: expected a folder, or a table that ends with "
                         f"{', '.join(TABLES)}")
    tree = Tree(path.parent)
    keep = keep_split(path, split)
    if keep is None:
        check_unsplit(path, table_stem(path), split)
    return read_table(path, tree, columns, keep)


def _of_split(tree: Tree, split: str, columns: Columns) -> Iterator[Clip]:
    root = tree.root
    if (root / "FSD50K.ground_truth").is_dir():
        return _fsd50k(tree, split, columns)
    if tables := tables_of_split(root, tree, split):
        say(f"{root}: split {split} is {', '.join(path.name for path in tables)}")
        return chain.from_iterable([read_table(path, tree, columns) for path in tables])
    above = metadata_table(root, tree)
    if above is not None and (keep := keep_split(above, split)):
        return read_table(above, tree, columns, keep)
    if split != ALL and (lists := find_lists(tree)):
        return _of_lists(tree, lists, split, columns, above)
    named = split_named_tables(root, tree) if above is None else []
    if named and split == ALL:
        say(f"{root}: all is {', '.join(path.name for path in named)}")
        clips = chain.from_iterable([read_table(path, tree, columns) for path in named])
        return _told_of_rest(clips, tree, tree.audio, root)
    splits = _splits(tree, split)
    if splits and (above is None or split != ALL):
        folders = list(splits.names) if split == ALL else splits.chosen(split)
        return _of_folders(tree, splits, folders, split, columns, above)
    if named:
        raise ValueError(f"{root}: no split {split}; there are "
                         f"{', '.join(path.name for path in named)}")
    below = [name for name in tree.tables
             if table_stem(name).casefold() == split.casefold()]
    if below and above is None:  # a folder for each language
        say(f"{root}: split {split} is {', '.join(below[:5])}{', ...' if below[5:] else ''}")
        return chain.from_iterable([read_table(root / name, tree, columns) for name in below])
    check_unsplit(root, root.resolve().name, split)
    return _of_folder(tree, root, tree.audio, tree.texts, columns, split)


def _splits(tree: Tree, split: str) -> Splits:
    try:
        return find_splits(tree)
    except AmbiguousSplit:
        if split == ALL:
            return Splits(tree.root)
        raise


def _of_folders(
    tree: Tree, splits: Splits, folders: list[str], split: str, columns: Columns,
    above: Path | None,
) -> Iterator[Clip]:
    """Clips of a split's folders, each read by what is in it, or as a table above them says."""
    audio = splits.files(tree.audio, folders)
    counts = f": {len(audio)} of {len(tree.audio)} audio files" if audio else ""
    say(f"{tree.root}: split {split} is {', '.join(folders)}{counts}")
    if above is not None:
        return _below(read_table(above, tree, columns), tree, splits, folders)
    if splits.depth:
        return _of_names(tree, audio, splits.files(tree.texts, folders), columns, folders)
    found = []
    for name in folders:
        folder = tree.root / splits.prefix / name
        found.append(_of_folder(
            tree, folder, splits.files(tree.audio, [name]), splits.files(tree.texts, [name]),
            columns, name))
    rest = [name for name in tree.audio if splits.folder_of(name) is None]
    clips = chain.from_iterable(found)
    if rest and split == ALL:
        return _with_others(clips, clips_of_files(tree, rest, [], columns))
    return clips


def _of_lists(
    tree: Tree, lists: FileLists, split: str, columns: Columns, above: Path | None
) -> Iterator[Clip]:
    """Clips of the files in a split's lists, read by what is beside them or in a table above."""
    audio, gone, words = lists.chosen(tree.audio, split)
    say(f"{tree.root}: split {split} is {words}: {len(audio)} of {len(tree.audio)} audio files")
    missing = (Clip(name, path=tree.root / name, name=name, problem=(
        "missing_file", f"{tree.root / name}, which is in {words}")) for name in gone)
    if above is not None:
        wanted = {os.path.normpath(tree.root / name) for name in audio}
        clips = (clip for clip in read_table(above, tree, columns) if clip.problem
                 or (clip.path and os.path.normpath(clip.path) in wanted))
        return chain(clips, missing)
    stems = {stem(name) for name in audio}
    others = {stem(name) for name in tree.audio} - stems
    texts = [name for name in tree.texts if not lists.is_list(name)
             and os.path.splitext(name)[0] not in others]
    return chain(_of_names(tree, audio, texts, columns, []), missing)


def _below(
    clips: Iterator[Clip], tree: Tree, splits: Splits, folders: list[str]
) -> Iterator[Clip]:
    """Clips whose audio lies in the folders; rows without a known folder are counted."""
    num_others = 0
    for clip in clips:
        place = clip.path or tree.root / (clip.name or "")
        inside = place.is_relative_to(tree.root)
        folder = splits.folder_of(place.relative_to(tree.root).as_posix()) if inside else None
        if folder in folders or (folder is None and not place.is_file()):
            yield clip
        else:
            num_others += 1
    say(f"{tree.root}: {num_others} rows of the table are of other splits")


def _of_folder(
    tree: Tree, folder: Path, audio: list[str], texts: list[str], columns: Columns, split: str
) -> Iterator[Clip]:
    """Clips of one folder that is not divided further."""
    if (folder / "wav.scp").is_file():
        return _told_of_rest(clips_of_kaldi(folder, tree, columns), tree, audio, folder / "wav.scp")
    tables = tables_of_split(folder, tree, split) if folder != tree.root else []
    table = tables[0] if tables else metadata_table(folder, tree)
    if table is not None:
        return _told_of_rest(read_table(table, tree, columns), tree, audio, table)
    below = f"{folder.relative_to(tree.root).as_posix()}/" if folder != tree.root else ""
    inside = [tree.root / name for name in tree.layouts if name.startswith(below)]
    if kaldi := [path.parent for path in inside if path.name == "wav.scp"]:
        clips = chain.from_iterable([clips_of_kaldi(each, tree, columns) for each in kaldi])
        return _told_of_rest(clips, tree, audio, folder)
    if inside:
        return _of_tables_below(tree, folder, inside, audio, texts, columns)
    stm = [name for name in tree.stm if name.startswith(below)]
    if stm and columns.text != "none":
        return clips_of_stm(tree, stm, audio, columns)
    if not audio:
        names = ", ".join(f"{name}{end}" for name in (split, "metadata")
                          for end in (".tsv", ".csv", ".jsonl"))
        raise ValueError(f"{folder}: no audio and none of {names}")
    say_unread(folder, tree, audio)
    return _of_names(tree, audio, texts, columns, [split, folder.name] if below else [])


def _of_tables_below(
    tree: Tree, folder: Path, tables: list[Path], audio: list[str], texts: list[str],
    columns: Columns,
) -> Iterator[Clip]:
    """Clips of the tables in folders below one, then of the folders beside them that have none."""
    places = [f"{path.parent.relative_to(tree.root).as_posix()}/" for path in tables]

    def loose(names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith(tuple(places))]

    clips: Iterator[Clip] = chain.from_iterable(
        [read_table(path, tree, columns) for path in tables])
    if loose(audio):
        try:
            others = clips_of_files(tree, loose(audio), loose(texts), columns)
        except ValueError:  # no such column: the tables have it
            others = iter(())
        clips = _with_others(clips, others)
    return _told_of_rest(clips, tree, audio, folder)


def _with_others(clips: Iterator[Clip], others: Iterator[Clip]) -> Iterator[Clip]:
    """The clips, then the others whose files are not among them."""
    used = set()
    for clip in clips:
        if clip.path is not None:
            used.add(os.path.normpath(clip.path))
        yield clip
    yield from (clip for clip in others
                if clip.path is None or os.path.normpath(clip.path) not in used)


def _of_names(
    tree: Tree, audio: list[str], texts: list[str], columns: Columns, splits: Sequence[str]
) -> Iterator[Clip]:
    lists = [name for name in texts if is_list(name)]
    if not texts:  # one beside all of the splits
        lists = [name for name in tree.texts if is_list(name)]
    if lists and columns.text != "none":
        return clips_of_lists(tree, lists, audio, columns)
    return clips_of_files(tree, audio, texts, columns, splits)


def _told_of_rest(
    clips: Iterator[Clip], tree: Tree, audio: list[str], table: Path
) -> Iterator[Clip]:
    """The clips; at their end, how many files no row named."""
    used = set()
    for clip in clips:
        if clip.path is not None:
            used.add(os.path.normpath(clip.path))
        yield clip
    rest = [name for name in audio if os.path.normpath(tree.root / name) not in used]
    if rest:
        say(f"{table}: audio files in no row: {len(rest)} ({', '.join(rest[:3])}"
            f"{', ...' if len(rest) > 3 else ''})")


def _fsd50k(tree: Tree, split: str, columns: Columns) -> Iterator[Clip]:
    """Its `dev` is train and validation, told apart by a column; its `eval` is test."""
    folder = tree.root / "FSD50K.ground_truth"
    there = [path for path in (folder / "dev.csv", folder / "eval.csv") if path.is_file()]
    if split == ALL:
        wanted = there
    else:
        wanted = [path for path in there
                  if (split_of(split) == "test") == (path.stem == "eval") and split_of(split)]
    if not wanted:
        raise ValueError(f"{folder}: no split {split}; there are train and validation (dev.csv) "
                         "and test (eval.csv)")
    return chain.from_iterable([
        read_table(path, tree, columns, keep_split(path, split) if path.stem == "dev" else None)
        for path in wanted])


def _descend(source: Path) -> Path:
    """The folder with the tables, where one lies alone in another (`cv-corpus/cy`, what an archive
    was unpacked to)."""
    folder = source
    for _ in range(4):
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_left_out(entry.name)]
        folders = [entry.name for entry in found if os.path.isdir(entry.path)]
        files = [entry.name for entry in found if _holds_clips(entry.name)]
        if len(folders) != 1 or files or is_split_name(folders[0]):
            break
        below = folder / folders[0]
        if any(tables_near(below)) or any((below / name).exists() for name in _MARKS):
            return below
        folder = below
    return source


def _holds_clips(name: str) -> bool:
    return (table_suffix(name) in TABLES or Path(name).suffix.lower() in AUDIO_SUFFIXES
            or name == "wav.scp")
