"""Splits of folders and tables: nobody gets the same clips for train and for test in silence."""

import shutil
from pathlib import Path

import pytest

from distill.data.sources.clips import Columns
from distill.data.sources.layouts.folder import find_clips

ROOT = Path(__file__).resolve().parents[3]
INPUTS = ROOT / "tests" / "inputs"
CLIP = ROOT / "recipes" / "demo" / "data" / "audio" / "added.ogg"
NO_TEXT = Columns("none")


def lay(folder: Path, audio: str, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in audio.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CLIP, folder / name)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def ids(source: Path, split: str, columns: Columns = NO_TEXT) -> list[str]:
    return sorted(clip.id for clip in find_clips(source, split, columns))


def test_folders_of_splits(capsys):
    folder = INPUTS / "splits3"
    expected = {"train": ["train/activated", "train/added", "train/agent-pass"],
                "test": ["test/call-waiting", "test/cancelled"], "dev": ["dev/calling"]}
    for split, names in expected.items():
        assert ids(folder, split, Columns()) == names
        assert f"split {split} is {split}: {len(names)} of 6" in capsys.readouterr().err
    assert ids(folder, "validation") == ids(folder, "val") == ids(folder, "dev")
    assert ids(folder, "train+dev") == sorted(expected["train"] + expected["dev"])
    assert len(ids(folder, "all")) == 6
    with pytest.raises(ValueError, match="no split other; there are dev, test, train"):
        ids(folder, "other")
    assert ids(folder / "test", "test") == ["call-waiting", "cancelled"]
    with pytest.raises(ValueError, match="no split test; it is train"):
        ids(folder / "train", "test")


def test_a_table_above_them(tmp_path):
    """Its rows are of a split by the folder of the file, named or found, or by a column."""
    audio = "train/a.wav test/b.wav dev/c.wav"
    table = "file_name,text\ntrain/a.wav,A\ntest/b.wav,B\ndev/c.wav,C\ntest/gone.wav,D\n"
    folder = lay(tmp_path / "named", audio, metadata__csv=table)
    assert ids(folder, "train") == ["train/a"] and ids(folder, "dev") == ["dev/c"]
    assert ids(folder, "test") == ["test/b", "test/gone"] and len(ids(folder, "all")) == 4
    folder = lay(tmp_path / "bare", audio, metadata__csv="file_name,text\na.wav,A\nb.wav,B\n")
    assert ids(folder, "train") == ["a"] and ids(folder, "test") == ["b"]
    for column, names in (("split", "train val"), ("Subset", "TRAIN dev"), ("set", "training val")):
        train, dev = names.split()
        table = f"path,text,{column}\na.wav,A,{train}\nb.wav,B,{dev}\nc.wav,C,\n"
        folder = lay(tmp_path / column, "a.wav b.wav c.wav", data__csv=table)
        for source in (folder, folder / "data.csv"):
            assert ids(source, "train") == ["a"] and ids(source, "dev") == ["b"]
            with pytest.raises(ValueError, match=f"no split test in the column {column}; there"):
                ids(source, "test")


def test_where_folders_of_splits_lie(tmp_path):
    for number, (audio, train, test) in enumerate([
        ("audio/train/a.wav audio/test/b.wav", "audio/train/a", "audio/test/b"),
        ("ann/train/a.wav bob/test/b.wav", "ann/train/a", "bob/test/b"),
        ("Train/a.wav TEST/b.wav extra/c.wav", "Train/a", "TEST/b"),
        ("train-clean-100/a.wav test_other/b.wav", "train-clean-100/a", "test_other/b"),
        ("training/dog/a.wav evaluation/dog/b.wav", "training/dog/a", "evaluation/dog/b"),
        ("clips_train/a.wav clips_test/b.wav", "clips_train/a", "clips_test/b"),
        ("corpus/v1/train/a.wav corpus/v1/test/b.wav", "corpus/v1/train/a", "corpus/v1/test/b"),
    ]):
        folder = lay(tmp_path / str(number), audio)
        assert ids(folder, "train") == [train] and ids(folder, "test") == [test], audio


def test_data_directories_of_kaldi(tmp_path):
    lay(tmp_path, "a.wav")
    for name in ("train_si84", "train_si284", "test_eval92", "dev_nov"):
        lay(tmp_path / "data" / name, "", wav__scp=f"{name} a.wav\n")
    assert ids(tmp_path, "train") == ["train_si284", "train_si84"]
    assert ids(tmp_path, "train_si84") == ["train_si84"] and ids(tmp_path, "dev") == ["dev_nov"]
    assert ids(tmp_path, "test") == ["test_eval92"] and len(ids(tmp_path, "all")) == 4


def test_tables_of_splits(tmp_path):
    folder = lay(tmp_path / "a", "a.wav b.wav", train__csv="path,text\na.wav,A\n",
                 valid__csv="path,text\nb.wav,V\n", stats__csv="speaker,hours\nann,1\n")
    assert ids(folder, "train") == ["a"] and ids(folder, "dev") == ["b"]
    assert ids(folder, "all") == ["a", "b"]
    with pytest.raises(ValueError, match="no split test; there are train.csv, valid.csv"):
        ids(folder, "test")
    lay(folder, "", train_b__jsonl='{"path": "b.wav"}\n', dev_a__csv="path\na.wav\n",
        dev_b__csv="path\nb.wav\n")
    assert ids(folder, "train") == ["a"] and ids(folder, "dev_b") == ["b"]
    assert ids(folder, "validation") == ["b"]  # its own name before longer ones
    (folder / "valid.csv").unlink()
    with pytest.raises(ValueError, match="several tables may be val: dev_a.csv, dev_b.csv"):
        ids(folder, "val")


def test_no_splits_are_said(tmp_path, capsys):
    """All of it is read under the usual names, which is printed; classes are no splits."""
    folder = lay(tmp_path / "all", "ann/a.wav bob/b.wav")
    assert ids(folder, "train") == ["ann/a", "bob/b"]
    assert "there are no splits; all of it is read as train" in capsys.readouterr().err
    assert ids(folder, "test") == ["ann/a", "bob/b"]
    assert "read as test, as it would be for train" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no split tset, nor any other"):
        ids(folder, "tset")
    classes = lay(tmp_path / "classes", "dog/a.wav train-horn/b.wav test-tone/c.wav")
    assert len(ids(classes, "train")) == 3
    railway = lay(tmp_path / "railway", "dog/a.wav rain/b.wav train/c.wav")
    with pytest.raises(ValueError, match="is train a split, or one of .* .dog, rain."):
        ids(railway, "train")
    assert len(ids(railway, "all")) == 3
