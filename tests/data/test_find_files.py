"""Folders as users have them: links, loops, leavings of systems, disks that are not there."""

import os

import pytest

from distill.data.find_files import AUDIO_SUFFIXES, find_audio, find_files, is_left_out


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names_of(folder):
    return [path.relative_to(folder).as_posix() for path in find_audio(folder)]


def test_names_of_audio_in_any_case_and_what_systems_leave_behind(tmp_path, capsys):
    good = ["A.WAV", "b.M4A", "c.sph", "deep/er/d e\n.Opus", "x.wav/in a folder of that name.mp3"]
    junk = ["._A.WAV", "__MACOSX/b.m4a", "deep/@eaDir/c.sph", ".ipynb_checkpoints/d.ogg",
            ".Trash/deep/e.flac", "lost+found/f.wav"]
    write(tmp_path, *good, *junk, "notes.txt", ".DS_Store", "wav", ".git/config")
    assert names_of(tmp_path) == sorted(good)
    said = capsys.readouterr().err
    assert "6 files" in said and "left out by name: .Trash/deep/e.flac, ._A.WAV" in said
    assert find_files(tmp_path, (".txt",)) == [tmp_path / "notes.txt"]
    assert capsys.readouterr().err == ""
    hidden = tmp_path / ".Trash"  # a folder that the user names is meant
    assert names_of(hidden) == ["deep/e.flac"]
    assert is_left_out("a/._b.wav") and not is_left_out("./a/../b.wav")
    assert {".wav", ".m4a", ".sph", ".amr", ".spx", ".webm", ".rf64"} <= AUDIO_SUFFIXES


def test_sound_under_other_names_is_said(tmp_path, capsys):
    write(tmp_path, "a.wav", "notes.txt", "picture.webp", "rec002")
    (tmp_path / "picture.webp").write_bytes(b"RIFF\x24\0\0\0WEBPVP8 ")
    os.mkfifo(tmp_path / "fifo")
    for name, data in (("rec001", b"RIFF\x24\0\0\0WAVEfmt "), ("deep/b.mp3.part", b"ID3\4\0"),
                       ("c.dat", b"\0\0\0\x20ftypM4A "), (".hidden", b"fLaC")):
        write(tmp_path, name)
        (tmp_path / name).write_bytes(data)
    assert names_of(tmp_path) == ["a.wav"]
    said = capsys.readouterr().err
    assert "3 files begin like sound and are not called so" in said
    assert ": c.dat, deep/b.mp3.part, rec001. They are left out" in said
    find_files(tmp_path, (".txt",))
    assert capsys.readouterr().err == ""


def test_links_to_folders_are_followed_once_and_loops_are_cut(tmp_path):
    folder, disk = tmp_path / "corpus", tmp_path / "disk"
    write(folder, "z/a.wav")
    write(disk, "b.wav", "sub/c.wav")
    (disk / "sub" / "up").symlink_to(disk)
    (folder / "a_link_to_z").symlink_to("z")  # what lies here itself keeps its own place
    (folder / "loop").symlink_to(tmp_path)
    (folder / "self").symlink_to(".")
    (folder / "m").symlink_to(disk)
    (folder / "n").symlink_to(disk)
    (folder / "file.wav").symlink_to(disk / "b.wav")
    assert names_of(folder) == ["file.wav", "m/b.wav", "m/sub/c.wav", "z/a.wav"]
    through = tmp_path / "link"
    through.symlink_to(folder)
    assert names_of(through) == names_of(folder)


def test_what_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    write(tmp_path, "a.wav")
    (tmp_path / "b.wav").symlink_to("/not/mounted/b.wav")
    (tmp_path / "disk").symlink_to("/not/mounted")
    (tmp_path / "v1.0").symlink_to("/not/mounted")
    (tmp_path / "notes.txt").symlink_to("/not/mounted/notes.txt")
    (tmp_path / "circle.wav").symlink_to("circle.wav")
    assert names_of(tmp_path) == ["a.wav", "b.wav", "circle.wav", "disk", "v1.0"]
    write(tmp_path, "closed/c.wav")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="closed: the folder cannot be read .Permission denied"):
        find_audio(tmp_path)
    with pytest.raises(ValueError, match="none: the folder cannot be read"):
        find_audio(tmp_path / "none")
