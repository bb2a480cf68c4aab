"""Whether a name can be an id of the Hub, found before the Hub is asked, which takes half a minute.

    check_hub_id("runs/demo/studnet", "--model")   # ValueError: ... did you mean runs/demo/student?

For names that are no file or folder: what looks like a path (`./x`, `/x`, `~/x`, `a/b/c`, `a\\b`, a
file's name), lies in a folder that is there, or is nearly the name of one, is a misspelt path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath

_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)  # of an owner, of a name
_FILE = re.compile(  # ids may have dots (whisper-base.en); these are files
    r"\.(jsonl?|[ct]sv|txt|ya?ml|tar|t?gz|zip|7z|rar|parquet|arrow|h5|hdf5|npy|onnx|bin|pt|pth|ckpt"
    r"|safetensors|gguf|wav|flac|mp3|ogg|opus|m4a|scp)", re.IGNORECASE)
_URL = re.compile(r"(?:https?://)?(?:www\.)?huggingface\.co/(?:datasets/)?([\w.-]+/[\w.-]+)|"
                  r"(?:hf://)?(?:datasets|models)/([\w.-]+/[\w.-]+)")
_NEAR = 0.75  # similarity of two names from which on one is taken for the other, misspelt
_LISTED = 5


def check_hub_id(name: str, what: str, known: Sequence[str] = ()) -> None:
    """Refuse what is no id of the Hub.

    Args:
        name: as the user gave it; there is no such file or folder (else nothing is checked).
        what: the argument or key, for the sentence: `teacher.model`.
        known: words that would do as well, such as names of recipes.

    Raises:
        ValueError: with the nearest path there is, or what an id looks like.
    """
    if name and os.path.exists(os.path.expanduser(name)):
        if not os.path.exists(name):
            raise ValueError(f"{what}: the shell does not expand ~ here: say "
                             f"{os.path.expanduser(name)}")
        return
    if url := _URL.match(name):
        raise ValueError(f"{what}: {name} is an address: say {url[1] or url[2]}")
    reason = _path_reason(name)
    near = _nearest_name(name, sorted(known)) or nearest_path(name)
    if reason is None and near is None:
        return
    if os.path.islink(name):
        raise ValueError(f"{what}: {name} is a link to {os.readlink(name)}, which is not there")
    hint = f"did you mean {near}?" if near else _what_is_there(name)
    if reason is None:
        reason = "an id of the Hub would be OWNER/NAME"
    kind = "file" if _is_file_name(name) else "folder"
    raise ValueError(f"{what}: there is no {kind} {name or repr(name)} ({reason}); {hint}")


def is_page(name: str) -> bool:
    """Whether it is the address of a page of the Hub, as browsers show it: no file can be read
    there."""
    return re.fullmatch(r"https?://(?:www\.)?huggingface\.co/(?:datasets/)?[\w.-]+/[\w.-]+"
                        r"(?:/tree/[\w./-]+)?/?", name, re.IGNORECASE) is not None


def _path_reason(name: str) -> str | None:
    """Why a name is a path, or at least no id; None: it may be an id."""
    owner, slash, rest = name.partition("/")
    if re.match(r"[./~]|[A-Za-z]:", name) or "\\" in name:
        return "it is a path"
    if "/" in rest or (slash and not rest):
        return "it is a path: an id of the Hub has one slash, OWNER/NAME"
    if _is_file_name(name):
        return "it is the name of a file"
    if slash and os.path.isdir(owner):
        return f"it is a path: there is a folder {owner}"
    if not slash or not all(map(_ID.fullmatch, (owner, rest))) or re.search(r"--|\.\.", name):
        return "an id of the Hub is OWNER/NAME"
    return None


def _is_file_name(name: str) -> bool:
    return _FILE.fullmatch(os.path.splitext(name)[1]) is not None


def nearest_path(name: str) -> str | None:
    """A file or folder that is there and nearly called so, every part of it; None: none is."""
    path = PurePath(os.path.expanduser(name.replace("\\", "/")))
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0:]:
        exact = found / part
        if part != ".." and not exact.exists():
            match = _nearest_name(part, _names_in(found))
            if match is None:
                return None
            exact = found / match
        found = exact
    return None if str(found) in (".", path.anchor, name) else str(found)


def _nearest_name(part: str, names: list[str]) -> str | None:
    by_folded = {name.casefold(): name for name in reversed(names)}
    near = get_close_matches(part.casefold(), by_folded, n=1, cutoff=_NEAR)
    return by_folded[near[0]] if near else None


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _what_is_there(name: str) -> str:
    """`in data there are: a, b, c`, of the last folder on the way that is there."""
    folder = Path(os.path.expanduser(name.replace("\\", "/"))).parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    names = [each for each in _names_in(folder) if (folder / each).is_dir()]
    where = "this folder" if folder == Path() else str(folder)
    more = ", ..." if len(names) > _LISTED else ""
    return (f"the folders in {where} are {', '.join(names[:_LISTED])}{more}" if names
            else f"there is no folder in {where}")
