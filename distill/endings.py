"""How a command ends: one sentence, no traceback.

    if __name__ == "__main__":
        run(main)

Exit codes: 1 for what the user can mend (`ValueError`), 2 for a folder that cannot be written,
130 for Ctrl-C and SIGTERM, 141 where nobody reads on. Anything else is a fault of ours and keeps
its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# what torch.save and safetensors, which raise no OSError, say of a disk
_WRITING = re.compile(r"os error \d+|Os \{ code: \d+|No space left|Read-only file system"
                      r"|PytorchStreamWriter|enforce fail at inline_container")
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
GOES_ON = "What is complete is kept; with that mended, the same command goes on"


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with a sentence of how far it got."""


class OutputError(OSError):
    """A folder that cannot be written; the message names it."""

    def __str__(self) -> str:
        return str(self.args[0])


def run(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> None:
    """Call the `main` of a command; whatever a user can meet ends it with a sentence."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    _print_anything()
    try:
        if code := main(sys.argv[1:] if arguments is None else arguments):
            sys.exit(code)
        if sys.stdout is not None:  # as of `command >&-`
            sys.stdout.flush()
    except OutputError as error:
        _leave(f"error: {error}", 2)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        _leave(str(stop) or "Stopped. What is complete is kept, and the same command goes on.", 130)
    except BrokenPipeError:  # whoever was reading what is printed (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno is None:  # of the network
            raise
        _leave(f"error: {_said(error, None)}", 2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_anything() -> None:
    """A name that the terminal cannot show, or that is no text, is printed as \\xe9: no reason to
    end."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="backslashreplace")


def program(module: str) -> str:
    """What the --help of a module's options calls it: as it was called."""
    name = sys.argv[0]
    return name if name.startswith("audio-distill ") else f"python -m {module}"


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _leave(sentence: str, code: int) -> None:
    print(f"\n{sentence}" if code == 130 else sentence, file=sys.stderr, flush=True)
    sys.exit(code)


class Process(Protocol):
    """What is waited for: `subprocess.Popen`, or a `distill.cli.forked.Fork`."""

    def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def send_signal(self, sig: int, /) -> None: ...


def wait_for(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Exit code of a process, as a shell has it. Signals end it, not us: it says how far it got. If
    we are killed, it is told to stop (Linux): nobody would wait for it."""
    environment = dict(os.environ if environment is None else environment)
    if os.getcwd() not in sys.path:  # `python -m` would put it first: a folder eval/ of the user's
        environment["PYTHONSAFEPATH"] = "1"
    return until_it_ends(lambda: subprocess.Popen(command, env=environment,
                                                  preexec_fn=stops_with_its_parent()))


def until_it_ends(start: Callable[[], Process]) -> int:
    """Start a process and wait for it; signals are handed on. Its exit code, as a shell has it."""
    started: list[Process] = []
    is_early = False

    def hand_on(_number: int, _frame: object) -> None:
        nonlocal is_early
        is_early = not started
        for each in started:
            each.terminate()

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        process = start()
        started.append(process)
        if is_early:
            process.terminate()
        while True:
            try:
                code = process.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:  # a terminal's Ctrl-C has reached the process, too
                if not sys.stdin.isatty():
                    process.send_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def stops_with_its_parent() -> Callable[[], object] | None:
    """What a new process calls first: it gets SIGTERM when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl  # found before the fork, after which little is safe
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def writing_to(folder: str | Path) -> Iterator[None]:
    """What fails inside because a disk is full, read-only or forbidden becomes an OutputError
    that names the folder."""
    folder = Path(folder)
    try:
        yield
    except (OutputError, BrokenPipeError):
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OutputError(_said(error, folder)) from error
    except Exception as error:
        if isinstance(error, ValueError) or not _WRITING.search(str(error)):
            raise
        raise OutputError(f"cannot write to {folder}: {error}. {_room(folder)}{GOES_ON}") from error


def _said(error: OSError, folder: Path | None) -> str:
    """`cannot write to runs/NAME/pseudo_labels: No space left on device (part-00001.jsonl)`"""
    path = Path(error.filename) if isinstance(error.filename, str | Path) else None
    where = path.parent if path else folder
    if where is None:
        return f"{error.strerror}. {GOES_ON}"
    if folder is not None and where in folder.parents:  # it cannot even be made
        where = folder
    room = _room(where) if error.errno in _FULL else ""
    verb = "write to" if error.errno in (*_FULL, errno.EROFS) else "read or write in"
    name = f" ({path.name})" if path and path != where else ""
    return f"cannot {verb} {where}: {error.strerror}{name}. {room}{GOES_ON}"


def _room(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free there. "
