"""A loopback server of files with byte ranges, which goes wrong as often as it is told and counts
what it sends."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer:
    """Serves the files of a folder.

    Attributes:
        url: of the folder.
        fault: number of the GET (from 0), path -> None, a status, "cut", "closed", "slow" or
            "whole" (the range is ignored).
        requests: (method, path, range) of each request.
        sent: bytes of bodies.
        most_at_once: slow requests that were being answered at the same time.
    """

    def __init__(self, folder: Path):
        self.folder, self.url = folder, ""
        self.fault: Callable[[int, str], object] = lambda number, path: None
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = self.slow_seconds = 0
        self.most_at_once = self._at_once = 0
        self._gets, self._lock = 0, threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        wanted = request.headers.get("Range")
        with self._lock:
            self.requests.append((request.command, request.path, wanted))
            number, self._gets = self._gets, self._gets + with_body
        fault = self.fault(number, request.path) if with_body else None
        path = self.folder / request.path.lstrip("/")
        if isinstance(fault, int) or not path.is_file():
            request.send_error(fault if isinstance(fault, int) else 404)
            return
        if fault == "closed":
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "slow":
            with self._lock:
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
            time.sleep(self.slow_seconds)
            with self._lock:
                self._at_once -= 1
        data, status = path.read_bytes(), 200
        if wanted and fault != "whole":
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            total, data, status = len(data), data[first : last + 1], 206
            if not data:
                request.send_error(416)
                return
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Accept-Ranges", "bytes")
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{total}")
        request.end_headers()
        if not with_body:
            return
        if fault == "cut":
            data = data[: len(data) // 2]
        with self._lock:
            self.sent += len(data)
        request.wfile.write(data)
        if fault == "cut":
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def range_server(
    folder: Path, address: str = "127.0.0.1", make: Callable[[Callable], ThreadingHTTPServer] | None
    = None
) -> Iterator[RangeServer]:
    """
    Args:
        make: calls what it is given, in the network where `address` is.
    """
    server = RangeServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a small answer waits 40 ms for its second half

        def do_GET(self):
            server.answer(self, with_body=True)

        def do_HEAD(self):
            server.answer(self, with_body=False)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """Of connections that were cut."""

    def listen() -> ThreadingHTTPServer:
        return Quiet((address, 0), Handler)

    http = listen() if make is None else make(listen)
    server.url = f"http://{address}:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
