"""Small corpora from a table, through a command, as a stranger meets it: rows, counts, exit code.

    FILES = {"a.wav": 1.0, "a.txt": "hello", "more": Link("../other")}    # seconds, text or bytes
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from distill.data.manifest import read_manifest


class Link(str):
    """What a link leads to."""


@cache
def sound(name: str, seconds: float, rate: int = 16_000) -> bytes:
    """A file of noise, which no other name has."""
    noise = np.random.default_rng(zlib.crc32(name.encode(errors="surrogateescape")))
    samples = noise.integers(-9000, 9000, round(seconds * rate)).astype("<i2")
    if name.lower().endswith((".mp3", ".flac", ".ogg")):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format=name[-4:].lstrip(".").upper())
        return buffer.getvalue()
    data = samples.tobytes()
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVEfmt ", 16, 1, 1, rate,
                       2 * rate, 2, 16, b"data", len(data)) + data


def lay(folder: Path, files: dict) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content)
        elif isinstance(content, int | float):
            path.write_bytes(sound(name, content))
        else:
            data = content if isinstance(content, bytes) else content.encode()
            path.write_bytes(data.replace(b"{here}", os.fsencode(folder)))
    return folder


def everything(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder, and where its links lead."""
    return {os.path.relpath(path, folder): os.readlink(path) if path.is_symlink()
            else path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_symlink() or path.is_file()}


def told(out: Path) -> dict[str, list[str]]:
    """{manifest: its rows as `a.wav hello`}, with `1+2` before the text where a row is not of a
    whole second from 0; labels in brackets, a speaker or a language in angles."""
    found = {}
    for path in sorted(out.glob("[!.]*.jsonl")):
        rows, drops = read_manifest(path)
        assert not drops
        found[path.stem] = sorted(_line(row) for row in rows if row.id)
        assert len({row.id for row in rows}) == len(rows)
    return found


def _line(row) -> str:
    name = re.sub(r"-[0-9a-f]{12}(?=\.)", "", Path(row.audio_filepath).name)  # of a stored one
    part = f" {row.offset:.4g}+{row.duration:.3g}"
    words = [name + (part if part != " 0+1" else "")]
    words += [row.text] if row.text is not None else []
    words += [f"[{'; '.join(row.labels)}]"] if row.labels is not None else []
    return " ".join(words + [f"<{each}>" for each in (row.speaker, row.language) if each])


def run(main: Callable, arguments: list, capsys) -> tuple[int, str]:
    """(exit code, what is on the screen); an error of the user's is 2."""
    capsys.readouterr()
    try:
        code = main([str(each) for each in arguments])
    except ValueError as error:
        code, said = 2, f"error: {error}"
    else:
        said = ""
    screen = capsys.readouterr()
    return code or 0, screen.out + screen.err + said


def reasons(screen: str) -> dict[str, int]:
    """{reason: count} of the drops on the screen; each has a line of examples, too."""
    found = re.search(r"(?:dropped \d+ of \d+ rows: |not one usable row of \d+ \(|dropped: )"
                      r"([^)\n]*)", screen)
    counts = {} if found is None or found[1] in ("none", "nothing") else {
        word: int(count) for word, count in (each.split() for each in found[1].split(", "))}
    for reason in counts:
        assert re.search(rf"^  {reason}: \S", screen, re.MULTILINE), screen
    return counts


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
