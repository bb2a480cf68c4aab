"""Folders called train may be splits or trains; class folders that are stopped or not ours."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data import class_folders
from distill.data.class_folders import build, main, parse_options
from distill.data.files import read_json, read_jsonl
from distill.data.sources.class_layout import understand
from distill.endings import Stopped


def layout(names: str, way: str = "auto"):
    root = Path("sounds")
    return understand(root, sorted(root / name for name in names.split()), way)


def test_splits_or_classes():
    """{files: (classes, splits, files that are left out)}"""
    both = {"train": "train", "test": "test"}
    for names, classes, splits, left_out in (
        ("dog/a.wav rain/b.wav train/freight/c.wav", "dog rain train", {}, 0),
        ("dog/a.wav Train/c.wav", "Train dog", {}, 0),
        ("dog/take/a.wav rain/take/b.wav train/take/c.wav test/beep/d.wav", "dog rain test train",
         {}, 0),
        ("train/dog/a.wav test/dog/b.wav", "dog", both, 0),
        ("train/dog/x/a.wav test/rain/b.wav", "dog rain", both, 0),
        ("train/dog/a.wav", "dog", {"train": "train"}, 0),
        ("train/dog/a.wav c.wav train/b.wav", "dog", {"train": "train"}, 2),
        ("train/dog/a.wav test/dog/b.wav noise/c.wav", "dog", both, 1),
        ("Training/dog/a.wav TEST/dog/b.wav", "dog", {"Training": "train", "TEST": "test"}, 0),
        ("train/dog/a.wav val/dog/b.wav test/dog/c.wav", "dog",
         {"train": "train", "val": "validation", "test": "test"}, 0),
        ("dev/dog/b.wav train/dog/a.wav eval/dog/c.wav", "dog",
         {"train": "train", "dev": "validation", "eval": "test"}, 0),
        ("train/dog/a.wav eval/dog/c.wav", "dog", {"train": "train", "eval": "validation"}, 0),
        ("a.wav dog/b.wav", "dog", {}, 1),
        ("testing-room/a.wav hall/b.wav", "hall testing-room", {}, 0),
    ):
        found = layout(names)
        assert " ".join(sorted({label for _, label, _ in found.files})) == classes, names
        assert found.splits == splits and len(found.drops) == left_out, names
        assert all((split is None) == (not splits) for *_, split in found.files), names
        assert bool(splits) <= ("taken for splits" in found.sentence), names
    assert "train is taken for a class" in layout("dog/a.wav train/b/c.wav").sentence
    assert "say sounds/all" in layout("all/dog/a.wav all/rain/b.wav").sentence


def test_what_a_user_says_counts():
    names = "dog/a.wav train/dog/b.wav train/c.wav"
    told = layout(names, "folders")
    assert told.splits == {"train": "train"} and dict(told.drops) == {
        Path("sounds/dog/a.wav"): "outside_splits", Path("sounds/train/c.wav"): "no_class_folder"}
    told = layout("train/a.wav test/b.wav", "none")
    assert [label for _, label, _ in told.files] == ["test", "train"] and not told.sentence
    with pytest.raises(ValueError, match="train, test are called like splits.* Say splits=none"):
        layout("train/a.wav test/b.wav")
    with pytest.raises(ValueError, match="splits=folders: no folder in sounds is called train"):
        layout("dog/a.wav", "folders")
    with pytest.raises(ValueError, match="splits must be one of auto, folders, none, got 'yes'"):
        parse_options(["splits=yes"])


def rows(out: Path) -> list[dict]:
    return [row for name in class_folders.MANIFESTS for row in read_jsonl(out / name)]


@pytest.fixture
def sounds(tmp_path) -> Path:
    folder = tmp_path / "sounds"
    for seed, name in enumerate(("dog/a", "dog/b", "dog/c", "cat/d", "cat/e", "cat/f")):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 3000).astype(np.float32)
        soundfile.write(path, noise, 16_000)
    return folder


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_a_stopped_run_reads_only_what_is_new(sounds, tmp_path, monkeypatch):
    real, read, left = class_folders.audio_info, [], iter((3, 2, 1, 0))

    def info(path):
        read.append(path.name)
        if next(left, None) == 0:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(class_folders, "audio_info", info)
    with pytest.raises(Stopped, match="Stopped; 3 files are read, the same command goes on"):
        main([str(sounds), str(tmp_path / "out")])
    (sounds / "cat" / "d.wav").unlink()
    shutil.copy(sounds / "dog" / "a.wav", sounds / "cat" / "e.wav")
    del read[:]
    assert main([str(sounds), str(tmp_path / "out")]) == 0
    assert read == ["e.wav", "a.wav", "b.wav", "c.wav"]
    assert main([str(sounds), str(tmp_path / "new")]) == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "new")


def test_what_cannot_be_opened_now_is_taken_in_later(sounds, tmp_path, capsys):
    away = tmp_path / "away"
    (sounds / "cat").rename(away)
    (sounds / "cat").mkdir()
    for path in away.iterdir():
        (sounds / "cat" / path.name).symlink_to(away / path.name)
    (away / "d.wav").rename(tmp_path / "d.wav")
    assert main([str(sounds), str(tmp_path / "out")]) == 1
    assert "NOT COMPLETE: 1 clips could not be opened now" in capsys.readouterr().out
    (tmp_path / "d.wav").rename(away / "d.wav")
    assert main([str(sounds), str(tmp_path / "out")]) == 0
    whole = everything(tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 6
    away.rename(tmp_path / "unmounted")
    with pytest.raises(ValueError, match="3 files of .* cannot be opened now, so these stay"):
        main([str(sounds), str(tmp_path / "out")])
    now = everything(tmp_path / "out")
    assert all(now[name] == data for name, data in whole.items())


def test_nothing_of_others_is_written_to(sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(sounds)
    for out in ("sounds", "sounds/out", "link/out", "sounds/../sounds/dog", "."):
        with pytest.raises(ValueError, match="never written to: say another one, such as sounds-"):
            main(["sounds", out])
    for name in ("train.jsonl", "classes.txt", "drops.json"):
        (tmp_path / name[:4]).mkdir()
        (tmp_path / name[:4] / name).write_text("{}")
        with pytest.raises(ValueError, match="was not made by this command"):
            main(["sounds", name[:4]])
        assert os.listdir(tmp_path / name[:4]) == [name]
    assert main(["sounds", "out"]) == 0 == main(["sounds", "out"])
    assert set(read_json(tmp_path / "out" / "drops.json")["made"]) == {
        *class_folders.MANIFESTS, "classes.txt"}
    (tmp_path / "out" / "classes.txt").write_text("dog\n")
    with pytest.raises(ValueError, match="classes.txt was changed since it was made"):
        build(sounds, tmp_path / "out", parse_options([]))
