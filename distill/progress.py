"""Progress for people: tqdm on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_LOG_SECONDS = 20.0  # between two lines when the output is a file


def progress(
    items: Iterable[T], total: int | None, description: str, unit: str, enabled: bool = True,
    initial=0,
) -> Iterator[T]:
    """Iterate and say how far it is and how long is left."""
    if not enabled:
        yield from items
    elif total is None and not sys.stderr.isatty():
        yield from _counted(items, description, unit, initial)
    elif sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=description, unit=unit, total=total, initial=initial)
    else:
        yield from _lines(items, total, description, unit, initial)


def _lines(items: Iterable[T], total: int | None, description: str, unit: str, initial: int):
    start = shown = time.monotonic()
    for done, item in enumerate(items, initial + 1):
        yield item
        now = time.monotonic()
        if now - shown >= _LOG_SECONDS or done == total:
            shown = now
            left = (now - start) / (done - initial) * (total - done)
            rest = "done" if done == total else f"about {clock(left)} left"
            print(f"  {description}: {done}/{total} {unit}, {clock(now - start)}, {rest}",
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
