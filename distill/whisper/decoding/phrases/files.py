"""Files of phrases."""

from __future__ import annotations

from pathlib import Path


def read_phrases(path: str | Path) -> list[str]:
    """One phrase a line; blank lines do not count.

    Raises:
        ValueError: there is no such file, or it is not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"phrases: {path} must be a text file in UTF-8 with one phrase a line: "
                         f"{error}") from None
    return [line.strip() for line in lines if line.strip()]
