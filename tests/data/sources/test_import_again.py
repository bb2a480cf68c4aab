"""Imports that are stopped, run again, or pointed at folders that are not theirs."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from distill.data import hub_dataset
from distill.data.files import read_json, read_jsonl, write_jsonl
from distill.data.hub_dataset import build, main, parse_options
from distill.data.sources import journal
from tests.data.sources.test_tar_shards import shard, sound

ROOT = Path(__file__).resolve().parents[3]
INPUTS = ROOT / "tests" / "inputs"
AUDIO = ROOT / "recipes" / "demo" / "data" / "audio"
NAMES = ("activated", "added", "agent-incorrect", "agent-loggedoff", "agent-pass")


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(AUDIO / f"{name}.ogg", folder)
        (folder / f"{name}.txt").write_text(name)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def stop_after(monkeypatch, count: int) -> list[Path]:
    """Ctrl-C while a file is measured; lists those that are, in this run and later ones."""
    measured: list[Path] = []
    real, left = journal.audio_info, iter(range(count - 1, -1, -1))

    def measure(path):
        measured.append(path)
        if next(left, None) == 0:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(journal, "audio_info", measure)
    return measured


def corrected(folder: Path) -> None:
    """What people do to a corpus when an import has stopped."""
    (folder / "activated.txt").write_text("a correction")
    (folder / "added.ogg").unlink()
    shutil.copy(AUDIO / "calling.ogg", folder / "aaa.ogg")  # sorts before all that was read
    (folder / "aaa.txt").write_text("calling")
    shutil.copy(AUDIO / "cancelled.ogg", folder / "agent-incorrect.ogg")  # another sound


def test_a_folder_that_was_corrected_while_the_import_was_stopped(
    corpus, tmp_path, monkeypatch, capsys
):
    measured = stop_after(monkeypatch, 4)
    out = tmp_path / "out"
    assert main([str(corpus), str(out)]) == 130
    assert "Stopped; 3 clips are kept, the same command goes on." in capsys.readouterr().err
    with open(out / ".train.progress.jsonl", "a") as file:
        file.write('{"file": "torn')
    corrected(corpus)
    measured.clear()
    assert main([str(corpus), str(out)]) == 0
    names = sorted(path.name for path in measured)
    assert names == ["aaa.ogg", "agent-incorrect.ogg", "agent-loggedoff.ogg", "agent-pass.ogg"]
    assert main([str(corpus), str(tmp_path / "new")]) == 0
    assert tree(out) == tree(tmp_path / "new")
    texts = {row["id"]: row["text"] for row in read_jsonl(out / "train.jsonl")}
    assert texts["activated"] == "a correction" and "aaa" in texts and "added" not in texts


def test_shards_that_were_corrected_while_the_import_was_stopped(tmp_path, monkeypatch):
    source, out = tmp_path / "in", tmp_path / "out"
    members = [(f"{n}.{kind}", data) for n in range(4)
               for kind, data in (("flac", sound(1 + n / 4)), ("txt", f"text {n}".encode()))]
    shard(source / "train.tar", *members)
    stop_after(monkeypatch, 3)
    assert main([str(source), str(out), "unpack=true"]) == 130
    assert len(list((out / "audio").rglob("*.flac"))) == 3
    members[0] = ("0.flac", sound(3))  # its first sound is no longer of any row
    members[3] = ("1.txt", b"corrected")
    shard(source / "train.tar", ("new.flac", sound(2)), ("new.txt", b"new"), *members[:6])
    for folder in (out, tmp_path / "new"):
        assert main([str(source), str(folder), "unpack=true"]) == 0
    assert tree(out) == tree(tmp_path / "new")
    assert [row["text"] for row in read_jsonl(out / "train.jsonl")] == [
        "new", "text 0", "corrected", "text 2"]


def test_a_finished_import_says_what_changed(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    build(str(corpus), out, parse_options([]))
    capsys.readouterr()
    build(str(corpus), out, parse_options([]))
    assert "since the last import: 0 new, 0 changed, 0 gone" in capsys.readouterr().out
    corrected(corpus)
    build(str(corpus), out, parse_options([]))
    assert "since the last import: 1 new, 2 changed, 1 gone" in capsys.readouterr().out


def test_what_cannot_be_opened_now_is_taken_in_later(tmp_path, capsys):
    """A disk that is not mounted: half of the clips behind a link."""
    disk, source, out = tmp_path / "disk", tmp_path / "source", tmp_path / "out"
    disk.mkdir()
    source.mkdir()
    for name in NAMES[:3]:
        shutil.copy(AUDIO / f"{name}.ogg", disk)
    (source / "wav").symlink_to(disk)
    rows = [{"file_name": f"wav/{name}.ogg", "text": name} for name in NAMES[:3]]
    write_jsonl(source / "metadata.jsonl", rows)
    (disk / f"{NAMES[0]}.ogg").rename(tmp_path / "away.ogg")
    assert main([str(source), str(out)]) == 1
    said = capsys.readouterr().out
    assert "NOT COMPLETE: 1 clips could not be opened now" in said and "missing_file 1" in said
    (tmp_path / "away.ogg").rename(disk / f"{NAMES[0]}.ogg")
    assert main([str(source), str(out)]) == 0
    assert main([str(source), str(tmp_path / "new")]) == 0
    whole = tree(tmp_path / "new")
    assert tree(out) == whole

    disk.rename(tmp_path / "unmounted")  # after it was complete: nothing of it is lost
    assert main([str(source), str(out)]) == 2
    assert tree(out)["train.jsonl"] == whole["train.jsonl"]
    disk.mkdir()
    shutil.copy(tmp_path / "unmounted" / f"{NAMES[0]}.ogg", disk)
    assert main([str(source), str(out)]) == 2
    assert "2 clips of " in capsys.readouterr().err
    assert tree(out)["train.jsonl"] == whole["train.jsonl"]


def test_ids_that_are_not_unique(tmp_path, capsys):
    """None is lost, and the order of the table does not matter."""
    source = tmp_path / "source"
    source.mkdir()
    for name in NAMES[:3]:
        shutil.copy(AUDIO / f"{name}.ogg", source)
    rows = [{"id": "same", "file_name": "activated.ogg", "text": "one"},
            {"id": "same", "file_name": "added.ogg", "text": "two"},
            {"id": "same", "file_name": "added.ogg", "text": "another"},
            {"id": "same", "file_name": "added.ogg", "text": "two"},
            {"id": "own", "file_name": "agent-incorrect.ogg", "text": "three"}]
    found = []
    for order in (rows, rows[::-1]):
        write_jsonl(source / "metadata.jsonl", order)
        manifest = build(str(source), tmp_path / "out", parse_options([]))
        found.append({row["id"]: row["text"] for row in read_jsonl(manifest)})
        said = capsys.readouterr().out
        assert "3 rows had ids that were not unique" in said
        assert "dropped 1 of 5 rows: duplicate 1" in said
    assert found[0] == found[1] and sorted(found[0].values()) == ["another", "one", "three", "two"]
    assert found[0]["own"] == "three" and all(
        name == "own" or name.startswith("same-") for name in found[0])


def test_parts_of_files_lie_within_them():
    clip, seconds = hub_dataset.Clip("a"), 2.0
    good = {(0.0, None): (0.0, 2.0), (0.5, None): (0.5, 1.5), (0.5, 1.0): (0.5, 1.0),
            (1.0, 1.04): (1.0, 1.0)}
    for (offset, duration), expected in good.items():
        part = hub_dataset.replace(clip, offset=offset, duration=duration)
        assert hub_dataset.part_of(part, seconds) == expected
    bad = {(-0.1, None): "bad_offset", (float("nan"), 1.0): "bad_offset", (2.0, None): "beyond_end",
           (3.0, 1.0): "beyond_end", (1.0, 1.1): "beyond_end", (0.0, 0.0): "bad_duration",
           (0.0, -1.0): "bad_duration", (0.0, float("nan")): "bad_duration"}
    for (offset, duration), reason in bad.items():
        with pytest.raises(hub_dataset.AudioError) as error:
            hub_dataset.part_of(hub_dataset.replace(clip, offset=offset, duration=duration), 2.0)
        assert error.value.reason == reason


def test_a_source_is_never_written_to(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    shutil.copytree(INPUTS / "self", home / "self")
    (home / "link").symlink_to(home / "self")
    monkeypatch.chdir(home)
    before = tree(home)
    for source, out in (("self", "self"), ("self", "./self/"), ("self", "self/out"), ("self", "."),
                        ("self", "link"), ("link", "self/a/b"), (".", "out"), ("self", ".."),
                        ("self", str(home / "self")), ("self/train.jsonl", "self")):
        assert main([source, out]) == 2, (source, out)
        error = capsys.readouterr().err
        assert "which is never written to: say another one, such as " in error
        assert len(error.splitlines()) == 1 and tree(home) == before, (source, out)
    outside = tmp_path / "outside"  # by a folder of the source that is a link
    outside.mkdir()
    shutil.copy(AUDIO / "added.ogg", outside)
    (outside / "added.txt").write_text("added")
    (home / "self" / "train.jsonl").unlink()
    (home / "self" / "more").symlink_to(outside)
    assert main(["self", str(outside)]) == 2
    assert "lies in the output folder" in capsys.readouterr().err
    assert not (outside / "train.jsonl").exists()


def test_files_of_others_are_not_written_over(corpus, tmp_path, capsys):
    for name in ("train.jsonl", "drops.json", "audio"):
        out = tmp_path / name
        out.mkdir()
        if name == "audio":
            (out / name).mkdir()
        else:
            (out / name).write_text('{"id": "mine"}\n')
        before = tree(out)
        assert main([str(corpus), str(out)]) == 2
        assert "was not made by this command" in capsys.readouterr().err
        assert tree(out) == before
    out = tmp_path / "out"
    for name in ("train", "dev", "train"):  # but our own are
        assert main([str(corpus), str(out), f"name={name}"]) == 0
    with open(out / "train.jsonl", "a") as file:
        file.write('{"id": "mine"}\n')
    capsys.readouterr()
    assert main([str(corpus), str(out)]) == 2
    assert "train.jsonl was changed since it was made" in capsys.readouterr().err
    assert main([str(corpus), str(out), "name=dev"]) == 0
    assert set(read_json(out / "drops.json")) == {"train", "dev"}


def test_a_kill_between_the_manifest_and_its_report(corpus, tmp_path, monkeypatch):
    """What it wrote is its own, though nothing says so yet but the journal."""
    out = tmp_path / "out"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distill.data.sources.report.write_json", killed)
        assert main([str(corpus), str(out)]) == 130
    assert (out / "train.jsonl").is_file() and not (out / "drops.json").exists()
    assert main([str(corpus), str(out)]) == 0 == main([str(corpus), str(tmp_path / "new")])
    assert tree(out) == tree(tmp_path / "new")


def test_a_full_disk_is_one_sentence(corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "train.jsonl"))

    with monkeypatch.context() as patch:
        patch.setattr("distill.data.sources.rows.write_atomic", full)
        assert main([str(corpus), str(out)]) == 2
    error = capsys.readouterr().err
    assert f"cannot write to {out}: No space left" in error and "the same command goes on" in error
    assert main([str(corpus), str(out)]) == 0
    (tmp_path / "file").write_text("")
    assert main([str(corpus), str(tmp_path / "file")]) == 2
    assert "is a file; say a folder, such as" in capsys.readouterr().err


def test_files_as_sources(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    shard(tmp_path / "all.tar", ("a.flac", sound()), ("a.txt", b"a"))
    assert main([str(tmp_path / "all.tar"), str(out)]) == 0
    (tmp_path / "all.zip").write_text("")
    for source, message in ((corpus / "added.ogg", f"one audio file; say its folder, {corpus}"),
                            (tmp_path / "all.zip", "unpack it"),
                            (tmp_path / "corpse", f"did you mean {corpus}?"),
                            (corpus / "deep" / "er", "no folder in")):
        assert main([str(source), str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()
