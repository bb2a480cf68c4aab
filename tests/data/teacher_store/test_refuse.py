"""A store refuses what it cannot vouch for, and says what to do; a full disk costs nothing."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from distill.data.files import read_json
from distill.data.teacher_store import (
    Record,
    StoreError,
    TeacherStore,
    checksums,
    disk,
    shard,
    view_key,
)

SETTINGS = {"teacher": {"model": "openai/whisper-base", "revision": None},
            "tokenizer": "a1b2", "temperatures": [1.0, 2.0], "top_k": 8}


def score(number: int, width: int = 8) -> Record:
    values = np.random.default_rng(number).random((number % 30 + 10, width))
    return Record(view_key({"id": f"clip-{number}"}), {"values": values.astype(np.float16)})


RECORDS = [score(n) for n in range(20)]


def new_store(folder, records, per_shard=7, settings=SETTINGS) -> TeacherStore:
    store = TeacherStore(folder, settings, create=True)
    for start in range(0, len(records), per_shard):
        store.add(records[start:start + per_shard])
    return store


def flip(path, place=-1) -> None:
    """Change a byte; neither name nor size changes."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("change", "lines"), [
    ({"teacher": {"model": "x/y", "revision": None}},
     ['  teacher.model: the store has "openai/whisper-base", asked for "x/y"']),
    ({"tokenizer": "ffff", "top_k": 16},
     ['  tokenizer: the store has "a1b2", asked for "ffff"',
      "  top_k: the store has 8, asked for 16"]),
    ({"teacher": {"model": "openai/whisper-base"}, "new": True},
     ["  new: the store has nothing, asked for true",
      "  teacher.revision: the store has null, asked for nothing"]),
    ({"temperatures": (1.0,)}, ["  temperatures: the store has [1.0, 2.0], asked for [1.0]"]),
])
@pytest.mark.parametrize("create", [False, True])
def test_other_settings_are_refused_key_by_key(tmp_path, change, lines, create):
    new_store(tmp_path, RECORDS)
    with pytest.raises(StoreError) as error:
        TeacherStore(tmp_path, {**SETTINGS, **change}, create=create)
    got = str(error.value).split("\n")
    assert got[1:-1] == lines and "scored with other settings" in got[0]
    TeacherStore(tmp_path, {**SETTINGS, "temperatures": (1.0, 2.0)}, create=create)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"no teacher store in .*no manifest\.json.*make NAME"):
        TeacherStore(tmp_path, SETTINGS)
    with pytest.raises(StoreError, match="a new store needs `settings`"):
        TeacherStore(tmp_path / "new", create=True)
    new_store(tmp_path, RECORDS[:2])
    manifest = read_json(tmp_path / "manifest.json")
    for change, message in [
        ({"schema_version": 2}, "schema version 2, this program reads 1"),
        ({"format": "another"}, "not the manifest of a teacher store"),
        ({"settings": {}}, "was edited: its settings do not match its settings_hash"),
    ]:
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(StoreError, match=message):
            TeacherStore(tmp_path)


def test_a_changed_byte_is_found(tmp_path):
    store = new_store(tmp_path, RECORDS)
    store.check()
    path = store.shards[1].path
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    TeacherStore(tmp_path).check()  # as new: what was checked and not touched is not read again
    message = r"shard-\w+\.h5: its content does not match its checksum; remove it and run `make NAM"
    with pytest.raises(StoreError, match=message):
        TeacherStore(tmp_path).check(remember=False)
    os.utime(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"{path.name}: its content does not match"):
            TeacherStore(tmp_path).check()
    with pytest.raises(StoreError, match="does not match its checksum"):
        TeacherStore(tmp_path).seal()
    flip(store.shards[0].path)
    with pytest.raises(StoreError, match="the content of 2 shards does not match"):
        TeacherStore(tmp_path).check()
    lost = sum(broken.num_views for broken in store.shards[:2])
    for broken in store.shards[:2]:
        broken.path.unlink()
    again = TeacherStore(tmp_path, SETTINGS, create=True)
    assert len(again.missing([record.key for record in RECORDS])) == lost > 0
    again.check()


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("size", [0, 30, 1000, -1])
def test_a_truncated_shard_is_refused(tmp_path, sealed, size):
    store = new_store(tmp_path, RECORDS, per_shard=100)
    if sealed:
        store.seal()
    path = store.shards[0].path
    full = path.stat().st_size
    size = size % full
    os.truncate(path, size)
    message = f"{path.name}: truncated: {size:,} of {full:,} bytes; remove it"
    if not sealed and size < 1000:  # nothing is left that tells how long it was
        message = rf"{path.name}: cannot be opened \({size} bytes; .*; remove it and run"
    with pytest.raises(StoreError, match=message):
        TeacherStore(tmp_path)
    path.write_bytes(b"no HDF5 " * 10)
    with pytest.raises(StoreError, match="truncated: 80" if sealed else "cannot be opened"):
        TeacherStore(tmp_path)


@pytest.mark.parametrize("change", ["truncate", "remove"])
def test_a_shard_that_breaks_or_goes_while_in_use(tmp_path, change):
    store = new_store(tmp_path, RECORDS, per_shard=100)
    row = store.rows([RECORDS[1].key])[0]
    store.read(row)
    other = pickle.loads(pickle.dumps(store))  # has not mapped the file yet
    if change == "truncate":
        os.truncate(store.shards[0].path, 5000)
    else:
        store.shards[0].path.unlink()
        np.testing.assert_array_equal(store.read(row)["values"], RECORDS[1].columns["values"])
    message = {"truncate": "truncated: 5,000 of", "remove": "is gone since the store was opened"}
    with pytest.raises(StoreError, match=message[change]):
        other.read(row)


def test_foreign_shards_are_refused(tmp_path):
    new_store(tmp_path / "a", RECORDS)
    foreign = new_store(tmp_path / "b", RECORDS[:3], settings={**SETTINGS, "top_k": 4}).shards[0]
    shutil.copy(foreign.path, tmp_path / "a")
    message = (rf"{foreign.name}: a shard of another store: its settings have the hash \w{{16}}, "
               r"this store's \w{16}; move it back")
    with pytest.raises(StoreError, match=message):
        TeacherStore(tmp_path / "a")
    (tmp_path / "a" / foreign.name).unlink()
    other = tmp_path / "a" / "shard-other.h5"
    for attributes, message in [({}, "not a shard of a teacher store"),
                                ({"format": shard.FORMAT, "schema_version": 9}, "version 9, this")]:
        with h5py.File(other, "w") as file:
            file.attrs.update(attributes)
        with pytest.raises(StoreError, match=f"shard-other.h5: .*{message}"):
            TeacherStore(tmp_path / "a")
    other.unlink()
    other = new_store(tmp_path / "c", [score(1, width=3)]).shards[0]
    shutil.copy(other.path, tmp_path / "a")
    with pytest.raises(StoreError, match="has columns .*; the others in this store have"):
        TeacherStore(tmp_path / "a")


def test_index_lists_all_and_a_listed_shard_may_not_go(tmp_path):
    store = new_store(tmp_path, RECORDS)
    other = new_store(tmp_path, [score(50)])  # another process, meanwhile
    store.seal()
    index = read_json(tmp_path / "index.json")
    assert (index["views"], index["rows"], index["bytes"]) == (
        other.num_views, other.num_rows, other.num_bytes)
    assert [entry["name"] for entry in index["shards"]] == sorted(
        path.name for path in tmp_path.glob("shard-*"))
    for entry in index["shards"]:
        data = (tmp_path / entry["name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest() and entry["bytes"] == len(data)
    gone = index["shards"][2]["name"]
    (tmp_path / gone).unlink()
    with pytest.raises(StoreError, match=f"1 of the shards in index.json are gone: {gone};"):
        TeacherStore(tmp_path).check()
    refilled = TeacherStore(tmp_path, SETTINGS, create=True)
    every = {record.key: record for record in [*RECORDS, score(50)]}
    refilled.add([every[text] for text in refilled.missing(list(every))], {})
    refilled.seal()
    refilled.check()
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(StoreError, match=r"index\.json cannot be read"):
        TeacherStore(tmp_path)


def test_only_new_and_touched_shards_are_read_again(tmp_path, monkeypatch):
    store = new_store(tmp_path, RECORDS)
    read = []
    monkeypatch.setattr(checksums, "sha256_of",
                        lambda path: read.append(path.name) or disk.sha256_of(path))

    def check(**options):
        read.clear()
        TeacherStore(tmp_path).check(**options)
        return sorted(read)

    names = [shard.name for shard in store.shards]
    assert check() == names and check() == []
    os.utime(tmp_path / names[1])
    assert check() == [names[1]] and check() == []
    new = store.add([score(70)]).name
    assert check() == [new] and check(remember=False) == sorted([*names, new])
    (tmp_path / ".checked.json").write_text("broken")
    assert len(check()) == 4 and check() == []
    # a disk that cannot be written to: read again, no error
    (tmp_path / ".checked.json").unlink()

    def refuse(*_args):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checksums, "publish_json", refuse)
    assert len(check()) == 4 and len(check()) == 4


# A full disk


LIMITED = """\
import resource, sys
import numpy as np
from distill.data.teacher_store import Record, StoreError, TeacherStore
store = TeacherStore(sys.argv[1], {}, create=True)
record = [Record(f"view {n}", {"v": np.full((n, 100), n, np.float32)}) for n in range(60)]
store.add(record[:10])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    store.add(record[10:])
except StoreError as error:
    print(error)
store.add(record[10:11])
"""


@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_a_disk_that_fills_up_while_writing(tmp_path, limit):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path), str(limit)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr  # h5py alone dies of SIGSEGV here
    assert "no room to write shard-" in done.stdout and "(File too large)" in done.stdout
    assert "All sealed shards stay; make room and run the same command: it goes on" in done.stdout
    assert not list(tmp_path.glob(".*.tmp"))
    store = TeacherStore(tmp_path, {})
    store.check()
    assert store.missing([f"view {n}" for n in range(12)]) == ["view 11"]


def test_too_little_room_is_said_before_writing(tmp_path, monkeypatch):
    store = new_store(tmp_path, RECORDS)
    files = sorted(os.listdir(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=1234))
        with pytest.raises(StoreError, match=rf"{tmp_path}: no room to write shard-\w+\.h5: it "
                                             r"needs \d+,\d{3} bytes, 1,234 are free on that disk"):
            store.add([score(80)])
    assert sorted(os.listdir(tmp_path)) == files and store.missing([score(80).key])
    store.add([score(80)])
    assert store.missing([score(80).key]) == []
