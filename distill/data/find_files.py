"""Files below a folder, the same for every stage: imports, eval.transcribe, eval.tag.

    for path in find_audio(Path("recordings")): ...

Links to folders are followed, each real folder once. What the system put there (`._a.wav` of a Mac,
`__MACOSX`, `@eaDir`, hidden folders) is left out by name, counted and printed. So is sound under a
name that is none of sound (`rec001`, `a.wav.part`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from pathlib import Path, PurePath

# By name only what may be audio is looked for; what it is, its content says (`distill.data.audio`).
_LIBSNDFILE = (
    "wav wave wavex bwf rf64 flac ogg oga opus mp3 mp2 mp1 mpga mpa aiff aif aifc au snd w64 caf "
    "sph nist wv1 wv2 voc paf fap pvf svx 8svx avr htk sds sd2 sf ircam xi"
)
_FFMPEG = (
    "m4a m4b m4r mp4 m4v mov qt 3gp 3gpp 3g2 webm weba mkv mka avi wmv wma asf flv f4v mpg mpeg "
    "ogv ogx aac adts loas latm ac3 eac3 dts amr awb spx ape wv tta tak mpc dsf dff ra rm shn qcp"
)
# No reader can know what is in these: listed, so that they are counted and not passed over.
_WITHOUT_HEADER = "pcm raw gsm g722 ulaw alaw ul al vox sln sln16"
AUDIO_SUFFIXES = frozenset(
    f".{name}" for names in (_LIBSNDFILE, _FFMPEG, _WITHOUT_HEADER) for name in names.split())

# Folders of systems and network disks; whatever begins with a dot is left out besides.
_SYSTEM_NAMES = frozenset({
    "__MACOSX", "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "$RECYCLE.BIN",
    "RECYCLER", "System Volume Information", "lost+found", "Network Trash Folder",
    "Temporary Items", "__pycache__", "Thumbs.db", "desktop.ini",
})
_EXTENSION = re.compile(r"\.[A-Za-z]\w*")
# How files of sound begin; behind "...." come four bytes of anything.
_BEGINNINGS = re.compile(
    rb"RIFF....WAVE|RF64|fLaC|OggS|ID3[\2-\4]|\xff[\xfb\xfa\xf3\xf2]|FORM....AIF[FC]|\.snd|NIST_1A"
    rb"|caff|#!AMR|wvPK|\x1aE\xdf\xa3|....ftyp(M4|isom|mp4|qt)", re.DOTALL)
_LOOKED_AT = 1000  # files of other names, whose beginnings are read


def find_audio(folder: Path) -> list[Path]:
    """Files below a folder with a name of audio, sorted; see `find_files`."""
    return find_files(folder, AUDIO_SUFFIXES, True)


def find_files(
    folder: Path, suffixes: Collection[str], is_sound: bool = False
) -> list[Path]:
    """Files below a folder whose names end with one of `suffixes` in any case, sorted.

    A link to nothing is among them if it may stand for such a file, or for a folder of them: who
    opens it gets `missing_file`, and counts it. A folder that is reached in several ways comes
    once, at its real place if that is below `folder`. How many files were left out by name is
    printed.

    Args:
        is_sound: sound is looked for: what has another name, and begins like sound, is printed.

    Raises:
        ValueError: a folder that is not there or cannot be listed.
    """
    endings = tuple(suffixes)
    found, left_out, links = [], [], []
    others: list[Path] = []
    seen: set[tuple[int, int]] = set()
    folder = Path(folder)
    root = Path(os.path.realpath(folder))
    _walk(folder, endings, seen, found, left_out, links, others)
    while links:  # behind what lies here itself; each may lead to more of them
        link = min(links)
        links.remove(link)
        if not root.is_relative_to(os.path.realpath(link)):  # else a loop
            _walk(link, endings, seen, found, left_out, links, others)
    if is_sound:
        _say_unnamed(folder, others)
    if left_out:
        names = ", ".join(str(path.relative_to(folder)) for path in sorted(left_out)[:3])
        print(f"{folder}: {len(left_out)} files of the system's or hidden are left out by name: "
              f"{names}{', ...' if len(left_out) > 3 else ''}", file=sys.stderr, flush=True)
    return sorted(found)


def is_left_out(name: str | PurePath) -> bool:
    """Whether a path relative to a source (a member of an archive) is left out by name."""
    return any(map(_is_systems, PurePath(name).parts))


def _is_systems(part: str) -> bool:
    return part in _SYSTEM_NAMES or (part[0] == "." and part != "..")


def _walk(
    start: Path, endings: tuple[str, ...], seen: set, found: list, left_out: list, links: list,
    others: list,
) -> None:
    """Add what is below `start`, without following links, to the lists."""
    todo = [(start, False)]
    while todo:
        folder, is_hidden = todo.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if is_hidden:
                continue
            raise ValueError(f"{folder}: the folder cannot be read ({error.strerror})") from error
        for entry in entries:
            hidden = is_hidden or _is_systems(entry.name)
            if entry.is_dir(follow_symlinks=False):
                todo.append((folder / entry.name, hidden))
            elif entry.is_symlink() and _is_folder(entry):
                if not hidden:
                    links.append(folder / entry.name)
            elif entry.name.lower().endswith(endings) or (not hidden and _leads_nowhere(entry)):
                (left_out if hidden else found).append(folder / entry.name)
            elif not hidden and len(others) < _LOOKED_AT:
                others.append(folder / entry.name)


def _say_unnamed(folder: Path, others: list[Path]) -> None:
    found = sorted(str(path.relative_to(folder)) for path in others if _begins_like_sound(path))
    if found:
        print(f"{folder}: {len(found)} files begin like sound and are not called so (.wav, .flac, "
              f"...): {', '.join(found[:3])}{', ...' if found[3:] else ''}. They are left out, "
              "where no table names them", file=sys.stderr, flush=True)


def _begins_like_sound(path: Path) -> bool:
    try:
        if not path.is_file():  # nobody may ever write to a FIFO
            return False
        with open(path, "rb") as file:
            return _BEGINNINGS.match(file.read(12)) is not None
    except OSError:
        return False


def _is_folder(link: os.DirEntry) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a loop of links, a disk that does not answer: counted by who opens it
        return False


def _leads_nowhere(entry: os.DirEntry) -> bool:
    """Whether a link leads to nothing and its name does not say that it was another kind of file:
    a folder on a disk that is not mounted."""
    is_broken = entry.is_symlink() and not os.path.exists(entry.path)
    return is_broken and not _EXTENSION.fullmatch(os.path.splitext(entry.name)[1])
