"""A loopback server with OpenAI's transcription call, which goes wrong as often as it is told."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class TranscriptionServer:
    """What was asked and answered.

    Attributes:
        fault: number of the request (from 0), form -> the fault to answer with, or None:
            a status, (status, headers), "slow", "cut", "closed" or bytes that are the whole answer.
        answered: how often each audio file was answered as it should be, by its hash.
        forms: fields of each request, without the file.
        most_at_once: requests that were being answered at the same time.
    """

    def __init__(self):
        self.fault: Callable[[int, dict], object] = lambda number, form: None
        self.answered: Counter[str] = Counter()
        self.forms: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.delay = 0.0
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        form, audio = _parts(body)
        with self._lock:
            number = len(self.forms)
            self.forms.append(form)
            self.headers.append(dict(request.headers))
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay)
            self._answer(request, self.fault(number, form), form, audio)
        finally:
            with self._lock:
                self._at_once -= 1

    def _answer(self, request, fault, form: dict, audio: bytes) -> None:
        name = hashlib.sha256(audio).hexdigest()
        data = json.dumps(answer_of(name, form)).encode()
        status, headers = 200, {}
        if isinstance(fault, int):
            fault = fault, {}
        if isinstance(fault, tuple):
            (status, headers), data = fault, b'{"error": {"message": "not now"}}'
        elif isinstance(fault, bytes):
            data = fault
        elif fault == "slow":
            time.sleep(0.5)
        if fault == "closed":
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if fault == "cut":
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault is None:
            with self._lock:
                self.answered[name] += 1
        request.wfile.write(data)


def answer_of(name: str, form: dict) -> dict:
    """The text follows from the audio alone."""
    text = f"text {name[:8]}"
    if form["response_format"] == "json":
        return {"text": text}
    return {"text": text, "language": "english", "segments": [
        {"start": 0.0, "end": 1.0, "text": " text", "avg_logprob": -0.25, "no_speech_prob": 0.01},
        {"start": 1.0, "end": 2.5, "text": f" {name[:8]}", "avg_logprob": -0.25}]}


def _parts(body: bytes) -> tuple[dict[str, str], bytes]:
    """Fields and the file of a form."""
    boundary = body[: body.index(b"\r\n")]
    form, audio = {}, b""
    for part in body.split(boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)[1].decode()
        if name == "file":
            audio = content[:-2]
        else:
            form[name] = content[:-2].decode()
    return form, audio


@contextmanager
def transcription_server() -> Iterator[tuple[TranscriptionServer, str]]:
    """The server and its address, ending in /v1."""
    server = TranscriptionServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else a small answer waits 40 ms for its second half

        def do_POST(self):
            if self.path == "/v1/audio/transcriptions":
                server.answer(self)
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_):
            """Of clients that were killed."""

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
