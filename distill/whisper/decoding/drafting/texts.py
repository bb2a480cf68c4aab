"""How long texts become, and so how much of one is left that drafts may shorten."""

from __future__ import annotations

from collections import deque
from statistics import fmean

_KEPT = 64  # latest texts
_FEW = 4


class TextLengths:
    """Tokens of the latest texts."""

    def __init__(self):
        self._lengths: deque[int] = deque(maxlen=_KEPT)

    def note(self, tokens: int) -> None:
        """Count a text that is done."""
        self._lengths.append(tokens)

    def left(self, tokens: int, limit: int) -> float:
        """Expected rest of a text of at most `limit` tokens: as texts of that length went on so
        far; where few are known, as much again."""
        longer = [each - tokens for each in self._lengths if each > tokens]
        left = fmean(longer) if len(longer) >= _FEW else tokens
        return min(left, max(limit - tokens, 0))
