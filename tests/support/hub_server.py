"""A Hub on loopback, as much of it as the real client asks for: accounts, repositories with
commits, LFS uploads in one or many parts, downloads with a redirect for large files, and faults.

What it answers was read from the client (huggingface_hub 2.4) and from the Hub's documentation. It
has no Xet storage: the client must be told with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_repository import Blob, Fault, Repository, entry, parents

LARGE = 20_000  # bytes; larger files and weights go to LFS
PART = 100_000  # bytes of a part; larger objects are uploaded in parts
BLOCK = 16_384
REPO = r"/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)"


class HubServer(ThreadingHTTPServer):
    """`address` is for HF_ENDPOINT; tests read and write the rest.

    Attributes:
        tokens: token -> what the Hub knows of it.
        log: (method, path, status) of every request, in order.
        objects: LFS storage: sha256 -> content. `received`: bytes of uploads, cut ones too.
    """

    daemon_threads = True

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
        for method, pattern, answer in ROUTES:
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

    # the API

    def whoami(self) -> None:
        if self.account is None:
            return self.refuse(401, "Invalid credentials in Authorization header")
        return self.answer(self.account)

    def create(self) -> None:
        asked = self.json()
        repo = f"{asked['organization'] or (self.account or {}).get('name')}/{asked['name']}"
        if not self.may_write(repo):
            return None
        key = (asked.get("type", "model"), repo)
        if key in self.server.repos:
            return self.refuse(409, "You already created this repo")
        self.server.repos[key] = Repository(asked.get("visibility") == "private")
        return self.answer({"url": f"{self.server.address}/{repo}", "name": repo, "id": "0"})

    def validate(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        found = self.visible(kind, repo)
        if found is None:
            return None
        files = found.at(revision)
        if files is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        sha = found.head if revision == "main" else revision
        return self.answer({
            "_id": "0", "id": repo, "sha": sha, "private": found.private, "tags": [],
            "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": name} for name in files],
        })

    def tree(self, kind: str, repo: str, revision: str, path: str | None) -> None:
        found = self.visible(kind, repo)
        if found is None:
            return None
        prefix = f"{path.strip('/')}/" if path else ""
        below = {name: blob for name, blob in (found.at(revision) or {}).items()
                 if name.startswith(prefix)}
        deep = self.query.get("recursive", ["false"])[0].lower() == "true"
        folders = {prefix + part for name in below
                   for part in parents(name.removeprefix(prefix))}
        items = [entry(name, blob) for name, blob in below.items()
                 if deep or "/" not in name.removeprefix(prefix)]
        items += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
                  for name in sorted(folders) if deep or "/" not in name.removeprefix(prefix)]
        if prefix and not items:
            return self.refuse(404, "Not found", "EntryNotFound")
        return self.answer(items)

    def paths_info(self, kind: str, repo: str, revision: str) -> None:
        found = self.visible(kind, repo)
        if found is None:
            return None
        files = found.at(revision) or {}
        asked = self.json().get("paths") or parse_qs(self.body.decode()).get("paths", [])
        folders = {part for name in files for part in parents(name)}
        return self.answer(
            [entry(name, files[name]) for name in asked if name in files]
            + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
               for name in asked if name in folders])

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        found = self.visible(kind, repo)
        if found is None or not self.may_write(repo):
            return None
        said = []
        for file in self.json()["files"]:
            is_large = file["size"] > LARGE or file["path"].endswith((".safetensors", ".parquet"))
            there = found.files.get(file["path"])
            said.append({"path": file["path"], "uploadMode": "lfs" if is_large else "regular",
                         "shouldIgnore": False,
                         "oid": there and (there.sha256 if there.is_lfs else there.oid)})
        return self.answer({"files": said})

    def batch(self, repo: str, kind: str = "model") -> None:
        if not self.may_write(repo):
            return None
        objects = []
        for item in self.json()["objects"]:
            oid, size = item["oid"], item["size"]
            if oid in self.server.objects:  # no action: it is there
                objects.append({"oid": oid, "size": size})
                continue
            base = f"{self.server.address}/storage/{oid}"
            upload = {"href": base, "header": {}}
            if size > PART:
                count = -(-size // PART)
                parts = {str(n): f"{base}/{n}" for n in range(1, count + 1)}
                upload = {"href": f"{base}/complete",
                          "header": {"chunk_size": str(PART), **parts}}
            verify = {"href": f"{self.server.address}/{repo}.git/info/lfs/verify", "header": {}}
            objects.append({"oid": oid, "size": size,
                            "actions": {"upload": upload, "verify": verify}})
        return self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.refuse(400, "the content is not what its name says")
        self.server.objects[oid] = self.body
        return self.answer({})

    def store_part(self, oid: str, number: str) -> None:
        self.server.parts[oid, int(number)] = self.body
        self.answer({}, ETag=hashlib.md5(self.body).hexdigest())

    def complete(self, oid: str) -> None:
        asked = self.json()["parts"]
        parts = [self.server.parts.pop((oid, part["partNumber"])) for part in asked]
        etags = [hashlib.md5(part).hexdigest() for part in parts]
        self.body = b"".join(parts)
        if etags != [part["etag"] for part in asked]:
            return self.refuse(400, "other parts than were uploaded")
        return self.store(oid)

    def verify(self, repo: str) -> None:
        if not self.may_write(repo):
            return None
        there = self.server.objects.get(self.json()["oid"])
        if there is None or len(there) != self.json()["size"]:
            return self.refuse(404, "no such object")
        return self.answer({})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        found = self.visible(kind, repo)
        if found is None or not self.may_write(repo):
            return None
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, files = lines[0]["value"], dict(found.files)
        if header.get("parentCommit", found.head) != found.head:
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                files[path] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return self.refuse(400, f"{path}: its content was never uploaded")
                files[path] = Blob(self.server.objects[value["oid"]], True)
            else:
                del files[path]
        sha = found.commit(header["summary"], files)
        prefix = "datasets/" if kind == "dataset" else ""
        return self.answer({"commitUrl": f"{self.server.address}/{prefix}{repo}/commit/{sha}",
                            "commitOid": sha, "success": True})

    def resolve(self, repo: str, revision: str, path: str, kind: str = "model") -> None:
        found = self.visible(kind, repo)
        if found is None:
            return None
        files = found.at(revision)
        if files is None or path not in files:
            code = "RevisionNotFound" if files is None else "EntryNotFound"
            return self.refuse(404, f"{path} is not there", code)
        blob = files[path]
        sha = found.head if revision == "main" else revision
        common = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Date": formatdate(usegmt=True)}
        if not blob.is_lfs:
            return self.content(blob.content, ETag=f'"{blob.oid}"', **common)
        # another host, as the Hub's storage is: the client asks the Hub alone about a file
        where = f"http://localhost:{self.server.server_address[1]}/storage/{blob.sha256}"
        return self.answer(b"", 302, Location=where, ETag=f'"{blob.oid}"', **common, **{
            "X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))})

    def download(self, oid: str) -> None:
        if oid not in self.server.objects:
            return self.refuse(404, "no such object")
        return self.content(self.server.objects[oid], ETag=f'"{oid}"')

    def content(self, content: bytes, **headers: str) -> None:
        headers["Content-Type"] = "application/octet-stream"
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return self.answer(content, **headers)
        first, last = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
        return self.answer(content[first : last + 1], 206, **headers,
                           **{"Content-Range": f"bytes {first}-{last}/{len(content)}"})


ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("GET", f"/api{REPO}", Handler.info),
    ("GET", f"/api{REPO}/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", f"/api{REPO}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", Handler.tree),
    ("POST", f"/api{REPO}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("POST", f"/api{REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", f"/api{REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    ("POST", r"/(datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify", Handler.verify),
    ("POST", "/storage/(?P<oid>[0-9a-f]{64})/complete", Handler.complete),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})/(?P<number>[0-9]+)", Handler.store_part),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", Handler.store),
    ("ANY", "/storage/(?P<oid>[0-9a-f]{64})", Handler.download),
]
for _prefix, _kind in (("datasets/", "dataset"), ("", "model")):
    ROUTES.append((
        "ANY", rf"/{_prefix}(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        lambda self, kind=_kind, **parts: Handler.resolve(self, kind=kind, **parts)))
