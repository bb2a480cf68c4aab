"""Who asks, and which repositories and files there are."""

from __future__ import annotations

from urllib.parse import parse_qs

from tests.support.hub.handler import REPO, Handler
from tests.support.hub.repository import Repository, entry, parents


def whoami(handler: Handler) -> None:
    if handler.account is None:
        return handler.refuse(401, "Invalid credentials in Authorization header")
    return handler.answer(handler.account)


def create(handler: Handler) -> None:
    asked = handler.json()
    repo = f"{asked['organization'] or (handler.account or {}).get('name')}/{asked['name']}"
    if not handler.may_write(repo):
        return None
    key = (asked.get("type", "model"), repo)
    if key in handler.server.repos:
        return handler.refuse(409, "You already created this repo")
    handler.server.repos[key] = Repository(asked.get("visibility") == "private")
    return handler.answer({"url": f"{handler.server.address}/{repo}", "name": repo, "id": "0"})


def validate(handler: Handler) -> None:
    handler.answer({"errors": [], "warnings": []})


def info(handler: Handler, kind: str, repo: str, revision: str = "main") -> None:
    found = handler.visible(kind, repo)
    if found is None:
        return None
    files = found.at(revision)
    if files is None:
        return handler.refuse(404, "Invalid rev id", "RevisionNotFound")
    sha = found.head if revision == "main" else revision
    return handler.answer({
        "_id": "0", "id": repo, "sha": sha, "private": found.private, "tags": [],
        "gated": False, "disabled": False, "downloads": 0, "likes": 0,
        "siblings": [{"rfilename": name} for name in files],
    })


def tree(handler: Handler, kind: str, repo: str, revision: str, path: str | None) -> None:
    found = handler.visible(kind, repo)
    if found is None:
        return None
    prefix = f"{path.strip('/')}/" if path else ""
    below = {name: blob for name, blob in (found.at(revision) or {}).items()
             if name.startswith(prefix)}
    deep = handler.query.get("recursive", ["false"])[0].lower() == "true"
    folders = {prefix + part for name in below
               for part in parents(name.removeprefix(prefix))}
    items = [entry(name, blob) for name, blob in below.items()
             if deep or "/" not in name.removeprefix(prefix)]
    items += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
              for name in sorted(folders) if deep or "/" not in name.removeprefix(prefix)]
    if prefix and not items:
        return handler.refuse(404, "Not found", "EntryNotFound")
    return handler.answer(items)


def paths_info(handler: Handler, kind: str, repo: str, revision: str) -> None:
    found = handler.visible(kind, repo)
    if found is None:
        return None
    files = found.at(revision) or {}
    asked = handler.json().get("paths") or parse_qs(handler.body.decode()).get("paths", [])
    folders = {part for name in files for part in parents(name)}
    return handler.answer(
        [entry(name, files[name]) for name in asked if name in files]
        + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
           for name in asked if name in folders])


ROUTES = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate),
    ("GET", f"/api{REPO}", info),
    ("GET", f"/api{REPO}/revision/(?P<revision>[^/]+)", info),
    ("GET", f"/api{REPO}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", tree),
    ("POST", f"/api{REPO}/paths-info/(?P<revision>[^/]+)", paths_info),
]
