"""Whether rounds with drafts are slower than plain ones, or the machine has become slow."""

from __future__ import annotations

from collections import deque
from statistics import fmean, median

_WATCHED = 12  # rounds with drafts whose tokens a second are compared with plain rounds'
_FEW = 4  # the fewest of them
_CHECK = 3  # plain rounds that say what a plain round takes now


class Watch:
    """The latest rounds with drafts, and plain ones taken anew where those seem slow.

    Plain rounds are timed seldom while drafts are made. If the machine has become slower since,
    drafts seem to lose: so a few plain rounds come first, which cost nothing but what drafts gain.

    Attributes:
        is_checked: plain rounds were taken after the latest round with drafts.
    """

    def __init__(self):
        self._rounds: deque[tuple[float, float]] = deque(maxlen=_WATCHED)
        self._size, self._before = 0, 0.0
        self._plain: list[float] | None = None
        self.is_checked = False

    @property
    def is_checking(self) -> bool:
        """Plain rounds are wanted now."""
        return self._plain is not None

    def note(self, plain_rounds: float, tokens: float) -> None:
        """A round with drafts: its time in plain rounds, and tokens for each sequence."""
        self._rounds.append((plain_rounds, tokens))
        self.is_checked = False

    def is_slower(self, likely: float) -> bool:
        """Whether drafts lose.

        Args:
            likely: tokens that were expected of a round; in few rounds chance rejects many.
        """
        if len(self._rounds) < _FEW:
            return False
        times, texts = zip(*self._rounds, strict=True)
        is_all = len(times) == _WATCHED
        return median(times) >= (fmean(texts) if is_all else max(fmean(texts), likely))

    def check(self, size: int, seconds: float) -> None:
        """Ask for plain rounds of this bucket, which took so long as far as is known."""
        self._size, self._before, self._plain = size, seconds, []

    def note_plain(self, size: int, seconds: float) -> list[float] | None:
        """Take a plain round that was asked for.

        Returns:
            seconds of all of them, once they are enough; none if sizes differ.
        """
        self._plain.append(seconds)
        if size != self._size:
            return []
        return self._plain if len(self._plain) == _CHECK else None

    def end_check(self) -> float:
        """See the rounds with drafts by the new plain ones.

        Returns:
            how many times longer plain rounds take than they did.
        """
        slower = median(self._plain) / self._before
        self._rounds = deque([(each / slower, tokens) for each, tokens in self._rounds],
                             maxlen=_WATCHED)
        self._plain, self.is_checked = None, True
        return slower

    def clear(self) -> None:
        self._rounds.clear()
        self._plain = None
