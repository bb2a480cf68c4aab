"""WebDataset shards become manifests; what is broken is counted."""

import io
import json
import tarfile

import fsspec
import numpy as np
import pytest
import soundfile

from distill.data.audio import load_audio
from distill.data.files import read_json, read_jsonl
from distill.data.formats import remote
from distill.data.hub_dataset import build, parse_options
from distill.data.sources import tar_shards
from tests.support.range_server import range_server


def sound(seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(int(16_000 * seconds), np.float32), 16_000, format="FLAC")
    return buffer.getvalue()


def shard(path, *members: tuple[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def rows(folder, out, *options: str) -> dict[str, dict]:
    return {row["id"]: row for row in read_jsonl(build(folder, out, parse_options([*options])))}


def test_texts_and_fields(tmp_path):
    words = json.dumps({"sentence": "from json", "speaker": "x", "id": "own"}).encode()
    shard(tmp_path / "in" / "train-000.tar", ("./a/one.flac", sound()), ("./a/one.json", words),
          ("./a/two.flac", sound(2)), ("./a/two.json", words.replace(b"own", b"two")))
    shard(tmp_path / "in" / "train-001.tar.gz", ("three.json", words.replace(b"own", b"three")),
          ("three.FLAC", sound(3)))
    shard(tmp_path / "in" / "test-000.tar", ("four.flac", sound()), ("four.txt", b"test"))
    found = rows(tmp_path / "in", tmp_path / "out")
    assert list(found) == ["own", "two", "three"]
    assert [row["duration"] for row in found.values()] == [1.0, 2.0, 3.0]
    assert {row["text"] for row in found.values()} == {"from json"}
    assert {row["speaker"] for row in found.values()} == {"x"}
    audio = tmp_path / "out" / found["three"]["audio_filepath"]
    assert audio.read_bytes() == sound(3)
    assert list(rows(tmp_path / "in", tmp_path / "test", "split=test")) == ["four"]


def test_a_text_beside_and_dots_in_names(tmp_path):
    shard(tmp_path / "in" / "00000.tar", ("d/a.flac", sound()), ("d/a.txt", b" one  two "),
          ("e/a.flac", sound()), ("e/a.txt", "\u00fcber".encode()))
    with pytest.raises(ValueError, match="no shard begins with train; there are 00000.tar. Say"):
        rows(tmp_path / "in", tmp_path / "out")
    found = rows(tmp_path / "in", tmp_path / "out", "split=all")
    texts = {key: row["text"] for key, row in found.items()}
    assert texts == {"d/a": "one two", "e/a": "\u00fcber"}


def test_what_is_broken_is_counted(tmp_path):
    members = [("a.flac", sound()), ("a.txt", b"one"), ("b.txt", b"no audio"),
               ("c.flac", b"not audio"), ("c.txt", b"three"), ("d.flac", sound()),
               ("d.json", b"[1"), ("e.flac", sound(5)), ("e.txt", b"cut")]
    path = tmp_path / "in" / "train.tar"
    shard(path, *members)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"e.flac") + 700])
    shard(tmp_path / "in" / "train2.tar", ("f.flac", sound()), ("f.txt", b"goes on"))
    found = rows(tmp_path / "in", tmp_path / "out")
    assert list(found) == ["a", "f"]
    drops = read_json(tmp_path / "out" / "drops.json")["train"]["drops"]
    assert drops == {"no_audio": 1, "unreadable": 1, "bad_json": 1, "broken_shard": 1}


def test_without_texts(tmp_path):
    shard(tmp_path / "in" / "train.tar", ("a.flac", sound()), ("b.flac", sound()))
    with pytest.raises(ValueError, match="text_column=none"):
        rows(tmp_path / "in", tmp_path / "out")
    found = rows(tmp_path / "in", tmp_path / "out", "text_column=none")
    assert len(found) == 2 and "text" not in found["a"]


def test_all_kinds_of_members(tmp_path, capsys):
    """Two microphones, dots in names, pictures, what systems leave behind, broken sidecars."""
    one = json.dumps({"text": "one"}).encode()
    shard(tmp_path / "in" / "train.tar",
          ("none.json", b"{}"), ("none.flac", sound(0.5)),  # no text; the others have one
          ("a.near.flac", sound(1)), ("a.far.flac", sound(2)), ("a.json", one), ("a.jpg", b""),
          ("take.1.flac", sound(3)), ("take.1.txt", b"first"),
          ("take.2.flac", sound(4)), ("take.2.txt", b"second"),
          ("._b.flac", b"mac"), ("__MACOSX/b.flac", b"mac"), ("c.jpg", b""), ("c.txt", b"no audio"),
          ("d.flac", sound(5)), ("d.json", b"[1, 2]"), ("e.flac", sound(6)), ("e.txt", b"\xfcber"),
          ("f.WAV", sound(7)), ("f.txt", b"\xef\xbb\xbflast"))
    found = rows(tmp_path / "in", tmp_path / "out")
    assert {key: (row["text"], row["duration"]) for key, row in found.items()} == {
        "a.near": ("one", 1.0), "a.far": ("one", 2.0), "take.1": ("first", 3.0),
        "take.2": ("second", 4.0), "f": ("last", 7.0)}
    drops = read_json(tmp_path / "out" / "drops.json")["train"]["drops"]
    assert drops == {"missing_text": 1, "no_audio": 1, "bad_json": 1, "bad_text": 1}
    assert "not read in the shards: .jpg 2" in capsys.readouterr().out


def test_shards_and_audio_beside_them(tmp_path, capsys):
    """What is not read is said; an archive that was left beside its files is no shard."""
    folder = tmp_path / "in"
    shard(folder / "train.tar", ("a.flac", sound()), ("a.txt", b"a"))
    (folder / "b.flac").write_bytes(sound(2))
    (folder / "b.txt").write_text("b")
    assert list(rows(folder, tmp_path / "out")) == ["a"]
    assert "1 audio files beside them are not" in capsys.readouterr().out
    (folder / "train.tar").rename(folder / "download.tar")
    assert list(rows(folder, tmp_path / "out-b")) == ["b"]
    assert "1 tar files in it are not read (download.tar)" in capsys.readouterr().out
    (folder / "b.flac").unlink()
    (folder / "download.tar").unlink()
    (folder / "train-0.tar").symlink_to(tmp_path / "unmounted.tar")
    shard(folder / "train-1.tar", ("c.flac", sound()), ("c.txt", b"c"))
    assert list(rows(folder, tmp_path / "out-c")) == ["c"]
    assert "NOT COMPLETE: 1 clips" in capsys.readouterr().out


def test_clips_stay_in_their_shards(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    shard(folder / "train-000.tar", ("a/one.flac", sound()), ("a/one.txt", b"words"),
          ("./two.flac", sound(2)), ("./two.txt", b"words"))
    found = rows(folder, out)
    assert not (out / "audio").exists()
    for name, seconds in (("a/one", 1), ("two", 2)):
        place = found[name]["audio_filepath"]
        assert place.startswith("../in/train-000.tar#bytes=")
        assert np.array_equal(load_audio(f"{out}/{place}"), load_audio(sound(seconds)))
    before = (out / "train.jsonl").read_bytes()
    assert rows(folder, out) == found and (out / "train.jsonl").read_bytes() == before
    unpacked = rows(folder, tmp_path / "unpacked", "unpack=true")
    assert {row["audio_filepath"].split("/")[0] for row in unpacked.values()} == {"audio"}
    path = tmp_path / "unpacked" / unpacked["two"]["audio_filepath"]
    assert path.read_bytes() == sound(2)
    assert [row["duration"] for row in unpacked.values()] == [1.0, 2.0]


def test_shards_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.0,))
    monkeypatch.setattr(tar_shards, "_BLOCK_BYTES", 5000)
    folder = tmp_path / "in"
    for number in range(2):
        shard(folder / f"s-{number:02}.tar", (f"{number}.flac", sound(3)), (f"{number}.txt", b"x"))
    shard(folder / "s-02.tar.gz", ("2.flac", sound(3)), ("2.txt", b"x"))
    (folder / "s-03.tar").write_bytes((folder / "s-00.tar").read_bytes()[:600])
    size = sum(path.stat().st_size for path in folder.glob("s-0[01].tar"))
    with range_server(folder) as server:
        server.fault = lambda number, path: "cut" if number == 1 else None
        found = rows(f"{server.url}/s-{{00..01}}.tar", tmp_path / "out")
        assert server.sent < size + 5000, "read once; what was cut is read again"
        assert list(found) == ["0", "1"]
        assert found["1"]["audio_filepath"] == f"{server.url}/s-01.tar#bytes=512+{len(sound(3))}"
        packed = rows(f"{server.url}/s-02.tar.gz", tmp_path / "packed")
        assert packed["2"]["audio_filepath"].startswith("audio/")
        drops = build(f"{server.url}/s-{{00..04}}.tar", tmp_path / "broken", parse_options([]))
        assert read_json(drops.parent / "drops.json")["train"]["drops"] == {
            "broken_shard": 1, "missing_file": 2}
        with pytest.raises(ValueError, match=r"name them, as in shards-\{0000"):
            rows(f"{server.url}/none", tmp_path / "none")


def test_a_server_that_is_away_in_the_middle_of_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS_SECONDS", ())
    monkeypatch.setattr(remote, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(tar_shards, "_BLOCK_BYTES", 600)
    shard(tmp_path / "in" / "s-0.tar", ("0.flac", sound(3)), ("0.txt", b"x"))
    with range_server(tmp_path / "in") as server:
        server.fault = lambda number, path: 503 if number == 1 else None
        source = f"{server.url}/s-{{0..0}}.tar"
        with pytest.raises(ValueError, match="not one usable row"):
            rows(source, tmp_path / "out")
        drops = read_json(tmp_path / "out" / "drops.json")["train"]
        assert drops["drops"] == {"cannot_open": 1}, "the next run takes it in"
        assert "503" in drops["dropped"]["cannot_open"][0]["detail"]
        assert list(rows(source, tmp_path / "out")) == ["0"]


def test_shards_of_a_storage_that_can_be_listed(tmp_path):
    shard(tmp_path / "train-0.tar", ("0.flac", sound()), ("0.txt", b"x"))
    storage = fsspec.filesystem("memory")
    for name in ("c/train-0.tar", "c/test-0.tar", "c/notes.txt"):
        storage.pipe(f"/{name}", (tmp_path / "train-0.tar").read_bytes())
    found = rows("memory://c", tmp_path / "out")
    assert found["0"]["audio_filepath"].startswith("memory://c/train-0.tar#bytes=")
    with pytest.raises(ValueError, match="no shard begins with dev"):
        rows("memory://c", tmp_path / "out2", "split=dev")
