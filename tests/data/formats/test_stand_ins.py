"""What stands for a file: a `file:` URL, a pointer of Git LFS or git-annex that was not fetched."""

import gzip
import json

import pytest

from distill.data.audio import AudioError, audio_info
from distill.data.formats.addresses import is_remote
from distill.data.formats.places import fingerprint, place_of
from distill.data.hub_dataset import main
from distill.data.manifest import open_manifest
from tests.support.way_in import jsonl, lay, reasons, run, sound, told

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 32044\n"
ANNEX = b"/annex/objects/SHA256E-s32044--4d7a2.wav\n"


def test_urls_of_files(tmp_path, capsys, monkeypatch):
    """RFC 8089: with a host or none, of any case, with letters as %20; a name may hold a % too."""
    names = {"file://{here}/a%20b.wav": "a b.wav", "file://localhost{here}/100%25.wav": "100%.wav",
             "FILE:{here}/c.wav": "c.wav", "file://{here}/d%20e.wav": "d%20e.wav"}
    source = lay(tmp_path / "in", {
        **dict.fromkeys(names.values(), 1), "d e.wav": 1, "train.jsonl": jsonl(*(
            {"audio_filepath": name, "duration": 1, "text": "x"} for name in names))})
    paths = [str(source / name) for name in names.values()]
    assert [row.audio_filepath for row in open_manifest(source / "train.jsonl").rows] == paths
    assert [place_of(name.format(here=source)).path for name in names] == paths
    assert not any(map(is_remote, names)) and is_remote("s3://bucket/file://a")
    code, screen = run(main, [f"file://{source}", tmp_path / "out"], capsys)
    assert code == 0 and reasons(screen) == {}
    assert told(tmp_path / "out")["train"] == sorted(f"{name} x" for name in names.values())


def test_audio_that_was_not_fetched_is_taken_in_later(tmp_path, capsys):
    source = lay(tmp_path / "in", {"a.wav": LFS, "b.wav": ANNEX, "c.wav": 1,
                                   **{f"{n}.txt": n for n in "abc"}})
    for name, tool in (("a", "git lfs pull"), ("b", "git annex get")):
        with pytest.raises(AudioError, match=f"only a pointer of .*{tool}") as error:
            audio_info(source / f"{name}.wav")
        assert error.value.is_transient
        assert fingerprint(source / f"{name}.wav") is None  # as on a disk that is away
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert code == 1 and reasons(screen) == {"cannot_open": 2} and "NOT COMPLETE" in screen
    lay(source, {"a.wav": sound("a.wav", 1), "b.wav": sound("b.wav", 1)})
    assert run(main, [source, tmp_path / "out"], capsys)[0] == 0
    assert told(tmp_path / "out")["train"] == ["a.wav a", "b.wav b", "c.wav c"]


def test_texts_that_were_not_fetched_are_no_texts(tmp_path, capsys):
    source = lay(tmp_path / "in", {"a.wav": 1, "a.txt": LFS, "b.wav": 1, "b.txt": "b"})
    code, screen = run(main, [source, tmp_path / "out"], capsys)
    assert reasons(screen) == {"bad_text": 1} and told(tmp_path / "out")["train"] == ["b.wav b"]
    lay(source, {"metadata.csv": LFS})
    code, screen = run(main, [source, tmp_path / "o"], capsys)
    assert code == 2 and "metadata.csv: only a pointer of Git LFS: `git lfs pull`" in screen
    lay(source, {"train.jsonl": LFS})
    with pytest.raises(ValueError, match=r"train.jsonl: only a pointer of Git LFS"):
        open_manifest(source / "train.jsonl")


def test_a_packed_table_is_known_by_its_content(tmp_path, capsys):
    table = gzip.compress(b"file_name,text\na.wav,x\n")
    source = lay(tmp_path / "in", {"a.wav": 1, "metadata.csv": table})
    assert run(main, [source, tmp_path / "out"], capsys)[0] == 0
    assert told(tmp_path / "out") == {"train": ["a.wav x"]}


def test_json_without_a_bottom_is_a_sentence(tmp_path):
    for text in ("[" * 200_000, json.dumps({"audio_filepath": "a.wav"}) + "\n" + "[" * 200_000):
        (tmp_path / "m.jsonl").write_text(text)
        with pytest.raises(ValueError, match="nested|recursion"):
            open_manifest(tmp_path / "m.jsonl")
