"""Ranges of files behind URLs, by fsspec: https:// and hf:// as they are, s3://, gs:// ... with
their package (s3fs, gcsfs). Accounts and addresses are fsspec's own settings (FSSPEC_S3_KEY ...).

What goes wrong for the moment is tried again after a while; then it is an `OSError`, as of a disk
that is away.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

from distill.data.formats.seekable import Seekable

T = TypeVar("T")

WAITS_SECONDS = (1.0, 4.0, 15.0)  # before what went wrong is tried again
TIMEOUT_SECONDS = 30.0  # without a byte, https alone; others have their own
# A server that did not answer, however patiently it was asked, is left alone for so long, and then
# asked without patience: a corpus has thousands of shards.
AWAY_SECONDS = 10.0
_away: dict[str, float] = {}  # host -> since when
_KEPT = 100_000
_sizes: dict[str, int] = {}  # of files, by URL; they are taken to stay as they are


class RemoteError(OSError):
    """Of the moment, like a disk that is away (`errno.EIO`)."""

    def __init__(self, said: str):
        super().__init__(errno.EIO, said)

    def __str__(self) -> str:
        return str(self.strerror)


def size_of(url: str) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: there is none.
        OSError: nobody answers.
    """
    if url not in _sizes:
        if len(_sizes) >= _KEPT:
            _sizes.clear()
        size = _patiently(url, lambda fs, path: fs.info(path)["size"])
        if size is None:
            raise RemoteError(f"{url}: the server does not say how long it is")
        _sizes[url] = int(size)
    return _sizes[url]


def read_range(url: str, start: int, size: int) -> bytes:
    """Exactly these bytes, and no more are asked for; fewer at the end of the file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: nobody answers, or not with a range.
    """
    def read(fs: Any, path: str) -> bytes:
        if fs.async_impl:
            data = fs.cat_file(path, start=start, end=start + size)
        else:  # their files read ahead
            with fs.open(path, "rb", cache_type="none") as file:
                file.seek(start)
                data = file.read(size)
        if len(data) > size:
            raise RemoteError(f"{url}: the server sends all of the file where a range is asked for")
        return data

    return _patiently(url, read)


def list_files(url: str) -> list[str]:
    """All files below a URL, relative to it, sorted.

    Raises:
        OSError: it cannot be listed, or not now.
    """
    return _patiently(url, lambda fs, path: sorted(
        name.removeprefix(path.rstrip("/")).lstrip("/") for name in fs.find(path)))


def find_urls(pattern: str) -> list[str]:
    """URLs that a pattern with * means, sorted; others stand for themselves.

    Raises:
        OSError: nobody answers.
    """
    if "*" not in pattern:
        return [pattern]
    return _patiently(pattern, lambda fs, path: sorted(map(fs.unstrip_protocol, fs.glob(path))))


def _patiently(url: str, ask: Callable[[Any, str], T]) -> T:
    host = url.split("/", 3)[2]
    since = _away.get(host)
    if since is not None and time.monotonic() - since < AWAY_SECONDS:
        raise RemoteError(f"{url}: {host} did not answer a moment ago")
    for seconds in (*(WAITS_SECONDS if since is None else ()), None):
        try:
            found = ask(*_open(url))
            _away.pop(host, None)
            return found
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system of fsspec has its own errors
            if seconds is None or isinstance(error, ImportError | PermissionError):
                if getattr(error, "status", None) is None:  # of HTTP: then somebody answers
                    _away[host] = time.monotonic()
                said = " ".join(str(error).split()) or type(error).__name__
                raise RemoteError(said if url in said else f"{url}: {said}") from error
        time.sleep(seconds)
    raise AssertionError


def _open(url: str) -> tuple[Any, str]:
    """fsspec keeps file systems, one for each process and thread."""
    import fsspec

    options = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        timeout = aiohttp.ClientTimeout(None, sock_connect=TIMEOUT_SECONDS,
                                        sock_read=TIMEOUT_SECONDS)
        options = {"client_kwargs": {"timeout": timeout}}
    return fsspec.core.url_to_fs(url, **options)


class RemoteFile(Seekable):
    """A file behind a URL, read a block at a time, forwards or with seeks."""

    def __init__(self, url: str, block_bytes: int):
        super().__init__(size_of(url))
        self.url, self.block_bytes = url, block_bytes
        self._start, self._data = 0, b""

    def readinto(self, buffer: Any) -> int:
        if self.place >= self.length:
            return 0
        if not self._start <= self.place < self._start + len(self._data):
            count = min(self.block_bytes, self.length - self.place)
            self._start, self._data = self.place, read_range(self.url, self.place, count)
        first = self.place - self._start
        data = self._data[first : first + len(buffer)]
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)
