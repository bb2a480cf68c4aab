"""Files of a label folder: `part-*.jsonl`, a shard each, whole or absent, and what was dropped.

A part says that its shard is done: nothing that could not be opened for the moment is missing there
(`AudioError.is_transient`). `drops-*.jsonl` beside it holds the clips that are of no use.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from distill.data.files import read_json, read_jsonl, write_jsonl
from distill.data.formats.errors import TRANSIENT, AudioError
from distill.data.unreadable import Unreadable
from distill.whisper.data.label_files import plan_header, planned_rows


def part_path(folder: Path, index: int) -> Path:
    return folder / f"part-{index:05d}.jsonl"


def label_parts(folder: Path) -> list[Path]:
    """The shards of a complete label folder that are planned, in order; not all of their rows may
    be (`planned_rows`).

    Raises:
        ValueError: nothing is labelled yet, or shards are missing.
    """
    settings = folder / "settings.json"
    if not settings.is_file():
        raise ValueError(f"no labels in {folder}: run `make NAME.label` first")
    planned = set(range(read_json(settings)["num_shards"])) - set(plan_header(folder)["idle"])
    parts = [path for index in sorted(planned) if (path := part_path(folder, index)).is_file()]
    if len(parts) < len(planned):
        raise ValueError(f"{folder}: {len(parts)} of {len(planned)} shards are labelled; run "
                         "`make NAME.label` again")
    return parts


def read_labels(folder: Path) -> list[dict]:
    """All label rows of a complete folder, in shard order."""
    return planned_rows(folder, (row for part in label_parts(folder) for row in read_jsonl(part)))


def drop_row(window: str, clip: str, error: AudioError) -> dict:
    """A row of a drops file."""
    return {"window": window, "clip": clip, "reason": error.reason, "detail": error.detail}


def write_shard(folder: Path, index: int, rows: list, drops: list) -> None:
    """Everything else first: the part file says that the shard is complete."""
    assert not any(drop["reason"] in TRANSIENT for drop in drops)
    path = _drops_path(folder, index)
    if drops:
        write_jsonl(path, drops)
    else:
        path.unlink(missing_ok=True)  # of an earlier attempt
    write_jsonl(part_path(folder, index), rows)


def _drops_path(folder: Path, index: int) -> Path:
    return folder / f"drops-{index:05d}.jsonl"


def drop_rows(folder: Path) -> list[dict]:
    """Of all shards, in order; without those of windows that are no longer planned."""
    retired = set(plan_header(folder)["retired"])
    return [row for path in sorted(folder.glob("drops-*.jsonl")) for row in read_jsonl(path)
            if row["window"] not in retired]


def note_drops(folder: Path, faults: Unreadable) -> None:
    """Count what other runs and ranks have dropped."""
    for row in drop_rows(folder):
        faults.note(row["clip"], row["reason"])


def count_drops(folder: Path, notes: Counter) -> dict[str, int]:
    """Clips that never got to the teacher, each once however many packings it is in.

    Args:
        notes: counts of those that are in no shard.
    """
    once = {(row["reason"], row["clip"]) for row in drop_rows(folder)}
    return dict(sorted((notes + Counter(reason for reason, _ in once)).items()))


def reopen(folder: Path) -> int:
    """Remove shards that were sealed without clips that could not be opened (older versions did
    so): they are labelled again. Returns how many."""
    count = 0
    for drops in sorted(folder.glob("drops-*.jsonl")):
        if any(row["reason"] in TRANSIENT for row in read_jsonl(drops)):
            count += 1
            number = drops.stem.removeprefix("drops-")
            for name in ("part", "translations"):
                (folder / f"{name}-{number}.jsonl").unlink(missing_ok=True)
            drops.unlink(missing_ok=True)  # last: it says that the part has to go
    return count
