"""Files on disk: whole or absent; a full disk is an error in plain words; what killed writers left
is removed.

Temporary names carry host and process, so that a process can tell what a killed one left behind
from what a living one is writing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.data.files import sync_folder
from distill.endings import OutputError

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_TEMPORARY = re.compile(
    r"\.(?:\.?\w+\.(?:json|yaml)|shard-[0-9a-f]{32}\.h5)\.(?P<host>.+)\.(?P<pid>\d+)\.tmp"
)
# A host that is gone (a container's name is new each time) cannot be asked whether its process
# lives; no write takes a day.
_OTHER_HOST_SECONDS = 24 * 3600.0
_writing: set[Path] = set()  # of this process: a restarted container gets the same process id


class StoreError(ValueError):
    """A store that cannot be used as asked; the message says what to do."""


class FullDiskError(StoreError, OutputError):
    """No room to write; nothing is left of the attempt."""


def publish(path: Path, data: bytes | memoryview, replace: bool = True) -> None:
    """Write bytes to `path` in one step: a killed process leaves all of them or none.

    Args:
        replace: False keeps a file that is already there, also one that appears meanwhile.

    Raises:
        StoreError: the disk is full; nothing is left of the attempt.
    """
    size = memoryview(data).nbytes
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise _full(path, size, "")
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    _writing.add(temporary)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path, replace)
    except OSError as error:
        if error.errno in _FULL:
            temporary.unlink(missing_ok=True)  # before the free space is measured
            raise _full(path, size, f" ({error.strerror})") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
        _writing.discard(temporary)
    sync_folder(path.parent)


def publish_json(path: Path, value: Any, replace: bool = True) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    publish(path, text.encode("utf-8", "surrogatepass"), replace)


def _rename(temporary: Path, path: Path, replace: bool) -> None:
    if not replace:
        try:
            os.link(temporary, path)  # unlike a rename, it fails when the name is taken
            return
        except FileExistsError:
            return
        except OSError:
            pass  # a file system without hard links: the last of two creators wins
    os.replace(temporary, path)


def _full(path: Path, needed: int, reason: str) -> FullDiskError:
    free = shutil.disk_usage(path.parent).free
    return FullDiskError(
        f"{path.parent}: no room to write {path.name}{reason}: it needs {needed:,} bytes, "
        f"{free:,} are free on that disk. All sealed shards stay; make room and run the same "
        "command: it goes on from there"
    )


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that are gone; those of living ones stay."""
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and path not in _writing:
            with suppress(FileNotFoundError):  # its owner has just finished
                if _is_dead(path, match["host"], int(match["pid"])):
                    path.unlink()


def _is_dead(path: Path, host: str, pid: int) -> bool:
    if host != socket.gethostname():
        return time.time() - path.stat().st_mtime > _OTHER_HOST_SECONDS
    if pid == os.getpid():
        return True  # not one this process is writing: see `_writing`
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # alive, of another user
    return False


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
