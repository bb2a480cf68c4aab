"""JSON lines as people have them: with a byte-order mark, in UTF-16, as one array."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from distill.data.formats.errors import pointer

_NAMED = 3  # bad lines in a message; the others are counted
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))


class BadLines(ValueError):
    """Lines of a file that say something else than they should; the first ones are named."""

    def __init__(self, path: str | Path, problems: list[tuple[str, str]]):
        shown = "; ".join(f"{place}: {problem}" for place, problem in problems[:_NAMED])
        rest = len(problems) - _NAMED
        more = f"; and {rest:,} more like {'this' if rest == 1 else 'these'}" if rest > 0 else ""
        super().__init__(f"{path}: {shown}{more}")


def decode(data: bytes, path: str | Path) -> str:
    """The text of a file, which is UTF-8, or whatever its byte-order mark says.

    Raises:
        ValueError: it is neither; names the file, the line and the byte.
    """
    if told := pointer(data):
        raise ValueError(f"{path}: {told}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None:  # of ASCII in UTF-16 every other byte is 0
        encoding = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(
            tuple(byte == 0 for byte in data[:2]), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if data.startswith(b"\x1f\x8b"):
            raise ValueError(f"{path}: compressed with gzip; unpack it first") from None
        line = data.count(b"\n", 0, error.start) + 1
        at = error.start - data.rfind(b"\n", 0, error.start)
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"{path}: line {line}, byte {at}: 0x{data[error.start]:02x} is not {name};"
                         " save the file as UTF-8") from None


def read_rows(data: bytes, path: str | Path) -> Iterator[tuple[str, object]]:
    """(place, object) of each row of a file: `line 7` of JSON lines, `row 7` of an array. A line
    that is no JSON is a ValueError in the place of its object, so that a reader can name several.

    Raises:
        ValueError: see `decode`; or an array that is broken.
    """
    text = decode(data, path)
    if text.lstrip().startswith("["):
        rows = _array(text, path)
        if rows is not None:
            yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
            return
    # not splitlines: a transcript may hold U+2028, which JSON leaves as it is
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
            yield f"line {number}", ValueError(f"not a JSON object ({error})")


def _array(text: str, path: str | Path) -> list | None:
    """The rows of one JSON array; None where each line is one of its own."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None
        raise ValueError(f"{path}: line {error.lineno}: a JSON array that is broken ({error.msg}); "
                         "expected an object a line, or one whole array of them") from None
    except RecursionError:
        raise ValueError(f"{path}: JSON that is nested too deeply") from None
