"""Own classes by exactly the steps of README.md: seven folders of sounds become a tagger."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from distill.data.files import read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("bell", "cat", "dog", "horn", "knock", "rain", "wind, strong")
TINY = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
SHORT = {"max_steps": 4, "batch_size": 8, "micro_batch_size": 8, "warmup_steps": 1, "log_every": 2,
         "validate_every": 2, "save_every": 2}


def write_sounds(folder: Path) -> None:
    """Five files of each class; one is half a minute long, one is damaged, one nobody reads."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(5):
            rate, seconds = (16_000, 22_050, 8_000)[index % 3], 31 if not number + index else 1
            time = np.arange(rate * seconds) / rate
            tone = 0.3 * np.sin(2 * np.pi * 300 * (1 + number) * time + index)
            path = folder / name / f"{index}.{('wav', 'flac', 'ogg')[index % 3]}"
            soundfile.write(path, tone, rate)
    (folder / "dog" / "damaged.wav").write_bytes(b"RIFF, but nothing more")
    (folder / "dog" / "phone.m4a").write_bytes(b"not of libsndfile")


def project(folder: Path, whisper: Path) -> None:
    """What `make` needs, the recipes with models of a few thousand parameters."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "recipes" / "own-sounds", folder / "recipes" / "own-sounds")
    for path in (folder / "recipes").rglob("*.yaml"):
        recipe = yaml.safe_load(path.read_text())
        recipe["train"] |= SHORT
        if "student" in recipe:
            recipe["student"]["config"] = TINY
        if "whisper" in recipe:
            recipe["whisper"] = {"model": str(whisper)}
        if "scores" in recipe:
            recipe["scores"]["epochs"] = 2
            recipe["evaluation"] = {"num_bootstrap": 20}
        path.write_text(yaml.safe_dump(recipe))
    python = folder / ".venv" / "bin" / "python"  # installed already, says .installed
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / ".installed").touch()


@pytest.mark.slow
def test_the_steps_of_the_readme_make_a_tagger_of_seven_classes(tmp_path, tiny_teacher):
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own sounds")[1]
    steps = re.search(r"```\n(.*?)```", text, re.S)[1].splitlines()
    assert steps[0] == "make setup" and steps[-1] == "make own-sounds"
    write_sounds(tmp_path / "my-sounds")
    project(tmp_path, tiny_teacher)
    said = ""
    for step in steps:
        done = subprocess.run(step, shell=True, cwd=tmp_path, capture_output=True, text=True)
        said += done.stdout + done.stderr
        assert done.returncode == 0, said
    assert "35 files of 7 classes; dropped: 2 unreadable" in said
    rows = [row for split in ("train", "validation", "test")
            for row in read_jsonl(tmp_path / "data" / "sounds" / f"{split}.jsonl")]
    assert len(rows) == 35 and max(row["duration"] for row in rows) == 31
    run = tmp_path / "runs" / "own-sounds"
    assert set(read_json(run / "student" / "config.json")["id2label"].values()) == set(CLASSES)
    results = read_json(run / "eval" / "results.json")
    assert list(results["systems"]) == ["student", "teacher", "member1", "member2"]
    assert results["num_recordings"] == 7
    assert results["systems"]["student"]["num_classes_with_positives"] == 7
    assert (run / "report" / "index.html").is_file()
