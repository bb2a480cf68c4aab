"""Progress for people: tqdm on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_LOG_SECONDS = 20.0  # between two lines when the output is a file
_MARK_SECONDS = 5.0  # between two measurements of how far it is
_AT_ONCE = 0.01  # of the usual time of an item: what comes sooner came with the one before
_RECENT_SECONDS = 120.0  # the rate is that of so long, or of the later half of a longer run
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"


def progress(
    items: Iterable[T], total: int | None, description: str, unit: str, enabled: bool = True,
    initial=0,
) -> Iterator[T]:
    """Iterate and say how far it is and, as soon as that can be known, how long is left."""
    if not enabled:
        yield from items
    elif total is None and not sys.stderr.isatty():
        yield from _counted(items, description, unit, initial)
    elif total is None:
        from tqdm import tqdm

        yield from tqdm(items, desc=description, unit=unit, initial=initial)
    elif sys.stderr.isatty():
        yield from _bar(items, total, description, unit, initial)
    else:
        yield from _lines(items, total, description, unit, initial)


def _bar(items: Iterable[T], total: int, description: str, unit: str, initial: int):
    from tqdm import tqdm

    # the bar's own estimate divides by the time of the first item, with all it waited for
    with tqdm(desc=description, unit=unit, total=total, initial=initial, bar_format=_BAR) as bar:
        left = TimeLeft(total, initial)
        for done, item in enumerate(items, initial + 1):
            yield item
            seconds = left(done)
            rest = "" if seconds is None or done == total else f"about {clock(seconds)} left"
            bar.set_postfix_str(rest, refresh=False)
            bar.update()


def _lines(items: Iterable[T], total: int, description: str, unit: str, initial: int):
    left = TimeLeft(total, initial)
    start = shown = left.start
    for done, item in enumerate(items, initial + 1):
        yield item
        seconds, now = left(done), left.now
        if now - shown >= _LOG_SECONDS or done == total:
            shown = now
            rest = "" if seconds is None else f", about {clock(seconds)} left"
            rest = ", done" if done == total else rest
            print(f"  {description}: {done}/{total} {unit}, {clock(now - start)}{rest}",
                  file=sys.stderr, flush=True)


def _counted(items: Iterable[T], description: str, unit: str, initial: int):
    """Where nobody knows how many there are."""
    start = shown = time.monotonic()
    for done, item in enumerate(items, initial + 1):
        yield item
        now = time.monotonic()
        if now - shown >= _LOG_SECONDS:
            shown = now
            print(f"  {description}: {done} {unit}, {clock(now - start)}", file=sys.stderr,
                  flush=True)


class TimeLeft:
    """Seconds left, by the rate at which items arrived lately.

    Items may arrive many at once (a shard, a batch), after all that it took to make them: where
    the first of them is, nothing can be said of the rate. So it is measured between ends of such
    arrivals, and from the first of these on: what comes before it is also loading and warming up.
    """

    def __init__(self, total: int, initial: int = 0):
        self.total, self.initial = total, initial
        self.start = self.now = time.monotonic()
        self._before = (self.start, initial)  # the last item: when, how many there were
        self._marks: deque[tuple[float, int]] = deque()

    def __call__(self, done: int) -> float | None:
        """Tell that so many are done now; None while it cannot be known."""
        self.now = time.monotonic()
        since = self._marks[-1][0] if self._marks else self.start
        usual = (self.now - self.start) / max(done - self.initial, 1)
        is_at_once = self.now - self._before[0] < _AT_ONCE * usual
        if (not is_at_once and self.now - since >= _MARK_SECONDS
                and self._before[1] > self.initial):
            self._marks.append(self._before)
        self._before = (self.now, done)
        recent = self.now - max(_RECENT_SECONDS, (self.now - self.start) / 2)
        while len(self._marks) > 2 and self._marks[1][0] <= recent:
            self._marks.popleft()
        if len(self._marks) < 2:
            return None
        (first, had), (last, have) = self._marks[0], self._marks[-1]
        if last <= first:
            return None
        left = (last - first) / (have - had) * (self.total - have) - (self.now - last)
        return left if left > 0 else None  # overdue: something else came between, as a validation


def quiet_libraries() -> None:
    """Hide bars and warnings of libraries that tell a user nothing about their run."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # accelerate says at every save that tied weights are saved once, which is right
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


def clock(seconds: float) -> str:
    """75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
