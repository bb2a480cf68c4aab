"""Labels, scores, students and results from shards are, byte for byte, those from files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.data.files import read_jsonl
from distill.data.formats import copies, remote
from distill.testing import write_tiny_recipe
from tests.support.range_server import RangeServer, range_server
from tests.support.shards import MEMBER, RANGE, put_into_shard

OPTIONS = ("train.max_steps=3", "train.save_every=3", "train.validate_every=3")


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("shards"), small_teacher, train=6)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AUDIO_DISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(remote, "_sizes", {})
    monkeypatch.setattr(remote, "_away", {})
    monkeypatch.setitem(copies._added, "bytes", float("inf"))


def run(recipe: Path, output: Path) -> dict[str, bytes]:
    """Everything that has to be the same."""
    import distill.train
    import pseudo_label.__main__
    from eval.__main__ import main as evaluate

    arguments = [str(recipe), f"output_dir={output}", *OPTIONS]
    pseudo_label.__main__.main(arguments)
    distill.train.main(arguments)
    evaluate(arguments)
    kept = [*output.glob("pseudo_labels/part-*"), output / "pseudo_labels" / "kept.jsonl",
            *output.glob("pseudo_labels/scores/**/shard-*"),
            output / "student" / "model.safetensors"]
    texts = [{key: row[key] for key in ("id", "student", "teacher")}
             for row in read_jsonl(output / "eval" / "predictions.jsonl")]
    return {str(path.relative_to(output)): path.read_bytes() for path in kept} | {
        "texts": json.dumps(texts).encode()}


@pytest.fixture(scope="module")
def from_files(recipe, tmp_path_factory) -> dict[str, bytes]:
    return run(recipe, tmp_path_factory.mktemp("files"))


def in_shards(recipe: Path, folder: Path, where: str, keys: tuple[str, ...]) -> Path:
    """The recipe with its audio in a tar file for each split.

    Args:
        where: `{split}` in what the manifest calls the shard.
    """
    corpus = recipe.parent / "corpus"
    for split in ("train", "validation", "test"):
        put_into_shard(corpus / f"{split}.jsonl", folder / f"{split}.tar",
                       folder / f"{split}.jsonl", where.format(split=split), keys)
    (folder / "recipe").mkdir()
    text = (recipe / "recipe.yaml").read_text()
    (folder / "recipe" / "recipe.yaml").write_text(text.replace(str(corpus), str(folder)))
    return folder / "recipe"


@pytest.fixture
def served(tmp_path) -> Iterator[RangeServer]:
    with range_server(tmp_path) as server:
        yield server


@pytest.mark.parametrize("keys", [
    RANGE, pytest.param(MEMBER, marks=pytest.mark.slow)])
def test_from_a_disk(recipe, from_files, tmp_path, keys):
    shards = in_shards(recipe, tmp_path, "{split}.tar", keys)
    assert run(shards, tmp_path / "run") == from_files


def test_from_a_server_that_fails_now_and_then(recipe, from_files, tmp_path, served):
    shards = in_shards(recipe, tmp_path, f"{served.url}/{{split}}.tar", RANGE)
    faults = {0: "cut", 3: 503, 4: "closed", 9: "cut"}
    served.fault = lambda number, path: faults.get(number)
    assert run(shards, tmp_path / "run") == from_files
    audio = sum(row["num_bytes"] for split in ("train", "validation", "test")
                for row in read_jsonl(tmp_path / f"{split}.jsonl"))
    assert served.sent <= 1.3 * audio, "read once, however often it is needed"
    assert sum(status == "GET" for status, *_ in served.requests) == 13 + len(faults)


def test_a_server_that_is_away_is_a_disk_that_is_away(recipe, tmp_path, served):
    import pseudo_label.__main__

    shards = in_shards(recipe, tmp_path, f"{served.url}/{{split}}.tar", MEMBER)
    served.fault = lambda number, path: 503
    with pytest.raises(ValueError, match="6 cannot_open"):
        pseudo_label.__main__.main([str(shards), f"output_dir={tmp_path / 'run'}", *OPTIONS])
    served.fault = lambda number, path: None
    pseudo_label.__main__.main([str(shards), f"output_dir={tmp_path / 'run'}", *OPTIONS])
