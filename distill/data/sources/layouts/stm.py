"""STM, the segments of NIST and TEDLIUM: sph/talk.sph, and in stm/talk.stm

    talk 1 speaker 17.82 28.81 <o,f0,male> words of it
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from distill.data.sources.clips import Clip, Columns
from distill.data.sources.layouts.tree import Tree, key, stem
from distill.data.sources.tables.text import read_lines

_NO_WORDS = "ignore_time_segment_in_scoring"


def clips_of_stm(
    tree: Tree, files: list[str], audio: list[str], columns: Columns
) -> Iterator[Clip]:
    """Clips in the order of the lines; then `audio` that no line names, without a text.

    Raises:
        ValueError: a column other than id, text and speaker (at once).
    """
    columns = columns.resolve(["id", "text", "speaker"], str(tree.root / files[0]))
    return _clips(tree, files, audio, columns)


def _clips(tree: Tree, files: list[str], audio: list[str], columns: Columns) -> Iterator[Clip]:
    by_name = {key(stem(PurePosixPath(name).name)): name for name in reversed(audio)}
    used: set[str] = set()
    for file in files:
        for line in read_lines(tree.root / file):
            where = f"{tree.root / file} line {line.number}"
            if line.fault:
                yield Clip(where, name=file, problem=("bad_text", f"{where}: {line.fault}"))
            elif line.text.strip() and not line.text.startswith(";;"):
                yield _clip(tree, line.text, where, by_name, used, columns)
    for name in audio:
        if name not in used:
            yield Clip(stem(name), path=tree.root / name, name=name)


def _clip(
    tree: Tree, line: str, where: str, by_name: dict[str, str], used: set[str], columns: Columns
) -> Clip:
    words = line.split(maxsplit=5)
    try:
        recording, _, speaker = words[:3]
        start, end = float(words[3]), float(words[4])
        if not (0 <= start < end < math.inf):
            raise ValueError
    except (ValueError, IndexError):
        return Clip(where, problem=("bad_row", f"{where}: expected FILE CHANNEL SPEAKER START END "
                                               f"TEXT, got {line[:60]!r}"))
    name = by_name.get(key(stem(recording)))
    text = words[5] if len(words) > 5 else ""
    if text.startswith("<") and ">" in text and "," in text[: text.index(">")]:
        text = text[text.index(">") + 1:]
    identity = f"{recording}-{round(start * 1000):07d}"
    if name is None:
        return Clip(identity, problem=("no_audio", f"{where}: no audio called {recording}"))
    used.add(name)
    if text.strip() == _NO_WORDS:
        return Clip(identity, name=name, problem=("not_transcribed", where))
    row = {"id": identity, "text": text, "speaker": speaker}
    clip = columns.clip(row, identity, name=name, where=where)
    return replace(clip, path=tree.root / name, offset=start, duration=round(end - start, 6))
