"""Labelling and scoring through Ray Data, on this machine; skipped where Ray is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pseudo_label.__main__ as command
import pseudo_label.scores
from distill.data.teacher_store import TeacherStore
from distill.testing import write_tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("pseudo_label.shard_size=2", "pseudo_label.batch_size=2", "num_threads=1",
           "scores.shard_views=4")


def parts(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes()
            for path in sorted((run / "pseudo_labels").glob("part-*.jsonl"))}


def stored(run: Path) -> dict[str, int]:
    """Views in both stores."""
    folders = (run / "pseudo_labels" / "scores").iterdir()
    return {folder.name: TeacherStore(folder).num_views for folder in folders if folder.is_dir()}


def test_workers_write_what_one_process_writes(tmp_path):
    pytest.importorskip("ray.data", reason="pip install 'audio-distill[ray]'")
    recipe = write_tiny_recipe(tmp_path, train=24)
    command.main([str(recipe), f"output_dir={tmp_path / 'one'}", *OPTIONS])
    whole = parts(tmp_path / "one")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    arguments = [str(recipe), f"output_dir={tmp_path / 'ray'}", *OPTIONS]
    (tmp_path / "ray" / "pseudo_labels").mkdir(parents=True)
    (first, data), *_ = whole.items()  # one is there already
    (tmp_path / "ray" / "pseudo_labels" / first).write_bytes(data)
    ran = subprocess.run([sys.executable, "-m", "pseudo_label.on_ray", *arguments], timeout=300,
                         cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert parts(tmp_path / "ray") == whole and len(whole) > 2
    # encoded in other batches: the same records but for rounding
    assert stored(tmp_path / "ray") == stored(tmp_path / "one")
    before = sorted((tmp_path / "ray").glob("pseudo_labels/scores/**/shard-*"))
    pseudo_label.scores.main(arguments)
    assert sorted((tmp_path / "ray").glob("pseudo_labels/scores/**/shard-*")) == before != []
