"""A corpus whose audio lies in tar files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from distill.data.files import read_jsonl
from distill.data.formats.tar_members import list_members

RANGE = ("byte_offset", "num_bytes")
MEMBER = ("member",)


def put_into_shard(manifest: Path, shard: Path, new: Path, where: str, keys=RANGE) -> int:
    """Write the audio of a manifest into a tar file, and a manifest of it; returns the bytes of
    audio.

    Args:
        where: what the new manifest calls the shard.
        keys: of its rows.
    """
    rows = read_jsonl(manifest)
    with tarfile.open(shard, "w") as tar:
        for row in rows:
            tar.add(manifest.parent / row["audio_filepath"], row["audio_filepath"])
    with open(shard, "rb") as file:
        members = list_members(file, "")
    total = 0
    with open(new, "w") as file:
        for row in rows:
            name = row["audio_filepath"]
            start, size = members[name]
            part = {"member": name, "byte_offset": start, "num_bytes": size}
            row |= {"audio_filepath": where} | {key: part[key] for key in keys}
            file.write(json.dumps(row) + "\n")
            total += size
    return total
