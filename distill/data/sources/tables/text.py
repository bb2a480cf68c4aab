"""Text of users' files: UTF-8, or UTF-16 and UTF-32 as Windows writes them; never guessed further.
What is gzip is unpacked, whatever it is called.

    read_text(Path("clip.txt"))            -> str
    for line in read_lines(Path("metadata.csv")): line.number, line.text, line.fault
"""

from __future__ import annotations

import codecs
import gzip
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from distill.data.formats.errors import pointer

_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Bytes that no text in UTF-8, Latin-1 or the like has, and that UTF-16 has: half a space, half
# a letter of Greek (03), Cyrillic (04), Hebrew (05), Arabic (06).
_CONTROL = bytes(set(range(32)) - {9, 10, 12, 13, 26, 27})
_GZIP = b"\x1f\x8b\x08"
_SAMPLE = 1 << 16  # bytes that the encoding is seen from


@dataclass(frozen=True)
class Line:
    """A line without its end.

    Attributes:
        number: from 1.
        fault: what is wrong with its bytes, with the place in the file; `text` is not whole then.
    """

    number: int
    text: str
    fault: str | None = None


def read_text(path: Path) -> str:
    """The whole text of a file, without a byte-order mark.

    Raises:
        ValueError: not UTF-8 (the message names file and byte), or bytes of 0 in it, or no gzip.
        OSError: it cannot be opened.
    """
    with _open(path) as file:
        data = file.read()
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def decode(data: bytes) -> str:
    """Bytes of a text -> text; "\\r\\n" and "\\r" become "\\n".

    Raises:
        ValueError: which byte is at fault, or it is the pointer of a file that was not fetched.
    """
    _refuse_pointer(data)
    encoding, mark = _encoding(data)
    try:
        text = data[mark:].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(_fault(data, mark + error.start, encoding)) from None
    if "\0" in text:
        raise ValueError(_fault(data, max(data.find(0), 0), encoding))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[Line]:
    """Lines of a file of any size, one at a time; those that cannot be read have a `fault`.

    Raises:
        ValueError: it is called .gz and is not, or the pointer of a file that was not fetched.
        OSError: it cannot be opened.
    """
    with _open(path) as file:
        sample = file.read(_SAMPLE)
        encoding, mark = _encoding(sample, is_whole=False)
        try:
            _refuse_pointer(sample)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        file.seek(mark)
        if encoding != "utf-8":
            yield from _wide_lines(file.read(), encoding)
            return
        place, number = mark, 0
        for chunk in file:
            # an old Mac's lines end with \r alone: the whole file is one chunk
            for raw in chunk.splitlines(keepends=True) if b"\r" in chunk[:-2] else (chunk,):
                number += 1
                yield _line(number, raw, place)
                place += len(raw)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            is_packed = path.name.lower().endswith(".gz") or file.read(3) == _GZIP
            file.seek(0)
            if not is_packed:
                yield file
                return
            with gzip.open(file) as unpacked:
                yield cast(BinaryIO, unpacked)  # it has all of it that is used here
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the gzip file is broken: {error}") from None


def _refuse_pointer(data: bytes) -> None:
    if told := pointer(data):
        raise ValueError(told)


def _line(number: int, raw: bytes, place: int) -> Line:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fault = _fault(raw, error.start, "utf-8", place)
        return Line(number, raw.decode("utf-8", errors="replace").rstrip("\r\n"), fault)
    if "\0" in text:
        return Line(number, text.rstrip("\r\n"), _fault(raw, raw.find(0), "utf-8", place))
    return Line(number, text.rstrip("\r\n"))


def _wide_lines(data: bytes, encoding: str) -> Iterator[Line]:
    text = data.decode(encoding, errors="replace")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        fault = "\ufffd" in line or "\0" in line
        yield Line(number, line, f"not {encoding.upper()}" if fault else None)


def _fault(data: bytes, start: int, encoding: str, place: int = 0) -> str:
    """A sentence on the byte at `start` of `data`, which begins at `place` of its file."""
    byte = data[start] if start < len(data) else 0
    where = f"byte {place + start + 1} is 0x{byte:02x}"
    if byte == 0:
        return f"{where}, which is in no text"
    if encoding != "utf-8":
        return f"{where}, not {encoding.upper()}"
    return f"{where}, not UTF-8: save it as UTF-8 (iconv -f cp1252 -t utf-8)"


def _encoding(data: bytes, is_whole: bool = True) -> tuple[str, int]:
    """(encoding, length of the byte-order mark)."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    sample = data[: min(len(data), _SAMPLE) // 2 * 2]
    tabs = sample.count(9)  # Devanagari is block 09
    controls = len(sample) - len(sample.translate(None, _CONTROL)) + tabs * (tabs > len(sample) / 3)
    # Half of the bytes are such in a script of one block; where it is few, it is UTF-8 with faults.
    if controls and (controls > 0.4 * len(sample) or not _is_utf8(sample)) and (
            not is_whole or len(data) % 2 == 0):
        rated = [(rate, name) for name in ("utf-16-le", "utf-16-be")
                 if (rate := _strangeness(sample, name)) is not None]
        if rated:
            return min(rated)[1], 0
    return "utf-8", 0


def _is_utf8(sample: bytes) -> bool:
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(sample) - 4  # cut inside a letter
    return True


def _strangeness(sample: bytes, encoding: str) -> float | None:
    """How much a text in this encoding jumps between scripts; None where it is no text at all."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 2:  # else a pair is cut at the sample's end
            return None
        text = sample[: error.start].decode(encoding)
    if any(unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r\f"
           for c in set(text)):
        return None
    common = sum(c in " \n\r\t" or c.isascii() for c in text)
    return len({ord(c) >> 8 for c in text}) - common / max(len(text), 1)
