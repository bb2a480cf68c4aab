"""Imports that are started again under another name of their source, twice at a time, or into a
folder that their own source leads to."""

import json
import os
import subprocess
import sys

from distill.data import class_folders
from distill.data.files import read_json
from distill.data.hub_dataset import main
from distill.data.manifest import open_manifest
from distill.data.sources.journal import Journal
from tests.support.way_in import Link, everything, jsonl, lay, run, told

SOUNDS = {f"{n}.wav": 1 for n in range(4)}


def test_a_source_is_the_same_however_it_is_called(tmp_path, capsys, monkeypatch):
    """Also from another folder: clips that vanished are not dropped since a slash was added."""
    monkeypatch.chdir(tmp_path)
    lay(tmp_path, {**{f"in/{name}": content for name, content in SOUNDS.items()}, "cwd/x": "",
                   **{f"classes/dog/{name}": content for name, content in SOUNDS.items()}})
    assert run(main, ["in", "out", "text_column=none"], capsys)[0] == 0
    assert run(class_folders.main, ["classes", "c"], capsys)[0] == 0
    for folder in ("in", "classes/dog"):
        for name in ("1.wav", "2.wav", "3.wav"):
            (tmp_path / folder / name).unlink()
    for above, names in (("", ("in/", "./in", str(tmp_path / "in"))), ("../", ("../in",))):
        monkeypatch.chdir(tmp_path / ("cwd" if above else ""))
        for name in names:
            code, screen = run(main, [name, f"{above}out", "text_column=none"], capsys)
            assert code == 2 and "3 of 4 clips of the manifest are there no longer" in screen, name
            classes = name.replace("in", "classes") if "/in" not in name else f"{above}classes/"
            code, screen = run(class_folders.main, [classes, f"{above}c"], capsys)
            assert code == 2 and "3 of 4 clips" in screen, classes
    monkeypatch.chdir(tmp_path)
    report = read_json(tmp_path / "out" / "drops.json")
    del report["train"]["place"]  # of an earlier version
    (tmp_path / "out" / "drops.json").write_text(json.dumps(report))
    assert run(main, ["in/", "out", "text_column=none"], capsys)[0] == 2
    assert len(told(tmp_path / "out")["train"]) == 4


def test_an_output_that_the_source_leads_to_is_not_read(tmp_path, capsys):
    for number, link in enumerate(("more", "manifests")):  # the second is looked into for tables
        home = tmp_path / str(number)
        source = lay(home / "in", {**SOUNDS, link: Link("../out"), "../out/old.txt": "mine"})
        for split in ("train", "all"):
            arguments = [source, home / "out", f"split={split}", "text_column=none"]
            run(main, arguments, capsys)
            before = everything(home / "out")
            code, screen = run(main, arguments, capsys)
            assert code == 2 and "which the source leads to, lies in the output folder" in screen
            assert everything(home / "out") == before


def test_two_imports_at_once(tmp_path, capsys):
    """Of one name: the second says so. Of two names: both are in the report."""
    source = lay(tmp_path / "in", {**SOUNDS, "train.jsonl": jsonl({"path": "0.wav", "text": "x"}),
                                   "dev.jsonl": jsonl({"path": "1.wav", "text": "y"})})
    (tmp_path / "out").mkdir()
    with Journal(tmp_path / "out" / ".train.progress.jsonl"):
        code, screen = run(main, [source, tmp_path / "out"], capsys)
        assert code == 2 and "another import writes to" in screen and "wait until it ends" in screen
        assert run(main, [source, tmp_path / "out", "split=dev"], capsys)[0] == 0
    assert run(main, [source, tmp_path / "out"], capsys)[0] == 0
    assert set(read_json(tmp_path / "out" / "drops.json")) == {"train", "dev"}
    assert not list((tmp_path / "out").glob(".*"))


def test_reports_of_two_imports_are_joined(tmp_path):
    """Each process reads what is there and adds to it: no entry is lost."""
    code = """if True:
        import sys
        from pathlib import Path
        from distill.data.sources.report import Report
        from distill.data.sources.rows import RowFile
        out, name = Path(sys.argv[1]), sys.argv[2]
        with RowFile(out) as rows:
            for number in range(40):
                Report("in", out, f"{name}{number}")._write_entry(rows, 0, None)
    """
    started = [subprocess.Popen([sys.executable, "-c", code, tmp_path, name], cwd=os.getcwd())
               for name in "ab"]
    assert [process.wait() for process in started] == [0, 0]
    assert len(read_json(tmp_path / "drops.json")) == 80


def test_an_output_that_is_a_link_or_lies_in_one(tmp_path, capsys, monkeypatch):
    """`data` on another disk: rows lead to the audio from where the manifest really is."""
    lay(tmp_path, {"home/in/dog/0.wav": 1, "disk/far/deep/x": "", "home/data": Link("../disk/far"),
                   "home/out": Link("../disk/far/deep"), "home/link": Link("in")})
    monkeypatch.chdir(tmp_path / "home")
    for source in ("in", "link", str(tmp_path / "home" / "in")):
        for out in ("out", "data/mine", str(tmp_path / "home" / "out"), "plain"):
            for command, keys in ((main, ["text_column=none"]), (class_folders.main, [])):
                place = f"{out}/{command.__module__.rpartition('.')[2]}"
                assert run(command, [source, place, *keys], capsys)[0] == 0
                row, = open_manifest(f"{place}/train.jsonl").rows
                assert row.audio_filepath == str(tmp_path / "home/in/dog/0.wav"), (source, place)
