"""What a Hub on loopback keeps: repositories with their commits; and what can go wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Blob:
    """A file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        """The name git gives to what it keeps: the file, or the pointer to a large one."""
        kept = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(kept) + kept).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
                f"size {len(self.content)}\n").encode()


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)

    def __post_init__(self):
        self.commit("initial commit", {".gitattributes": Blob(b"*.bin filter=lfs\n", False)})

    def commit(self, message: str, files: dict[str, Blob]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits.append((sha, message, files))
        return sha

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, Blob]:
        return self.commits[-1][2]

    def at(self, revision: str) -> dict[str, Blob] | None:
        found = [files for sha, _, files in self.commits if sha == revision]
        return self.files if revision == "main" else found[0] if found else None


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" fits.

    `status`: refused with it. `cut`: the connection is closed when half of the body is read.
    `lost`: done, but nobody is told. `slow`: `seconds` a block. `call`: that is called first.
    """

    what: str
    pattern: str
    times: int = 1
    status: int = 500
    seconds: float = 0.005
    call: Callable[[], object] | None = None


def parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def entry(name: str, blob: Blob) -> dict:
    """A file as the tree of a repository shows it."""
    large = {"lfs": {"oid": blob.sha256, "size": len(blob.content),
                     "pointerSize": len(blob.pointer)}} if blob.is_lfs else {}
    return {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": name, **large}
