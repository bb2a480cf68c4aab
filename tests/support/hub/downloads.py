"""Files go out, whole or from some byte on; large ones by a redirect to the storage."""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import partial

from tests.support.hub.handler import Handler


def resolve(handler: Handler, repo: str, revision: str, path: str, kind: str) -> None:
    found = handler.visible(kind, repo)
    if found is None:
        return None
    files = found.at(revision)
    if files is None or path not in files:
        code = "RevisionNotFound" if files is None else "EntryNotFound"
        return handler.refuse(404, f"{path} is not there", code)
    blob = files[path]
    sha = found.head if revision == "main" else revision
    common = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "Date": formatdate(usegmt=True)}
    if not blob.is_lfs:
        return content(handler, blob.content, ETag=f'"{blob.oid}"', **common)
    # another host, as the Hub's storage is: the client asks the Hub alone about a file
    where = f"http://localhost:{handler.server.server_address[1]}/storage/{blob.sha256}"
    return handler.answer(b"", 302, Location=where, ETag=f'"{blob.oid}"', **common, **{
        "X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))})


def download(handler: Handler, oid: str) -> None:
    if oid not in handler.server.objects:
        return handler.refuse(404, "no such object")
    return content(handler, handler.server.objects[oid], ETag=f'"{oid}"')


def content(handler: Handler, content: bytes, **headers: str) -> None:
    headers["Content-Type"] = "application/octet-stream"
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if not found:
        return handler.answer(content, **headers)
    first, last = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
    return handler.answer(content[first : last + 1], 206, **headers,
                          **{"Content-Range": f"bytes {first}-{last}/{len(content)}"})


ROUTES = [
    ("ANY", "/storage/(?P<oid>[0-9a-f]{64})", download),
    *(("ANY", rf"/{prefix}(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
       partial(resolve, kind=kind)) for prefix, kind in (("datasets/", "dataset"), ("", "model"))),
]
