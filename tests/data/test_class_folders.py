"""A folder for each class becomes manifests, split by file."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.audio import load_audio
from distill.data.class_folders import build, main, parse_options
from distill.data.manifest import read_manifest
from tests.support.media_files import write_m4a

CLASSES = ("bell", "cat", "dog", "rain, heavy")


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 3000).astype(np.float32)
    soundfile.write(path, samples, 16_000)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    for number, name in enumerate(CLASSES):
        for index in range(10):
            write(folder / name / "take" / f"{index}.wav", 100 * number + index)
    return folder


def rows(out, split):
    return read_manifest(out / f"{split}.jsonl")[0]


def all_rows(out):
    return [row for split in ("train", "validation", "test") for row in rows(out, split)]


def test_every_class_is_in_every_split_and_every_file_in_one(sounds, tmp_path, capsys):
    out = tmp_path / "out"
    main([str(sounds), str(out)])
    for split, count in (("train", 8), ("validation", 1), ("test", 1)):
        labels = [row.labels for row in rows(out, split)]
        assert sorted(labels) == sorted([name] for name in CLASSES for _ in range(count))
    files = [row.audio_filepath for row in all_rows(out)]
    assert len(set(files)) == len(files) == 40
    assert (out / "classes.txt").read_text().splitlines() == sorted(CLASSES)
    assert "40 files of 4 classes; dropped: nothing" in capsys.readouterr().out


def test_the_split_depends_on_names_and_seed_alone(sounds, tmp_path):
    tests = {}
    for name, arguments in {"a": [], "b": [], "c": ["seed=1"]}.items():
        build(sounds, tmp_path / name, parse_options(arguments))
        tests[name] = [row.id for row in rows(tmp_path / name, "test")]
    assert tests["a"] == tests["b"] != tests["c"]
    write(sounds / "cat" / "new.wav", 999)  # moves no file of another class
    build(sounds, tmp_path / "d", parse_options([]))
    assert [i for i in tests["a"] if not i.startswith("cat")] == [
        row.id for row in rows(tmp_path / "d", "test") if not row.id.startswith("cat")]


def test_a_file_in_two_folders_is_one_row_with_both_classes(sounds, tmp_path):
    write(sounds / "cat" / "copy-of-dog-0.wav", 200)  # the content of dog/take/0.wav
    build(sounds, tmp_path / "out", parse_options([]))
    both = [row for row in all_rows(tmp_path / "out") if len(row.labels) == 2]
    assert [row.labels for row in both] == [["cat", "dog"]]
    assert len(all_rows(tmp_path / "out")) == 40


def test_a_given_split_stays(tmp_path):
    for split, seeds in (("train", (1, 2)), ("validation", (3,)), ("test", (4, 1))):
        for seed in seeds:
            write(tmp_path / "sounds" / split / "cat" / f"{seed}.wav", seed)
    build(tmp_path / "sounds", tmp_path / "out", parse_options([]))
    assert [len(rows(tmp_path / "out", s)) for s in ("train", "validation", "test")] == [2, 1, 1]
    drops = json.loads((tmp_path / "out" / "drops.json").read_text())
    assert drops["counts"] == {"also_in_train": 1}
    assert [row["id"] for row in drops["dropped"]["also_in_train"]] == ["test/cat/1.wav"]


def test_background_belongs_to_no_class(sounds, tmp_path):
    write(sounds / "nothing" / "hum.wav", 77)
    build(sounds, tmp_path / "out", parse_options(["background=nothing"]))
    assert [row.labels for row in all_rows(tmp_path / "out") if row.id.startswith("no")] == [[]]
    assert "nothing" not in (tmp_path / "out" / "classes.txt").read_text()


def test_what_cannot_be_read_is_counted(sounds, tmp_path, capsys):
    (sounds / "cat" / "broken.wav").write_bytes(b"RIFFnothing")
    (sounds / "cat" / "notes.txt").write_text("not audio")
    (sounds / "cow").mkdir()
    (sounds / "cow" / "phone.m4a").write_bytes(b"what a telephone records")
    (sounds / "empty").mkdir()
    main([str(sounds), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "dropped: unreadable 2" in said and "cow/phone.m4a" in said
    assert "No usable file in cow, empty" in said
    assert not list((tmp_path / "out").rglob("*.flac"))
    assert "cow" not in (tmp_path / "out" / "classes.txt").read_text()


def test_what_telephones_record_is_pointed_at(sounds, tmp_path):
    write_m4a(sounds / "cow" / "moo.m4a",
              0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000))
    build(sounds, tmp_path / "out", parse_options([]))
    (row,) = [row for row in all_rows(tmp_path / "out") if row.labels == ["cow"]]
    assert row.id == "cow/moo.m4a" and Path(row.audio_filepath).name == "moo.m4a"
    audio = load_audio(row.audio_filepath)
    assert row.duration == pytest.approx(1.0, abs=0.1) == len(audio) / 16_000
    assert np.abs(np.fft.rfft(audio[:16_000])).argmax() == pytest.approx(440, abs=1)


def test_without_ffmpeg_its_formats_are_counted(sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("distill.data.formats.readers.find_spec", lambda _: None)
    (sounds / "cow").mkdir()
    (sounds / "cow" / "phone.m4a").write_bytes(b"\0\0\0\x1cftypM4A what a telephone records")
    main([str(sounds), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "dropped: needs_ffmpeg 1" in said and "audio-distill[media]" in said


def test_refusals(tmp_path, sounds):
    with pytest.raises(ValueError, match="nowhere: the folder cannot be read"):
        build(tmp_path / "nowhere", tmp_path / "out", parse_options([]))
    with pytest.raises(ValueError, match="expected one of validation=, test=, seed="):
        parse_options(["valid=0.1"])
    with pytest.raises(ValueError, match="leave something to train on"):
        parse_options(["validation=0.6", "test=0.5"])
    with pytest.raises(ValueError, match="test must be a number"):
        parse_options(["test=many"])
