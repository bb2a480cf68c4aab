"""What a folder with a model is called, and whether it still holds the same one.

    stamp = model_stamp("runs/mine/student")    # compare with the one of before
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.data.files import hash_files, hash_of, read_json


def model_name(path: str | Path) -> str:
    """The last part of a path, or where that is `student`, as it is in all runs, the run's name."""
    path = Path(path)
    return (path.parent.name if path.name == "student" else "") or path.name or str(path)


def model_stamp(folder: str | Path) -> list[list[Any]]:
    """What tells a model from another one that was in its folder: its files by content, so that a
    copy of the folder is the same model.

    What publishing adds to the folder (results, code and its names in the settings, a copy of the
    features' settings) is not the model's.
    """
    folder = Path(folder)
    added = ["results.json"]
    if (folder / "processor_config.json").is_file():
        added.append("preprocessor_config.json")  # which says the same
    stamp: list[list[Any]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            stat = path.stat()
            stamp.append([path.name, _weights_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)])
        elif path.suffix == ".json" and path.name not in added:
            content = read_json(path)
            if isinstance(content, dict):
                content.pop("auto_map", None)
            stamp.append([path.name, hash_of(content)])
    return stamp


@lru_cache(maxsize=32)
def _weights_hash(path: Path, size: int, time_ns: int) -> str:
    """Read once a process, as long as size and date are the same."""
    return hash_files([path])
