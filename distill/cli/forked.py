"""Commands as forks of this process, which has imported what they share.

torch and transformers take five to eight seconds of a core to import, once in each process.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

from distill.cli.calling import call_here, ending
from distill.endings import stops_with_its_parent, until_it_ends

# what every step of a Whisper student imports in the end; none of it starts a thread or a device
SHARED = (
    "torch",
    "torch.utils.data",
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.whisper.processing_whisper",
    "accelerate",
)


class Fork:
    """A function in a process of its own: a copy of this one."""

    def __init__(self, function: Callable[[], None]):
        self.process = multiprocessing.get_context("fork").Process(target=function)
        self.process.start()

    def wait(self) -> int:
        """Its exit code; negative where a signal ended it."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def send_signal(self, sig: int, /) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, sig)


def can_fork() -> bool:
    """Elsewhere libraries that were imported are not safe to copy."""
    return sys.platform.startswith("linux")


def import_shared() -> None:
    for name in SHARED:
        importlib.import_module(name)


def call_forked(name: str, arguments: list[str]) -> int:
    """Exit code of a command of `audio-distill`, without what comes before it."""
    stop_with_parent = stops_with_its_parent()

    def command() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if stop_with_parent:
            stop_with_parent()
        ending(partial(call_here, name), arguments)

    return until_it_ends(lambda: Fork(command))
