"""What drafts have gained and lost so far, and so what may be risked on them."""

from __future__ import annotations

RATE = 0.015  # of the time of plain decoding
_KEPT = 0.05  # of all time: more than that, and a long success would pay for a long loss


class Balance:
    """Seconds that may be lost on trying drafts: a share of plain decoding, and what was gained.

    Whoever tries something that may fail takes it from here. So all of a process's decoding takes
    no more than 1 + RATE of what it would take without drafts, whatever the costs and the
    acceptance are; the last round may overdraw it.
    """

    def __init__(self):
        self.seconds = 0.0
        self._all = 0.0

    def note_plain(self, seconds: float) -> None:
        """Time that would have passed without drafts as well."""
        self._all += seconds
        self._add(RATE * seconds)

    def note_drafted(self, seconds: float, worth: float) -> None:
        """A round with drafts; `worth` are the seconds of plain rounds for as many tokens."""
        self._all += worth
        self._add((1 + RATE) * worth - seconds)

    def spend(self, seconds: float) -> None:
        self.seconds -= seconds

    def _add(self, seconds: float) -> None:
        self.seconds = min(self.seconds + seconds, _KEPT * self._all)
