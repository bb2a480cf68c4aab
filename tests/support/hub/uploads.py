"""Files come by LFS, whole or in parts, and by commits."""

from __future__ import annotations

import base64
import hashlib
import json

from tests.support.hub.handler import REPO, Handler
from tests.support.hub.repository import Blob

LARGE = 20_000  # bytes; larger files and weights go to LFS
PART = 100_000  # bytes of a part; larger objects are uploaded in parts


def preupload(handler: Handler, kind: str, repo: str, revision: str) -> None:
    found = handler.visible(kind, repo)
    if found is None or not handler.may_write(repo):
        return None
    said = []
    for file in handler.json()["files"]:
        is_large = file["size"] > LARGE or file["path"].endswith((".safetensors", ".parquet"))
        there = found.files.get(file["path"])
        said.append({"path": file["path"], "uploadMode": "lfs" if is_large else "regular",
                     "shouldIgnore": False,
                     "oid": there and (there.sha256 if there.is_lfs else there.oid)})
    return handler.answer({"files": said})


def batch(handler: Handler, repo: str) -> None:
    if not handler.may_write(repo):
        return None
    objects = []
    for item in handler.json()["objects"]:
        oid, size = item["oid"], item["size"]
        if oid in handler.server.objects:  # no action: it is there
            objects.append({"oid": oid, "size": size})
            continue
        base = f"{handler.server.address}/storage/{oid}"
        upload = {"href": base, "header": {}}
        if size > PART:
            count = -(-size // PART)
            parts = {str(n): f"{base}/{n}" for n in range(1, count + 1)}
            upload = {"href": f"{base}/complete",
                      "header": {"chunk_size": str(PART), **parts}}
        verify = {"href": f"{handler.server.address}/{repo}.git/info/lfs/verify", "header": {}}
        objects.append({"oid": oid, "size": size,
                        "actions": {"upload": upload, "verify": verify}})
    return handler.answer({"transfer": "basic", "objects": objects})


def store(handler: Handler, oid: str) -> None:
    if hashlib.sha256(handler.body).hexdigest() != oid:
        return handler.refuse(400, "the content is not what its name says")
    handler.server.objects[oid] = handler.body
    return handler.answer({})


def store_part(handler: Handler, oid: str, number: str) -> None:
    handler.server.parts[oid, int(number)] = handler.body
    handler.answer({}, ETag=hashlib.md5(handler.body).hexdigest())


def complete(handler: Handler, oid: str) -> None:
    asked = handler.json()["parts"]
    parts = [handler.server.parts.pop((oid, part["partNumber"])) for part in asked]
    etags = [hashlib.md5(part).hexdigest() for part in parts]
    handler.body = b"".join(parts)
    if etags != [part["etag"] for part in asked]:
        return handler.refuse(400, "other parts than were uploaded")
    return store(handler, oid)


def verify(handler: Handler, repo: str) -> None:
    if not handler.may_write(repo):
        return None
    there = handler.server.objects.get(handler.json()["oid"])
    if there is None or len(there) != handler.json()["size"]:
        return handler.refuse(404, "no such object")
    return handler.answer({})


def commit(handler: Handler, kind: str, repo: str, revision: str) -> None:
    found = handler.visible(kind, repo)
    if found is None or not handler.may_write(repo):
        return None
    lines = [json.loads(line) for line in handler.body.splitlines()]
    header, files = lines[0]["value"], dict(found.files)
    if header.get("parentCommit", found.head) != found.head:
        return handler.refuse(412, "A commit has happened since. Please refresh and try again.")
    for line in lines[1:]:
        value, path = line["value"], line["value"]["path"]
        if line["key"] == "file":
            files[path] = Blob(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in handler.server.objects:
                return handler.refuse(400, f"{path}: its content was never uploaded")
            files[path] = Blob(handler.server.objects[value["oid"]], True)
        else:
            del files[path]
    sha = found.commit(header["summary"], files)
    prefix = "datasets/" if kind == "dataset" else ""
    return handler.answer({"commitUrl": f"{handler.server.address}/{prefix}{repo}/commit/{sha}",
                           "commitOid": sha, "success": True})


ROUTES = [
    ("POST", f"/api{REPO}/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", f"/api{REPO}/commit/(?P<revision>[^/]+)", commit),
    ("POST", r"/(datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", batch),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify", verify),
    ("POST", "/storage/(?P<oid>[0-9a-f]{64})/complete", complete),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})/(?P<number>[0-9]+)", store_part),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", store),
]
