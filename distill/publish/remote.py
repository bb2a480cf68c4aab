"""Bring a repository of the Hub to what is here, in one commit, or say that it is so already.

    outcome = publish(Target("me/x", "hub.repo_id"), {"config.json": path}, "Student of y")

What is there is compared first, by the checksums that the Hub keeps: what it has is not sent, and
where nothing differs no commit is made. A broken connection, an error of the server or somebody
else's commit in between starts the comparison again, so that a commit whose answer was lost is not
made twice. Large files go up before the commit; those that arrived stay, also for a later run.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from distill.publish.refusals import LOGIN, explain

WAITS = (5.0, 30.0)  # seconds before it is tried again; the client itself repeats requests, too


@dataclass(frozen=True)
class Target:
    """Where to: a repository, and the key of the recipe that names it."""

    repo_id: str
    key: str
    kind: str = "model"  # model | dataset
    private: bool = True


@dataclass(frozen=True)
class Outcome:
    """What was done. `address`: of the commit, or of the one that was there already."""

    address: str
    sent: Sequence[str] = field(default=())
    removed: Sequence[str] = field(default=())
    is_public: bool = False


def find_target(hub: Any, key: str, kind: str, make: str) -> Target:
    """Where a recipe publishes to; of a dry run that names no repository, OWNER/NAME.

    Args:
        hub: the section of the recipe.
        key: of it, with the repository's name.
        make: the target of make that publishes this, `push`.

    Raises:
        ValueError: no repository is named.
    """
    name = getattr(hub, key)
    if not name and not hub.dry_run:
        raise ValueError(f"hub.{key} is not set: add it to the recipe, or `make NAME.{make} "
                         f'SET="hub.{key}=you/your-{"model" if kind == "model" else "labels"}"`')
    return Target(name or "OWNER/NAME", f"hub.{key}", kind, hub.private)


def publish(
    target: Target, files: Mapping[str, Path], message: str, owned: Sequence[str] = ()
) -> Outcome:
    """Make the repository if it is not there, and commit what differs.

    Args:
        files: name in the repository -> file.
        owned: patterns of names; what is there, fits one and is not in `files` is removed, so that
            nobody loads the weights of an older student beside those of this one.

    Raises:
        ValueError: nobody is logged in, the repository is public although the target is private,
            or the Hub refuses or does not answer. Says what to do.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HTTPError  # of the client it uses; base of its own

    if not get_token():
        raise ValueError(f"no login for the Hub. {LOGIN}")
    quiet_bars()
    api, account = HfApi(), None
    for wait in (*WAITS, None):
        try:
            account = account or api.whoami()
            return _commit(api, target, files, message, owned)
        except (HTTPError, OSError, RuntimeError) as error:
            trouble = explain(error, target.repo_id, account)
            if wait is None or not trouble.may_pass:
                raise ValueError(f"{target.key}={target.repo_id}: {trouble.text}") from error
            print(f"{trouble.text}\nTrying again in {wait:g} s.", file=sys.stderr, flush=True)
            time.sleep(wait)
    raise AssertionError("the last round returns or raises")


def _commit(api, target: Target, files: Mapping[str, Path], message: str, owned) -> Outcome:
    """One round: compare, upload, commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    info = _open(api, target)
    place = {"repo_id": target.repo_id, "repo_type": target.kind}
    there = {item.path: item for item in api.list_repo_tree(
        **place, revision=info.sha, recursive=True) if hasattr(item, "blob_id")}
    sent = [name for name, path in files.items() if not is_same(path, there.get(name))]
    removed = [name for name in there
               if name not in files and any(fits(name, pattern) for pattern in owned)]
    if not sent and not removed:
        prefix = "" if target.kind == "model" else f"{target.kind}s/"
        address = f"{api.endpoint}/{prefix}{target.repo_id}/commit/{info.sha}"
        return Outcome(address, is_public=not info.private)
    commit = api.create_commit(
        **place, commit_message=message, parent_commit=info.sha,
        operations=[*(CommitOperationAdd(name, files[name]) for name in sent),
                    *(CommitOperationDelete(name) for name in removed)],
    )
    return Outcome(str(commit.commit_url), sent, removed, not info.private)


def _open(api, target: Target):
    """What the Hub says of the repository, which is made if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    place = {"repo_id": target.repo_id, "repo_type": target.kind}
    try:
        info = api.repo_info(**place)
    except RepositoryNotFoundError:
        api.create_repo(**place, private=target.private)
        return api.repo_info(**place)
    if target.private and not info.private:
        raise ValueError(
            f"{target.key}={target.repo_id} is a public repository but hub.private is true: make "
            "it private on the Hub, or set hub.private=false"
        )
    return info


def fits(name: str, pattern: str) -> bool:
    """Whether a file is one of those a pattern means; unlike fnmatch's own, its `*` stays in a
    folder."""
    return fnmatch(name, pattern) and name.count("/") == pattern.count("/")


def is_same(path: Path, there) -> bool:
    """Whether the Hub has this very file: it keeps the SHA-256 of large ones, and of the others
    the name that git gives to their content."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == there.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob_id


def describe(target: Target, files: Mapping[str, Path], outcome: Outcome) -> str:
    """What was done, for people."""
    if not outcome.sent and not outcome.removed:
        return f"Nothing to do: {target.repo_id} is up to date ({outcome.address})"
    size = sum(files[name].stat().st_size for name in outcome.sent)
    text = f"Sent {len(outcome.sent)} of {len(files)} files ({size_text(size)})"
    if outcome.removed:
        text += f", removed {', '.join(outcome.removed)}"
    visible = "public" if outcome.is_public else "private"
    return f"{text}. {target.repo_id} is {visible}.\nPublished: {outcome.address}"


def listing(target: Target, files: Mapping[str, Path]) -> str:
    """What would be sent: a line per file, and the sum."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    width = max(len(name) for name in sizes)
    lines = [f"  {name.ljust(width)}  {size_text(size):>10}" for name, size in sizes.items()]
    visible = "private" if target.private else "public"
    return "\n".join([
        f"Would send to {target.repo_id} ({visible} {target.kind}, in one commit):", *lines,
        f"  {'in all'.ljust(width)}  {size_text(sum(sizes.values())):>10}",
    ])


def size_text(size: int) -> str:
    """1234567 -> `1.2 MB`; a MB is 10^6 bytes."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} bytes"


def quiet_bars() -> None:
    """Bars of the client are for terminals; in a log file they are thousands of lines."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
