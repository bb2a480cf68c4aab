"""The other ways in: the folders of tests/inputs, shards, parquet, class folders, files that are
transcribed or tagged; and what an import does that is run again with a changed source."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from distill.data import class_folders
from distill.data.files import read_json
from distill.data.hub_dataset import main
from eval.audio_files import output_places
from tests.support.way_in import Link, everything, jsonl, lay, reasons, run, sound, told

INPUTS = Path(__file__).resolve().parents[2] / "inputs"

# folder: (keys, rows, drops by reason, what is said)
OUTCOMES = {
    "aacwav": ("", ["a.wav 0+5.18 x"], {}, ""),
    "arrjson": ("", ["a.ogg 0+0.748 x"], {}, ""),
    "badjson": ("", ["a.ogg 0+0.748 x"], {"bad_row": 1}, "metadata.jsonl line 2: no JSON"),
    "esc": ("label_column=category", ["1-100032-A-0.wav 0+0.748 [dog]"], {}, ""),
    "esc ": ("", ["1-100032-A-0.wav 0+0.748 [dog]"], {}, ""),
    "extra": ("", None, {}, "the columns are file, sentence_en. Say text_column=NAME"),
    "extra ": ("text_column=sentence_en", None, {"bad_row": 1}, "line 2: 3 cells, expected 2"),
    "gsm": ("language=en", ["call.wav 0+5.2 Login incorrect. Please enter your agent number "
                            "followed by the pound key. <en>"], {}, ""),
    "kaldi": ("", ["a.ogg 0+0.748 calling"], {}, ""),
    "libri": ("", ["84-121123-0000.flac 0+0.748 CALLING <84>",
                   "84-121123-0001.flac 0+0.723 ADDED <84>"], {}, ""),
    "mixed": ("", ["a.ogg 0+0.748 calling", "b.m4a 0+0.725 added"], {"no_audio": 1},
              "c.txt: no audio of this name"),
    "nemo": ("", ["long.ogg 0+2 first part", "long.ogg 2+2 second part", "long.ogg 4+2 third part"],
             {}, ""),
    "nemojson": ("", ["a.ogg 0+0.748 calling"], {}, "split train is train_manifest.json"),
    "odd": ("text_column=none", ["joined.mp3 0+10.3", "twice.ogg 0+10.3", "vbr_noxing.mp3 0+5.22"],
            {}, ""),
    "self": ("", ["a.ogg 0+0.748 Calling", "b.ogg 0+0.723 Added"], {}, ""),
    "semi": ("", ["a.ogg 0+0.748 Calling, you"], {}, ""),
    "splits3": ("split=test", ["call-waiting.ogg 0+1.09 call-waiting",
                               "cancelled.ogg 0+0.963 cancelled"], {}, "2 of 6 audio files"),
}


def test_the_inputs_that_went_wrong(tmp_path, capsys):
    pytest.importorskip("av")
    before = everything(INPUTS)
    for name, (keys, rows, drops, said) in OUTCOMES.items():
        out = tmp_path / name
        code, screen = run(main, [INPUTS / name.strip(), out, *keys.split()], capsys)
        assert code == (2 if rows is None else 0) and said in screen, (name, screen)
        assert reasons(screen) == drops and sum(told(out).values(), []) == (rows or []), name
    code, screen = run(main, [INPUTS / "self", INPUTS / "self"], capsys)
    assert code == 2 and "is the source" in screen and "never written to" in screen
    code, screen = run(class_folders.main, [INPUTS / "cl_train2", tmp_path / "cl"], capsys)
    assert (tmp_path / "cl" / "classes.txt").read_text().split() == ["dog", "rain", "train"]
    assert len(sum(told(tmp_path / "cl").values(), [])) == 12 and code == 0
    assert "train is taken for a class, since dog, rain are beside it" in screen
    assert everything(INPUTS) == before


def test_texts_that_are_corrected_between_two_imports(tmp_path, capsys):
    source = shutil.copytree(INPUTS / "fixboth", tmp_path / "in")
    texts = {path: path.read_bytes() for path in source.glob("*.txt")}
    for path in list(texts)[:3]:
        path.write_bytes(b"caf\xe9")
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert code == 0 and reasons(screen) == {"bad_text": 3}
    for path, text in texts.items():
        path.write_bytes(text.upper())
    assert run(main, [source, tmp_path / "out"], capsys)[0] == 0
    assert run(main, [source, tmp_path / "new"], capsys)[0] == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "new")
    assert len(told(tmp_path / "out")["train"]) == 5


def tar(*members: tuple[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else content.encode()
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet(*rows: dict) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def heard(name: str, seconds: float = 1.0) -> dict:
    return {"bytes": sound(name, seconds), "path": name}


def test_parts_and_texts_of_shards(tmp_path, capsys):
    part = json.dumps({"text": "part", "offset": 2, "duration": "1"})
    cut = json.dumps({"text": "cut before", "offset": 99, "duration": 3})
    lay(tmp_path / "in", {"TRAIN-0.tar": tar(
        ("a.wav", sound("a.wav", 6)), ("a.json", part), ("b.wav", sound("b.wav", 3)),
        ("b.json", cut), ("c.wav", sound("c.wav", 1)), ("c.json", cut.replace("99", "0.5")),
        ("d.wav", sound("d.wav", 1)), ("d.txt", "hé".encode("utf-16")), ("e.wav", b"x"),
        ("e.txt", b"caf\xe9"), ("f.wav", sound("f.wav", 1)), ("f.json", "[" * 9000))})
    code, screen = run(main, [tmp_path / "in", tmp_path / "out", "unpack=true"], capsys)
    assert sum(told(tmp_path / "out").values(), []) == [
        "a.wav 2+1 part", "b.wav 0+3 cut before", "d.wav hé"]
    assert code == 0 and reasons(screen) == {"beyond_end": 1, "bad_text": 1, "bad_json": 1}
    assert "1 clips are whole files, which are as long as the parts that their rows name" in screen
    run(main, [tmp_path / "in", tmp_path / "o", "offset_column=none", "unpack=true"], capsys)
    assert "a.wav 0+6 part" in told(tmp_path / "o")["train"]


def test_parts_paths_and_splits_of_parquet(tmp_path, capsys, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = lay(tmp_path, {"in/train.parquet": parquet(
        {"audio": heard("a.wav", 6), "text": "x", "start": 1.0, "end": 3.0, "language": "German"},
        {"audio": heard("b.wav"), "text": None, "start": 0.0, "end": 1.0, "language": None},
        {"audio": None, "text": "y", "start": 0.0, "end": 1.0, "language": None})}) / "in"
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert told(tmp_path / "out") == {"train": ["out-train-00000000.wav 1+2 x <de>"]}
    assert code == 0 and reasons(screen) == {"missing_text": 1, "empty": 1}
    assert "clips are parts of their files by start, end" in screen
    code, screen = run(main, [source / "train.parquet", tmp_path / "out", "split=test"], capsys)
    assert code == 2 and "no split test; it is train" in screen
    lay(tmp_path / "paths", {"a.wav": 1, "train.parquet": parquet(
        {"path": "a.wav", "text": "x"}, {"path": "gone.wav", "text": "y"})})
    code, screen = run(main, [tmp_path / "paths", tmp_path / "p"], capsys)
    assert code == 1 and reasons(screen) == {"missing_file": 1} and "gone.wav" in screen
    whole = datasets.Dataset.from_list([{"audio": heard(f"{n}.wav"), "text": n} for n in "abc"])
    saved = datasets.DatasetDict({"train": whole.select([0, 1]), "test": whole.select([2])})
    saved.save_to_disk(str(tmp_path / "saved"))
    for split, count in (("test", 1), ("all", 3)):
        assert run(main, [tmp_path / "saved", tmp_path / "s", f"split={split}"], capsys)[0] == 0
        assert len(told(tmp_path / "s")[split]) == count
    code, screen = run(main, [tmp_path / "saved" / "train", tmp_path / "t", "split=test"], capsys)
    assert code == 2 and "no split test; it is train" in screen


COMMANDS = {f"{c}/{i}_nohash_0.wav": 0.1 for c in ("yes", "no") for i in range(3)}
# name: (files, keys, {split: number of rows}, classes, drops, exit code, what is said)
CLASSES = {
    "lists of Speech Commands": (
        {**COMMANDS, "_background_noise_/n.wav": 1, "validation_list.txt": "yes/0_nohash_0.wav\n",
         "testing_list.txt": "no/1_nohash_0.wav\nno/gone.wav\n"}, "background=_background_noise_",
        {"train": 5, "validation": 1, "test": 1}, "no yes", {"missing_file": 1}, 1,
        "splits are those of testing_list.txt, validation_list.txt"),
    "train-clean beside test-clean": (
        {"train-clean/dog/a.wav": 1, "test-clean/dog/b.wav": 1}, "",
        {"train": 1, "validation": 0, "test": 1}, "dog", {}, 0, "train-clean -> train"),
    "folds": ({"fold1/dog/a.wav": 1, "fold2/dog/b.wav": 1}, "",
              {"train": 2, "validation": 0, "test": 0}, "fold1 fold2", {}, 0,
              "each of them holds folders dog; if these are the classes, put them first"),
    "odd names": ({"dog /a.wav": 1, "dog/b.wav": 1, "a\nb/c.wav": 1, ".git/d.wav": 1,
                   "far": Link("/nowhere"), "dog/up": Link("..")}, "",
                  {"train": 3, "validation": 0, "test": 0}, "a b\ndog", {"no_class_folder": 1}, 0,
                  "no part of the names of classes: 'a\\nb', 'dog '"),
    "no such background": ({"dog/a.wav": 1}, "background=cat", {}, None, {}, 2, "there are dog"),
}


def test_class_folders(tmp_path, capsys):
    for number, (name, case) in enumerate(CLASSES.items()):
        files, keys, counts, classes, drops, code, said = case
        source, out = lay(tmp_path / str(number), files), tmp_path / f"out{number}"
        before = everything(source)
        found, screen = run(class_folders.main, [source, out, *keys.split()], capsys)
        assert found == code and said in screen and reasons(screen) == drops, (name, screen)
        assert {split: len(rows) for split, rows in told(out).items()} == counts, name
        if classes is not None:
            assert (out / "classes.txt").read_text().split() == classes.split(), name
        assert everything(source) == before


def test_clips_that_vanish_are_not_dropped_in_silence(tmp_path, capsys):
    """A folder without a table on a disk that is away: an import run again keeps its manifest."""
    disk = lay(tmp_path / "disk", {f"{n}.{end}": content for n in range(3)
                                   for end, content in (("wav", 1), ("txt", f"t{n}"))})
    source = lay(tmp_path / "in", {"far": Link(str(disk)), **{
        f"near/{n}.{end}": content for n in range(30)
        for end, content in (("wav", 0.1), ("txt", f"n{n}"))}})
    classes = lay(tmp_path / "classes", {f"{name}/{n}.wav": 0.1 for name in ("cat", "dog")
                                         for n in range(5)})
    assert run(main, [source, tmp_path / "out"], capsys)[0] == 0
    assert run(class_folders.main, [classes, tmp_path / "c"], capsys)[0] == 0
    whole, sounds = everything(tmp_path / "out"), everything(tmp_path / "c")
    (source / "near" / "7.wav").unlink()  # one that somebody deleted is no disk
    (source / "near" / "7.txt").unlink()
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert code == 0 and "0 new, 0 changed, 1 gone" in screen
    whole = everything(tmp_path / "out")
    disk.rename(tmp_path / "away")
    disk.mkdir()
    shutil.rmtree(classes / "dog")
    for command, arguments, before, count in (
        (main, [source, tmp_path / "out"], whole, "3 of 32"),
        (class_folders.main, [classes, tmp_path / "c"], sounds, "5 of 10"),
    ):
        code, screen = run(command, arguments, capsys)
        assert code == 2 and f"{count} clips of the manifest are there no longer" in screen
        now = everything(arguments[1])
        assert all(now[name] == data for name, data in before.items() if name != "drops.json")
        assert run(command, [*arguments, "allow_gone=true"], capsys)[0] == 0
    assert [len(rows) for rows in told(tmp_path / "out").values()] == [29]
    assert sum(map(len, told(tmp_path / "c").values())) == 5


def test_another_command_may_drop_clips(tmp_path, capsys):
    source = lay(tmp_path / "in", {f"{n}.wav": 1 for n in range(4)})
    run(main, [source, tmp_path / "out", "text_column=none"], capsys)
    for path in list(source.iterdir())[:3]:
        path.unlink()
    assert run(main, [source, tmp_path / "out", "text_column=none"], capsys)[0] == 2
    keys = ["text_column=none", "language=de"]
    assert run(main, [source, tmp_path / "out", *keys], capsys)[0] == 0
    assert read_json(tmp_path / "out" / "drops.json")["train"]["asked"] == {
        "split": "train", "text_column": "none", "language": "de"}


def test_a_table_that_was_edited_may_drop_clips(tmp_path, capsys):
    source = lay(tmp_path / "in", {**{f"{n}.wav": 1 for n in range(4)}, "train.jsonl": jsonl(
        *({"path": f"{n}.wav", "text": "x"} for n in range(4)))})
    run(main, [source, tmp_path / "out"], capsys)
    lay(source, {"train.jsonl": jsonl({"path": "0.wav", "text": "corrected"})})
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert code == 0 and "0 new, 1 changed, 3 gone" in screen
    assert told(tmp_path / "out") == {"train": ["0.wav corrected"]}


def test_what_a_killed_import_had_begun_to_store_goes(tmp_path, capsys, monkeypatch):
    lay(tmp_path / "in", {"train.tar": tar(*((f"{n}.wav", sound(n, 1)) for n in "abc"))})
    arguments = [tmp_path / "in", tmp_path / "out", "text_column=none", "unpack=true"]
    real = os.replace

    def killed(begun, path):
        if str(path).endswith(".wav") and "/b-" in str(path):
            shutil.copy(begun, f"{begun}x"[:-5] + "9.tmp")  # as SIGKILL leaves it
            raise KeyboardInterrupt
        real(begun, path)

    with monkeypatch.context() as patch:
        patch.setattr("distill.data.files.os.replace", killed)
        assert run(main, arguments, capsys)[0] == 130
    assert len([name for name in everything(tmp_path / "out") if name.endswith(".tmp")]) == 1
    assert run(main, arguments, capsys)[0] == 0
    arguments[1] = tmp_path / "new"
    assert run(main, arguments, capsys)[0] == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "new")


def test_files_that_are_transcribed_or_tagged(tmp_path):
    """Each under its own name, once, however it is reached; loops and links to nothing, too."""
    folder = lay(tmp_path / "in", {
        "a.wav": 1, "a.flac": 1, "same.wav": Link("a.wav"), "gone.wav": Link("/nowhere"),
        "self": Link("self"), "up": Link("."), "far": Link("../far"), "../far/b.WAV": 1,
        "._a.wav": b"x", "__MACOSX/a.wav": b"x", "notes.txt": "x"})
    names = ["a.flac", "a.wav", "far/b.WAV", "gone.wav", "same.wav", "self"]
    beside = output_places([folder, folder / "a.wav", folder / "up" / "same.wav"], None)
    assert sorted(path.relative_to(folder).as_posix() for path in beside) == names
    assert all(path == place for path, place in beside.items())
    into = output_places([folder], tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in into.values()) == names
    with pytest.raises(ValueError, match="would both be written to"):
        output_places([folder, lay(tmp_path / "other", {"a.wav": 1})], tmp_path / "out")
