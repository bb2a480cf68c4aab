"""Who is at which shard: ranks take shards one by one, so that a slow or dead one stalls nobody.

    with Leases(folder) as leases:
        if leases.take("part-00003"):
            ...
            leases.release("part-00003")

A lease is a small file beside the shard, made in one step. It only saves work: two ranks at the
same shard would write the same bytes. It is void when its process is gone (same machine), or when
it was not renewed for `STALE_SECONDS` (another machine, which may have died). Nothing here waits.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

STALE_SECONDS = 600.0  # a machine that renews nothing for so long is taken for dead
_RENEW_SECONDS = 30.0
_POLL_SECONDS = 0.5


class Leases:
    """Leases in a folder, renewed by a thread until they are released.

    Args:
        folder: shared by all ranks.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}
        self._held: set[Path] = set()
        self._done = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Leases:
        self._renewing.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._renewing.join()
        for path in list(self._held):
            self._drop(path)

    def take(self, name: str) -> bool:
        """Whether the lease of `name` is ours from now on; not, if a living rank has it."""
        path = self._path(name)
        if self._create(path) or (self._is_void(path) and self._take_over(path)):
            self._held.add(path)
            return True
        return False

    def release(self, name: str) -> None:
        self._drop(self._path(name))

    def wait_for_others(self) -> None:
        """Return when no other living rank holds a lease here. For a rank that will end with an
        error: launchers then end the others, in the middle of what they are at."""
        while any(path not in self._held and not self._is_void(path)
                  for path in self.folder.glob("*.lease")):
            time.sleep(_POLL_SECONDS)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lease"

    def _drop(self, path: Path) -> None:
        self._held.discard(path)
        path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        """A link, so that a lease has its owner's name in it from the first moment."""
        mine = self._private(path)
        mine.write_text(json.dumps(self._owner))
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return self._create_empty(path)
        finally:
            mine.unlink(missing_ok=True)
        return True

    def _create_empty(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            json.dump(self._owner, file)
        return True

    def _private(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.{self._owner['host']}-{os.getpid()}")

    def _is_void(self, path: Path) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
            owner = json.loads(path.read_text())
        except FileNotFoundError:
            return True
        except ValueError:  # its owner is writing it, or was killed before it could
            return age > _RENEW_SECONDS
        if owner["host"] == self._owner["host"]:
            return _born(owner["pid"]) != owner["born"]
        return age > STALE_SECONDS

    def _take_over(self, path: Path) -> bool:
        """Renaming is what only one of several ranks succeeds at."""
        mine = self._private(path)
        try:
            path.rename(mine)
        except FileNotFoundError:
            return False
        mine.unlink()
        return self._create(path)

    def _renew(self) -> None:
        while not self._done.wait(_RENEW_SECONDS):
            for path in list(self._held):
                if path.exists():  # else taken over: this process had been stopped for long
                    os.utime(path)


def _born(pid: int) -> str | None:
    """When a process was started, in clock ticks, for its id is used again; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
