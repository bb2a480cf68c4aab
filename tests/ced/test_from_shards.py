"""Scores and students of sounds in shards are, byte for byte, those of files."""

from __future__ import annotations

from pathlib import Path

import pytest

import distill.train
from pseudo_label import tag_scores
from tests.ced.tiny_tags import Tags
from tests.support.shards import put_into_shard


def results(tags: Tags) -> dict[str, bytes]:
    from eval.__main__ import main as evaluate

    tag_scores.main(tags.arguments())
    distill.train.main(tags.arguments())
    evaluate(tags.arguments())
    run = tags.folder / "run"
    kept = [*run.glob("**/shard-*"), run / "student" / "model.safetensors",
            *run.glob("eval/classes-*.csv")]
    return {path.name: path.read_bytes() for path in kept}


@pytest.mark.slow
def test_sounds_in_shards(make_tags, tmp_path):
    files, shards = (make_tags(tmp_path / name) for name in ("files", "shards"))
    data: Path = shards.folder / "data"
    for manifest in data.glob("*.jsonl"):
        shard = data / f"{manifest.stem}.tar"
        put_into_shard(manifest, shard, manifest, shard.name)
    for sound in data.glob("*/*.wav"):
        sound.unlink()
    found = results(shards)
    assert found == results(files) and len(found) > 3
