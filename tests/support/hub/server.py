"""A Hub on loopback, as much of it as the real client asks for: accounts, repositories with
commits, LFS uploads in one or many parts, downloads with a redirect for large files, and faults.

What it answers was read from the client (huggingface_hub 2.4) and from the Hub's documentation. It
has no Xet storage: the client must be told with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import re
import sys
import threading
from http.server import ThreadingHTTPServer

from tests.support.hub import downloads, repositories, uploads
from tests.support.hub.handler import Handler
from tests.support.hub.repository import Fault, Repository


class HubServer(ThreadingHTTPServer):
    """`address` is for HF_ENDPOINT; tests read and write the rest.

    Attributes:
        tokens: token -> what the Hub knows of it.
        routes: (method or ANY, pattern of the path, function of a handler and of the groups
            in the pattern).
        log: (method, path, status) of every request, in order.
        objects: LFS storage: sha256 -> content. `received`: bytes of uploads, cut ones too.
    """

    daemon_threads = True
    routes = (*repositories.ROUTES, *uploads.ROUTES, *downloads.ROUTES)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.received = 0
        self.errors: list[BaseException] = []
        self.log: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.tokens = {"hf_good": self.account("somebody", "write"),
                       "hf_read": self.account("somebody", "read"),
                       "hf_other": self.account("other", "write"),
                       "hf_fine": self.account("somebody", "fineGrained")}

    @staticmethod
    def account(name: str, role: str) -> dict:
        return {"type": "user", "name": name, "orgs": [{"name": f"{name}-lab"}],
                "auth": {"accessToken": {"role": role}}}

    def count(self, pattern: str) -> int:
        """Requests whose "METHOD path" fits."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path, _ in self.log)

    def start(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def handle_error(self, *_):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # connections are cut, by faults and by clients
            self.errors.append(error)
