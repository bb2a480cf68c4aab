"""A request to the Hub on loopback: what is read, what is answered, and who may."""

from __future__ import annotations

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub.repository import Fault, Repository

if TYPE_CHECKING:
    from tests.support.hub.server import HubServer

BLOCK = 16_384  # bytes read at a time
REPO = r"/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer are two writes
    server: HubServer

    def do(self) -> None:
        url = urlsplit(self.path)
        self.query, self.path_only = parse_qs(url.query), unquote(url.path)
        self.fault = fault = self._fault()
        self.body = self._read(fault)
        if fault is not None and fault.what == "status":
            return self.refuse(fault.status, "injected")
        if fault is not None and fault.what == "call":
            fault.call()
        for method, pattern, answer in self.server.routes:
            found = re.fullmatch(pattern, self.path_only)
            if found and method in (self.command, "ANY"):
                return answer(self, **found.groupdict())
        return self.refuse(404, f"no such address: {self.path}")

    do_GET = do_POST = do_PUT = do_HEAD = do

    def _fault(self) -> Fault | None:
        with self.server.lock:
            for fault in self.server.faults:
                if fault.times and re.search(fault.pattern, f"{self.command} {self.path_only}"):
                    fault.times -= 1
                    return fault
        return None

    def _read(self, fault: Fault | None) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self._read_chunks()
        left, blocks = int(self.headers.get("Content-Length", 0)), []
        cut_at = left // 2 if fault is not None and fault.what == "cut" else -1
        while left:
            if left <= cut_at or cut_at == 0:
                self.note(0)
                self.connection.close()
                raise ConnectionAbortedError
            if fault is not None and fault.what == "slow":
                time.sleep(fault.seconds)
            block = self.rfile.read(min(BLOCK, left))
            if self.command == "PUT":
                self.server.received += len(block)
            left -= len(block)
            blocks.append(block)
        return b"".join(blocks)

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    # answers

    def note(self, status: int) -> None:
        self.server.log.append((self.command, self.path_only, status))

    def answer(self, value, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.note(status)
        if self.fault is not None and self.fault.what == "lost":
            self.connection.close()
            raise ConnectionAbortedError
        self.send_response(status)
        known = {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
        for name, text in known.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer({"error": message}, status, **headers)

    def log_message(self, *_):
        pass

    # who asks

    @property
    def account(self) -> dict | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.server.tokens.get(token)

    def may_write(self, repo: str) -> bool:
        """Says so itself if not."""
        account, owner = self.account, repo.split("/")[0]
        if account is None:
            self.refuse(401, "Invalid credentials in Authorization header")
            return False
        role = account["auth"]["accessToken"]["role"]
        names = [account["name"], *(org["name"] for org in account["orgs"])]
        if role != "write" or owner not in names:
            self.refuse(403, "You don't have the required permissions to write to this repository")
            return False
        return True

    def visible(self, kind: str, repo: str) -> Repository | None:
        """The repository, or the answer that there is none."""
        if "Authorization" in self.headers and self.account is None:
            self.refuse(401, "Invalid credentials in Authorization header")
            return None
        found = self.server.repos.get((kind, repo))
        owners = [self.account["name"]] if self.account else []
        if found is None or (found.private and repo.split("/")[0] not in owners):
            self.refuse(404 if self.account else 401, "Repository not found", "RepoNotFound")
            return None
        return found
