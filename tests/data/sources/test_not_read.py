"""Tables and folders that are nearly one of the known layouts: read, or said to be not read."""

import json
import unicodedata

import pytest

from distill.data import class_folders
from distill.data.hub_dataset import main
from distill.data.leaks import check_splits
from distill.data.manifest import open_manifest
from tests.data.sources.test_way_in_other import heard, parquet
from tests.support.way_in import jsonl, lay, reasons, run, told

AB = {"a.wav": 1, "b.wav": 1}
ESC = "filename,fold,target,category\n"
# name: (files, keys, rows, drops, what is said)
CASES = {
    "a column of files that is called otherwise": (
        {**AB, "list.csv": "My Clip,Transcription\na.wav,x\nb.wav,y\n"}, "text_column=none",
        ["a.wav", "b.wav"], {}, "1 tables are not read, since none of their columns is called "
        "like the names of files (file_name, audio_filepath, path, file, ...): "
        "list.csv (My Clip, Transcription)"),
    "lengths beside texts are no table of texts": (
        {**AB, "a.txt": "x", "b.txt": "y", "durations.csv": "clip,duration\na.wav,1\nb.wav,1\n"},
        "", ["a.wav x", "b.wav y"], {}, "durations.csv (clip, duration)"),
    "ids without files (VoxPopuli), what no corpus is read from, and a table that is cut": (
        {**AB, "a.json": '{"text": "x"}', "b.txt": "y", "dataset_infos.json": "{}",
         "asr_train.tsv": "id\tnormalized_text\tsplit\na\tx\ttrain\n", "cut.json": "[{"}, "",
        ["a.wav x", "b.wav y"], {}, "2 tables are not read"),
    "one line of JSON with lists in it": (
        {**AB, "train.jsonl": json.dumps({
            "audio": {"path": "a.wav"}, "sentence": "hi there",
            "sentences": [{"start": 0, "end": 1, "text": "hi"}]})}, "", ["a.wav hi there"], {}, ""),
    "texts of files without a suffix": (
        {"wavs/1.wav": 1, "wavs/2.wav": 1, "wavs/3.wav": 1, "train.txt": "1|hello|hello\n",
         "val.txt": "2|12|twelve\n3|Bye, Dr. X|bye doctor x\n"}, "split=val",
        ["2.wav 12", "3.wav Bye, Dr. X"], {}, "split val is val.txt"),
    "ESC-50 as it is unpacked": (
        {"ESC-50-master/audio/1-1-A-0.wav": 1, "ESC-50-master/README.md": "x",
         "ESC-50-master/meta/esc50.csv": f"{ESC}1-1-A-0.wav,1,0,dog\n"}, "",
        ["1-1-A-0.wav [dog]"], {}, ""),
    "FSD50K as it is unpacked: its dev is train and validation": (
        {"FSD50K/FSD50K.dev_audio/1.wav": 1, "FSD50K/FSD50K.dev_audio/2.wav": 1,
         "FSD50K/FSD50K.ground_truth/dev.csv": "fname,labels,split\n1,Guitar,train\n2,Bark,val\n"},
        "split=dev", ["2.wav [Bark]"], {}, "split dev is the rows with split val"),
    "audiofolder with parquet, in each split": (
        {"train/a.wav": 1, "train/metadata.parquet": parquet({"file_name": "a.wav", "text": "x"}),
         "test/b.wav": 1, "test/metadata.parquet": parquet({"file_name": "b.wav", "text": "y"},
                                                           {"file_name": None, "text": "z"})},
        "split=test", ["b.wav y"], {"no_file_name": 1}, "metadata.parquet row 2: the row names no"),
    "what was transcribed and tagged before, beside the user's own texts": (
        {**AB, "a.txt": "mine", "b.txt": "mine", "a.wav.txt": "model", "a.wav.labels.txt": "0\t1",
         "a.wav.json": '{"file": "a.wav", "duration": 1, "language": "de", "text": "model"}',
         "a.wav.tags.csv": "file,start,end,label,score\na.wav,0,1,dog,0.9\n",
         "b.wav.tags.json": '{"file": "b.wav", "tags": [{"label": "dog"}]}'}, "",
        ["a.wav mine", "b.wav mine"], {}, ""),
    "a JSON of each file that names it, and where in it the clip is": (
        {"a.wav": 6, "b.wav": 2, "a.json": '{"path": "x/a.wav", "text": "A", "start": 1, "end": 3}',
         "b.json": '{"audio": "b.wav", "text": "B", "offset": 99, "duration": 2}'}, "",
        ["a.wav 1+2 A", "b.wav 0+2 B"], {}, "1 clips are whole files, which are as long as the"),
    "a JSON called like a file, of others": (
        {"a.wav": 1, "b.wav": 1, "a.json": jsonl({"file": "b.wav", "text": "B"})}, "",
        ["b.wav B"], {}, "in no row: 1 (a.wav)"),
    "lines of JSON called like a file": (
        {"a.wav": 6, "a.json": jsonl({"file": "a.wav", "offset": 1, "duration": 1, "text": "x"},
                                     {"file": "a.wav", "offset": 3, "duration": 1, "text": "y"})},
        "", ["a.wav 1+1 x", "a.wav 3+1 y"], {}, ""),
    "lists of files without a suffix, and of another machine": (
        {"wav/a.wav": 1, "wav/b.wav": 1, "wav/a.txt": "A", "wav/b.txt": "B", "train.txt": "a\n",
         "test.txt": "/data/x/wav/b.wav\n"}, "split=test", ["b.wav B"], {},
        "split test is test.txt: 1 of 2"),
    "transcripts of train.wav and test.wav are no lists": (
        {"train.wav": 1, "train.txt": "test", "test.wav": 1, "test.txt": "train"}, "split=all",
        ["test.wav train", "train.wav test"], {}, ""),
    "CSS10": ({"book/1.wav": 1, "transcript.txt": "book/1.wav|Hallo 1.|Hallo eins.|1.0\n"}, "",
              ["1.wav Hallo 1."], {}, ""),
    "texts of kinds that are not read are said": (
        {**AB, "a.trn": "x", "etc/txt.done.data": '( b "y" )'}, "text_column=none",
        ["a.wav", "b.wav"], {}, "2 files are not read, which may hold clips or texts: a.trn, "),
    "two tables of one name": (
        {**AB, "train.csv": "file,text\na.wav,x\n", "train.jsonl": jsonl({"file": "b.wav"})}, "",
        ["a.wav x"], {}, "train.csv is read; not read: train.jsonl"),
    "lists of files of Windows": (
        {"yes/0.wav": 1, "yes/1.wav": 1, "testing_list.txt": "yes\\0.wav\r\n"},
        "split=test label_column=label", ["0.wav [yes]"], {}, ""),
}


def test_what_is_nearly_a_layout(tmp_path, capsys):
    for number, (name, (files, keys, rows, drops, said)) in enumerate(CASES.items()):
        source, out = lay(tmp_path / str(number), files), tmp_path / f"out{number}"
        code, screen = run(main, [source, out, *keys.split()], capsys)
        assert code == 0 and said in screen, (name, screen)
        assert ("tables are not read" in screen) == ("tables" in said or " (clip" in said), name
        assert reasons(screen) == drops and sum(told(out).values(), []) == rows, name


def test_archives_beside_classes_are_said(tmp_path, capsys):
    source = lay(tmp_path / "in", {"dog/a.wav": 0.1, "rain.zip": b"PK", "dog/more.7z": b"7z"})
    code, screen = run(class_folders.main, [source, tmp_path / "out"], capsys)
    assert code == 0 and "2 files are not read, which may hold clips or texts: " in screen
    assert "dog/more.7z, rain.zip" in screen


def test_classes_of_a_mac_are_the_same_classes(tmp_path, capsys):
    """An é in two letters: in names of folders, in the key background, and in tables."""
    nfd = unicodedata.normalize("NFD", "café")
    source = lay(tmp_path / "in", {"café/a.wav": 0.1, f"{nfd}/b.wav": 0.2, "dog/c.wav": 0.3})
    assert run(class_folders.main, [source, tmp_path / "out"], capsys)[0] == 0
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["café", "dog"]
    assert run(class_folders.main, [source, tmp_path / "o", f"background={nfd}"], capsys)[0] == 0
    assert (tmp_path / "o" / "classes.txt").read_text().split() == ["dog"]
    lay(tmp_path / "t", {**AB, "train.csv": f"file,label\na.wav,café\nb.wav,{nfd}\n"})
    run(main, [tmp_path / "t", tmp_path / "t-out", "label_column=label"], capsys)
    assert told(tmp_path / "t-out")["train"] == ["a.wav [café]", "b.wav [café]"]


def test_what_programs_write_for_nothing_is_counted(tmp_path, capsys):
    source = lay(tmp_path / "in", {**AB, "c.wav": 1, "train.csv":
                                   "file,text,speaker\na.wav,nan,nan\nb.wav,none,x\nc.wav,nan,\n"})
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert '2 clips have the text "nan", which programs write where there is none: a, ...' in screen
    assert '1 clips have the speaker "nan"' in screen and '"none"' not in screen
    assert len(told(tmp_path / "out")["train"]) == 3
    lay(source, {"train.csv": "file,text,label\na.wav,...,\nb.wav,\u200b,dog\nc.wav,9,cat\n",
                 "dev.jsonl": jsonl({"file": "a.wav", "label": None}, {"file": "b.wav"})})
    screen = run(main, [source, tmp_path / "o"], capsys)[1]
    assert "2 clips have a text without a letter: a '...', ..." in screen
    screen = run(main, [source, tmp_path / "o", "split=dev", "label_column=label"], capsys)[1]
    assert "2 clips have nothing in label: nobody knows their classes: a, ..." in screen


def test_fields_that_a_manifest_does_not_have_are_counted(tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 1}
    lay(tmp_path, {"train.jsonl": jsonl(
        {**row, "start": 3.0, "text": "x"}, {**row, "start": 4, "sentence": "y"},
        {**row, "offset": 0, "start": 5}, {**row, "id": "z", "start": 0, "language": " "})})
    said = []
    check_splits({"train": [tmp_path / "train.jsonl"]}, False, tell=said.append)
    assert "2 have start for offset, which is not read" in said[0]
    assert "1 have sentence for text, which is not read (hub_dataset imports such rows)" in said[0]
    assert open_manifest(tmp_path / "train.jsonl").rows[-1].language is None
    for labels in ([""], ["dog", " "]):
        lay(tmp_path, {"bad.jsonl": jsonl({**row, "labels": labels})})
        with pytest.raises(ValueError, match=r"bad.jsonl: line 1: labels must have names, got \["):
            open_manifest(tmp_path / "bad.jsonl")


def test_parquet_that_does_not_name_the_audio_beside_it(tmp_path, capsys, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = lay(tmp_path / "in", {"b.wav": 1, "train.parquet": parquet(
        {"audio": heard("a.wav"), "text": "x"})})
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert code == 0 and "read as parquet; 1 audio files beside it are not read" in screen
    lay(source, {"train.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"})
    code, screen = run(main, [source, tmp_path / "o"], capsys)
    assert code == 2 and "train.parquet: only a pointer of Git LFS: `git lfs pull`" in screen
    lay(source, {"train.parquet": parquet({"audio": heard("a.wav"), "text": "x"}),
                 "train-2.parquet": parquet({"audio": heard("c.wav"), "sentence": "y"})})
    code, screen = run(main, [source, tmp_path / "o"], capsys)
    assert code == 2 and "column names don't match" in screen  # what the error comes from
