"""A disk that goes away, and comes back: nothing is settled meanwhile, and the end is the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState

import distill.train
from distill.ced.data.clips import ClipError
from distill.ced.data.view_source import ViewSource
from distill.ced.task import CedTask
from distill.ced.teachers.scoring import Scorer
from distill.data.audio import AudioError
from distill.data.files import read_json, write_json
from distill.data.teacher_store import StoreError, TeacherStore
from distill.data.unreadable import UnreadableError
from distill.endings import run as run_command
from pseudo_label import tag_scores

ROOT = Path(__file__).resolve().parents[2]
UNMIXED = "views.mixup_probability=0"
LABELS = "teacher.members=[]"
ANY = "data.max_unreadable=1"  # so that what is left goes on


class Disk:
    """The training sounds of a corpus; `away(names)` moves some, or all, out of reach."""

    def __init__(self, folder: Path):
        self.folder, self.other = folder, folder.with_name("unmounted")

    def away(self, *names: str) -> None:
        if not names:
            self.folder.rename(self.other)
            return
        self.other.mkdir()
        for name in names:
            (self.folder / name).rename(self.other / name)

    def back(self) -> None:
        if not self.folder.exists():
            self.other.rename(self.folder)
            return
        for path in self.other.iterdir():
            path.rename(self.folder / path.name)
        self.other.rmdir()


@pytest.fixture
def corpus(make_tags, tmp_path, monkeypatch):
    """Tags of 14 clips of one second or less, in blocks of 3 and groups of 2 blocks; a disk."""
    monkeypatch.setattr("distill.ced.teachers.scoring.BLOCK_CLIPS", 3)
    monkeypatch.setattr("distill.ced.teachers.recorded.BLOCK_CLIPS", 3)
    monkeypatch.setattr(tag_scores, "NUM_GROUPS", 5)
    return make_tags(tmp_path, train=[0.5] * 14), Disk(tmp_path / "data" / "train")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())
            if path.name not in ("recipe.yaml", ".checked.json")}


def score(tags, folder: Path, *overrides: str) -> None:
    tag_scores.main(tags.arguments(f"scores.dir={folder}", "data.cache_megabytes=0", *overrides))


def train(tags, run: Path, *overrides: str) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main([*tags.arguments(*overrides), f"output_dir={run}"])
    return run


def students(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "student").iterdir()}


def launch(module: str, arguments: list[str], log: Path) -> multiprocessing.Process:
    """As users do: Python is started anew."""
    def start():
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])

    process = multiprocessing.get_context("fork").Process(target=start)
    process.start()
    return process


def test_away_before_scoring(corpus, tmp_path, capsys):
    tags, disk = corpus
    folder = tmp_path / "scores"
    for names in ([], ["2.wav"], [f"{n}.wav" for n in range(7)]):
        disk.away(*names)
        with pytest.raises(UnreadableError, match="missing_file"):
            score(tags, folder)
        assert not folder.exists(), "its settings would be those of other clips"
        disk.back()
    told = capsys.readouterr().out
    assert "Cannot read clip train-2: missing_file: " in told
    assert "further clips that are missing_file are only counted" in told
    score(tags, folder)
    score(tags, tmp_path / "undisturbed")
    assert tree(folder) == tree(tmp_path / "undisturbed")


def test_half_away_where_views_are_one_clip_each(corpus, tmp_path):
    """What needs none of the missing clips is scored; the rest is neither sealed nor trained on."""
    tags, disk = corpus
    folder = tmp_path / "scores"
    disk.away("2.wav")
    with pytest.raises(UnreadableError, match=r"not complete: 1 of 14 .*1 missing_file \(train-2\)"
                                              r".*data.train, the same command goes on"):
        score(tags, folder, UNMIXED)
    store = TeacherStore(folder)
    assert store.num_views == 6 and not store.is_sealed()
    assert not any((store.read(row)["disagreement"] == 255).any() for row in store.all_rows())
    with pytest.raises(UnreadableError, match="training does not begin: 1 of 14"):
        train(tags, tmp_path / "run", UNMIXED, f"scores.dir={folder}")
    disk.back()
    with pytest.raises(StoreError, match="4 of 10 views are missing"):
        train(tags, tmp_path / "run", UNMIXED, f"scores.dir={folder}")
    score(tags, folder, UNMIXED)
    score(tags, tmp_path / "undisturbed", UNMIXED)
    assert tree(folder) == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("names", [[], ["12.wav"]], ids=["whole", "half"])
@pytest.mark.parametrize("at", ["group", "view"])
def test_away_while_scoring(corpus, tmp_path, monkeypatch, names, at):
    """Noticed before a group is begun, or in the middle of one."""
    tags, disk = corpus
    folder, calls = tmp_path / "scores", []
    owner, name = (("teachers.scoring.Scorer", "record") if at == "group" else
                   ("data.view_source.ViewSource", "try_wave"))
    module, _, kind = owner.rpartition(".")
    plain = getattr(getattr(import_module(f"distill.ced.{module}"), kind), name)

    def unmounts(*arguments):
        calls.append(1)
        if len(calls) == (2 if at == "group" else 8):
            disk.away(*names)
        return plain(*arguments)

    monkeypatch.setattr(f"distill.ced.{owner}.{name}", unmounts)
    asked = []
    score_views = __import__("distill.ced.teachers.scoring", fromlist=["x"]).Scorer.score
    monkeypatch.setattr("distill.ced.teachers.scoring.Scorer.score", lambda self, prepared: (
        asked.append(prepared.unreadable), score_views(self, prepared))[1])
    expected = "scoring stops: " if not names else "not complete: 1 of 14"
    with pytest.raises(UnreadableError, match=expected):
        score(tags, folder, *([UNMIXED] if names else []))
    assert not any(asked), "the teachers heard silence"
    store = TeacherStore(folder)
    assert store.num_views == (6 if names else 2), "the others went on"
    assert not list(folder.glob("*.lease*"))
    monkeypatch.undo()
    monkeypatch.setattr("distill.ced.teachers.scoring.BLOCK_CLIPS", 3)
    monkeypatch.setattr(tag_scores, "NUM_GROUPS", 5)
    disk.back()
    score(tags, folder, *([UNMIXED] if names else []))
    score(tags, tmp_path / "undisturbed", *([UNMIXED] if names else []))
    assert tree(folder) == tree(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("launched", [False, True])
def test_away_while_a_command_scores(corpus, fork, tmp_path, monkeypatch, launched):
    """Another process, that knows nothing of it: what it says, how it ends, what it leaves."""
    tags, disk = corpus
    monkeypatch.undo()
    folder, log = tmp_path / "scores", tmp_path / "log"
    options = [UNMIXED, "data.cache_megabytes=0", "train.max_steps=60", "scores.epochs=24"]
    arguments = tags.arguments(f"scores.dir={folder}", *options)
    score(tags, tmp_path / "undisturbed", *options)
    record = Scorer.record
    monkeypatch.setattr(Scorer, "record", lambda *block: (time.sleep(0.02), record(*block))[1])
    process = (launch if launched else fork)("pseudo_label.__main__", arguments, log)
    while process.is_alive() and len(list(folder.glob("*.h5"))) < 2:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGSTOP)
    disk.away()
    os.kill(process.pid, signal.SIGCONT)
    process.join(60)
    told = log.read_text()
    assert process.exitcode == 1 and "Traceback" not in told, told
    assert "error: scoring stops: " in told and "Bring back what is missing" in told
    store = TeacherStore(folder)
    assert 2 <= store.num_views < 24 and not store.is_sealed()
    assert not list(folder.glob("*.lease*"))
    disk.back()
    process = (launch if launched else fork)("pseudo_label.__main__", arguments, log)
    process.join(60)
    assert process.exitcode == 0, log.read_text()
    assert tree(folder) == tree(tmp_path / "undisturbed")


def test_what_was_settled_for_a_moment_is_scored_again(corpus, tmp_path, monkeypatch, capsys):
    """As versions before did: whatever the reason, no student would ever learn from the clip."""
    tags, _ = corpus
    folder = tmp_path / "scores"

    def old(self, index, view):
        return (ClipError("train-2", AudioError("unreadable", "2.wav")) if index == 2 else
                self.wave(index, view))

    with monkeypatch.context() as patch:
        patch.setattr(ViewSource, "try_wave", old)
        score(tags, folder)
    write_json(folder / "unreadable.json", {"clip train-2: 2.wav": "missing_file"})
    with pytest.raises(UnreadableError, match="1 missing_file.*make NAME.label.*scored again"):
        train(tags, tmp_path / "run", f"scores.dir={folder}")
    with pytest.raises(StoreError, match="clips could not be opened when it was made"):
        score(tags, folder, "views.seed=3")  # as of clips whose files were not there
    capsys.readouterr()
    score(tags, folder)
    assert "2 of 10 blocks were scored when some of the audio could" in capsys.readouterr().out
    assert not (folder / "unreadable.json").exists()
    score(tags, tmp_path / "undisturbed")
    one, other = TeacherStore(folder), TeacherStore(tmp_path / "undisturbed")
    assert one.num_views == other.num_views == 10
    texts = [one.key(row) for row in one.all_rows()]
    for mine, theirs in zip(one.rows(texts), other.rows(texts), strict=True):
        for name, values in one.read(mine).items():
            assert np.array_equal(values, other.read(theirs)[name]), name


@pytest.mark.parametrize(("mode", "workers"), [((), 0), ((LABELS,), 1)], ids=["store", "labels"])
def test_away_while_training(corpus, tmp_path, monkeypatch, mode, workers):
    tags, disk = corpus
    common = [*mode, f"scores.dir={tmp_path / 'scores'}", "data.cache_megabytes=0",
              "train.save_every=1", f"train.num_workers={workers}", "train.max_steps=6"]
    if not mode:
        score(tags, tmp_path / "scores", *common)
    whole = train(tags, tmp_path / "whole", *common)
    plain, calls = CedTask.count, []

    def unmounts(self, batch):
        calls.append(1)
        if len(calls) == 2:
            disk.away()
        return plain(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(CedTask, "count", unmounts)
        with pytest.raises(UnreadableError, match=r"training stopped after step \d, everything "
                                                  r"is saved: missing_file: clip train-\d+: /"):
            train(tags, tmp_path / "run", *common)
    with pytest.raises(UnreadableError, match="training stops: 14 of 14 clips"):
        train(tags, tmp_path / "run", *common)
    disk.back()
    train(tags, tmp_path / "run", *common)
    assert students(tmp_path / "run") == students(whole)
    mine, theirs = (read_json(run / "student.json") for run in (tmp_path / "run", whole))
    assert mine == theirs


# Faults of the file


@pytest.mark.parametrize("mode", [(), (LABELS,), ("teacher.mode=live",)],
                         ids=["store", "labels", "live"])
def test_a_bad_file_is_told_counted_once_and_remembered(corpus, tmp_path, capsys, mode):
    tags, disk = corpus
    (disk.folder / "3.wav").write_bytes(b"RIFF, and nothing else")
    common = [*mode, f"scores.dir={tmp_path / 'scores'}"]
    if not mode:
        score(tags, tmp_path / "scores", *common)
        assert capsys.readouterr().out.count("Cannot read clip train-3: unreadable: ") == 1
    train(tags, tmp_path / "run", *common, "train.max_steps=4")
    told = capsys.readouterr().out
    if mode:
        assert told.count("Cannot read clip train-3: unreadable: ") == 1
        assert "Clips left out so far, by reason: 1 unreadable" in told
    data = read_json(tmp_path / "run" / "student.json")["data"]
    assert data["count"] == 13 and data["drops"] == {"unreadable": 1}
    assert "left out: 1 unreadable" in told.splitlines()[-1]


def test_too_many_bad_files_end_a_stage(corpus, tmp_path):
    tags, disk = corpus
    for number in (3, 5, 7):
        (disk.folder / f"{number}.wav").write_bytes(b"RIFF, and nothing else")
    for mode in ((), (LABELS,)):
        stage = score if not mode else train
        with pytest.raises(UnreadableError, match=r"stops: \d of 14 clips .*unreadable .*"
                                                  r"data.max_unreadable \(now 0.05: 5%\)"):
            stage(tags, tmp_path / "scores", *mode)
    train(tags, tmp_path / "run", LABELS, ANY)
    assert read_json(tmp_path / "run" / "student.json")["data"]["drops"] == {"unreadable": 3}


def test_test_clips(corpus, tmp_path, capsys):
    """A bad one is counted; one that is not there ends the evaluation before a model is loaded."""
    from eval.tagging import measure as tagging

    tags, _ = corpus
    run = train(tags, tmp_path / "run", LABELS, "train.max_steps=1")
    arguments = [*tags.arguments(LABELS), f"output_dir={run}"]
    path = tmp_path / "data" / "test" / "1.wav"
    sound = path.read_bytes()
    path.unlink()
    with pytest.raises(UnreadableError, match="data.test does not begin: 1 of 6 .*missing_file"):
        tagging.main(arguments)
    path.write_bytes(b"RIFF, and nothing else")
    tagging.main(arguments)
    results = read_json(run / "eval" / "results.json")
    assert results["drops"] == {"unreadable": 1} and results["num_recordings"] == 5
    assert "Cannot read clip test-1: unreadable: " in capsys.readouterr().out
    path.write_bytes(sound)
    tagging.main(arguments)
    assert read_json(run / "eval" / "results.json")["num_recordings"] == 6


def test_ctrl_c_and_a_folder_that_cannot_be_written(corpus, tmp_path, monkeypatch, capsys):
    tags, _ = corpus
    folder, calls = tmp_path / "scores", []
    monkeypatch.setattr("distill.endings.signal.signal", lambda *_: None)
    plain = Scorer.record

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "record", interrupted)
        with pytest.raises(SystemExit) as end:
            run_command(tag_scores.main, tags.arguments(f"scores.dir={folder}"))
    assert end.value.code == 130
    assert f"Stopped; 4 of 10 blocks of views are kept in {folder}" in capsys.readouterr().err
    score(tags, folder)
    score(tags, tmp_path / "undisturbed")
    assert tree(folder) == tree(tmp_path / "undisturbed")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        run_command(tag_scores.main, tags.arguments(f"scores.dir={tmp_path / 'file' / 'scores'}"))
    assert end.value.code == 2 and f"{tmp_path}/file" in capsys.readouterr().err
