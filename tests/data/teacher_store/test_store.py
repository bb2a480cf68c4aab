"""A store gives back what was put in, to any process."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from distill.data.teacher_store import (
    Record,
    StoreError,
    TeacherStore,
    digest_of,
    disk,
    shard,
    view_key,
)
from distill.data.teacher_store import store as store_module

SETTINGS = {"teacher": {"model": "openai/whisper-base", "revision": None},
            "tokenizer": "a1b2", "temperatures": [1.0, 2.0], "top_k": 8}


def whisper_like(number: int, rows: int | None = None, dtype=np.uint16) -> Record:
    """Tokens of one window: top 8 of a vocabulary of 51,866."""
    random = np.random.default_rng([1, number])
    rows = int(random.integers(0, 40)) if rows is None else rows
    return Record(
        view_key({"id": f"clip-{number:05d}", "offset": number / 4, "prompt": None}),
        {"indices": random.integers(0, 51_866, (rows, 8)).astype(dtype),
         "values": np.sort(random.normal(size=(rows, 8)))[:, ::-1].astype(np.float16),
         "log_rest": -random.exponential(size=(rows, 2)).astype(np.float32)},
    )


def tagger_like(number: int, epoch: int) -> Record:
    """One row: top 20 of 527 classes of a clip as it is augmented in one epoch."""
    random = np.random.default_rng([2, number, epoch])
    drawn = {"id": f"Y{number}", "epoch": epoch, "shift": int(random.integers(-160, 160)),
             "masks": {"time": random.integers(0, 99, (2, 2)).tolist()},
             "mixup": {"with": f"Y{number + 1}", "share": float(random.random())}}
    return Record(view_key(drawn), {
        "indices": random.permutation(527)[None, :20].astype(np.uint16),
        "values": random.random((1, 20)).astype(np.float16),
    })


def encoder_like(number: int) -> Record:
    random = np.random.default_rng([3, number])
    return Record(view_key({"id": number}),
                  {"states": random.normal(size=(15, 4)).astype(np.float16),
                   "scale": random.random(15), "big": np.arange(15, dtype=">i8"),
                   "wave": random.normal(size=(15, 1, 2)).astype(np.complex64)})


def new_store(folder, records, per_shard=7, settings=SETTINGS) -> TeacherStore:
    store = TeacherStore(folder, settings, create=True)
    for start in range(0, len(records), per_shard):
        store.add(records[start:start + per_shard], {"first": start})
    return store


def assert_holds(store: TeacherStore, records) -> None:
    rows = store.rows([record.key for record in records])
    assert rows.dtype == np.int64 and rows.shape == (len(records),)
    for row, record in zip(rows, records, strict=True):
        got = store.read(row)
        assert store.key(row) == record.key and got.keys() == record.columns.keys()
        for name, values in record.columns.items():
            assert got[name].dtype == values.dtype.newbyteorder("=")
            np.testing.assert_array_equal(got[name], values, strict=values.dtype.isnative)


RECORDS = [whisper_like(n, rows=0 if n in (0, 6, 7, 19) else None) for n in range(20)]


@pytest.mark.parametrize("records", [
    RECORDS,
    [whisper_like(n, dtype=np.uint32) for n in range(9)],
    [whisper_like(n, rows=0) for n in range(9)],
    [encoder_like(n) for n in range(9)],
    [],
])
def test_round_trip(tmp_path, records):
    store = new_store(tmp_path / "s", records)
    assert_holds(store, records)
    opened = TeacherStore(tmp_path / "s", SETTINGS)
    opened.check()
    assert_holds(opened, records[::-1])
    assert opened.settings == SETTINGS and opened.num_views == len(records)
    assert opened.num_rows == sum(len(next(iter(r.columns.values()))) for r in records)
    assert opened.num_bytes == sum(p.stat().st_size for p in (tmp_path / "s").glob("shard-*"))
    assert opened.missing(["x"] + [r.key for r in records] + ["x"]) == ["x"]


def test_one_file_format_serves_both(tmp_path):
    """Tokens of a transcriber and clip scores of a tagger: the same code, every epoch."""
    taggers = [tagger_like(n, epoch) for epoch in range(5) for n in range(30)]
    for name, records, rows in (("w", RECORDS, None), ("t", taggers, 1)):
        store = new_store(tmp_path / name, records, per_shard=16)
        store.seal()
        opened = TeacherStore(tmp_path / name, SETTINGS)
        assert_holds(opened, records)
        assert rows is None or all(len(opened.read(r)["values"]) == 1 for r in opened.all_rows())
        file = next((tmp_path / name).glob("shard-*"))
        with h5py.File(file) as shard_file:
            assert set(shard_file) == {"digests", "offsets", "drawn", "drawn_offsets", "columns"}
            assert set(shard_file.attrs) == {"format", "schema_version", "settings_hash",
                                             "num_views", "num_rows", "metadata"}
    last = [record for record in taggers if json.loads(record.key)["epoch"] == 4]
    assert len(last) == 30 and "mixup" in last[-1].key
    assert_holds(TeacherStore(tmp_path / "t"), last)


def test_datasets_are_contiguous_and_named_by_their_content(tmp_path):
    store = new_store(tmp_path, RECORDS, per_shard=100)
    (path,) = tmp_path.glob("shard-*.h5")
    assert path.name == f"shard-{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.h5"
    with h5py.File(path) as file:
        datasets = [file[n] for n in ("digests", "offsets", "drawn", "drawn_offsets")]
        datasets += list(file["columns"].values())
        assert len(datasets) == 7
        for dataset in datasets:
            assert dataset.chunks is None and dataset.compression is None
            layout = dataset.id.get_create_plist().get_layout()
            assert layout == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() % 64 == 0
        assert int(file["digests"][3]) == digest_of(RECORDS[3].key)
        text = file["drawn"][:][file["drawn_offsets"][3]:file["drawn_offsets"][4]].tobytes()
        assert text.decode() == RECORDS[3].key
        start, stop = file["offsets"][3:5]
        np.testing.assert_array_equal(file["columns/values"][start:stop],
                                      RECORDS[3].columns["values"])
        assert json.loads(file.attrs["metadata"]) == {"first": 0}
    read = store.read(store.rows([RECORDS[3].key])[0])
    for values in read.values():
        assert type(values) is np.ndarray and not values.flags.writeable and values.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0
    assert np.shares_memory(read["values"], store.read(3)["values"])  # nothing is copied


def test_the_same_content_gives_the_same_file(tmp_path):
    new_store(tmp_path / "a", RECORDS)
    time.sleep(1.1)  # no time of day is written
    new_store(tmp_path / "b", RECORDS)
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab"]
    assert files[0] == files[1] and len(files[0]) == 4


def test_texts_are_canonical_and_digests_never_change():
    drawn = {"b": 1, "a": {"z": None, "ü": [1, 2.5]}}
    assert view_key(drawn) == '{"a":{"z":null,"ü":[1,2.5]},"b":1}'
    assert digest_of('{"id":"ü"}') == 0x26F8FE02FFDB44B5  # written into files: it must never change
    with pytest.raises(ValueError, match="JSON"):
        view_key({"a": float("nan")})


def test_unicode_ids(tmp_path):
    ids = ["你好 🙂", "naïve", "nai\u0308ve", "a\u2028b", "\udc80 half a file name", ""]
    records = [Record(view_key({"id": i}), whisper_like(n).columns) for n, i in enumerate(ids)]
    new_store(tmp_path, records, per_shard=2)
    assert_holds(TeacherStore(tmp_path), records)


def test_missing_views_are_counted_and_one_is_shown(tmp_path):
    store = new_store(tmp_path, RECORDS)
    with pytest.raises(StoreError, match=r"3 of 22 views are missing, for example other-1; run "
                                         r"`make NAME\.label`: it scores only what is missing"):
        store.rows([r.key for r in RECORDS[1:]] + ["other-1", "other-2", "other-3"])
    with pytest.raises(IndexError):
        store.read(7)  # the first shard has 0 to 6
    with pytest.raises(IndexError):
        store.read(-1)


def test_two_views_of_one_digest_are_refused(tmp_path, monkeypatch):
    message = "two views have the same 64-bit digest: other and, stored, .*clip-00000"
    for module in (shard, store_module):
        monkeypatch.setattr(module, "digests_of", lambda texts: np.zeros(len(texts), np.uint64))
    store = new_store(tmp_path, RECORDS[:1])
    with pytest.raises(StoreError, match=message):
        store.rows(["other"])


def test_of_two_copies_the_first_shard_by_name_is_read(tmp_path):
    copies = [Record("same", {"v": np.full(2, n, np.float32)}) for n in range(6)]
    store = TeacherStore(tmp_path, {}, create=True)
    paths = [store.add([copy]) for copy in copies]
    first = paths.index(min(paths))
    for opened in (store, TeacherStore(tmp_path)):
        assert opened.read(opened.rows(["same"])[0])["v"][0] == first
        assert opened.num_views == 6 and len(opened.all_rows()) == 1
    assert first != 0  # else the order of writing would do, too: take other numbers


@pytest.mark.parametrize(("columns", "message"), [
    ({"v": np.zeros(2), "w": np.zeros(3)}, "same number of rows, got {'v': 2, 'w': 3}"),
    ({"v": np.zeros(2, np.float32)}, r"has columns v float32; the others in this store have v f"),
    ({"v": np.zeros((2, 4))}, r"has columns v float64\[4\]; the others"),
    ({"w": np.zeros(2)}, "has columns w float64; the others in this store have v float64"),
    ({"v": np.float64(1)}, r"'v' must be numbers of shape \(rows, ...\), got float64 of shape \("),
    ({"v": np.array(["a"])}, "must be numbers"),
    ({"a/b": np.zeros(2)}, "'a/b' cannot name a column"),
    ({}, "has no columns"),
])
def test_records_that_do_not_fit_are_refused(tmp_path, columns, message):
    store = TeacherStore(tmp_path, {}, create=True)
    store.add([Record("x", {"v": np.zeros(2)})])
    files = sorted(os.listdir(tmp_path))
    with pytest.raises(StoreError, match=message):
        store.add([Record("y", columns)])
    assert sorted(os.listdir(tmp_path)) == files
    store.add([Record("z", {"v": np.zeros(0)})])
    assert store.missing(["x", "y", "z"]) == ["y"]


# Processes


READER = """\
import hashlib
from torch.utils.data import Dataset

def told(store, row):
    arrays = store.read(row)
    data = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    return store.key(row) + hashlib.sha256(data).hexdigest()

class Reader(Dataset):
    def __init__(self, store, rows):
        self.store, self.rows = store, rows
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return told(self.store, self.rows[index])
"""


@pytest.mark.parametrize(("method", "num_workers"), [
    ("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)])
def test_workers_read_the_same_bytes(tmp_path, monkeypatch, method, num_workers):
    from torch.utils.data import DataLoader

    (tmp_path / "store_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    from store_reader import Reader, told

    store = new_store(tmp_path / "s", RECORDS)
    rows = store.rows([record.key for record in RECORDS])
    expected = [told(store, row) for row in rows]  # mapped in this process before the fork
    assert len(set(expected)) == len(RECORDS)
    loader = DataLoader(Reader(store, rows), batch_size=3, num_workers=num_workers,
                        multiprocessing_context=method)
    assert [text for batch in loader for text in batch] == expected
    assert len(pickle.dumps(store)) < 10_000
    assert_holds(pickle.loads(pickle.dumps(store)), RECORDS)


def test_more_shards_than_a_process_may_map(tmp_path, monkeypatch):
    store = new_store(tmp_path, RECORDS, per_shard=2)
    monkeypatch.setattr(store_module, "_max_maps", lambda: 3)
    rows = store.rows([record.key for record in RECORDS])
    kept = [store.read(row)["values"] for row in rows]  # outlive their maps
    assert sum(shard.mapped is not None for shard in store.shards) == 3
    for values, record in zip(kept, RECORDS, strict=True):
        np.testing.assert_array_equal(values, record.columns["values"])


FILL = """\
import sys, time
import numpy as np
from distill.data.teacher_store import Record, TeacherStore
folder, rank, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
time.sleep(max(0, start - time.time()))
store = TeacherStore(folder, {"a": 1}, create=True)
for n in [*range(rank, 12, 2), 99]:  # group 99 is scored by both
    views = [f"view {n} {i}" for i in range(5)]
    store.add([Record(text, {"v": np.full((n + 1, 2), n, np.float32)}) for text in views])
store.refresh()
"""


def test_two_processes_fill_one_store(tmp_path):
    start = str(time.time() + 1.0)
    folder = tmp_path / "s"
    runs = [subprocess.Popen([sys.executable, "-c", FILL, str(folder), str(rank), start])
            for rank in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    store = TeacherStore(folder, {"a": 1})
    store.check()
    texts = [f"view {n} {i}" for n in [*range(12), 99] for i in range(5)]
    assert store.missing(texts) == [] and store.num_views == len(texts)
    assert all((store.read(row)["v"] == int(text.split()[1])).all()
               for row, text in zip(store.rows(texts), texts, strict=True))
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith("shard-")) == [
        ".checked.json", "manifest.json"]


def test_of_two_creators_the_first_ones_settings_stay(tmp_path, monkeypatch):
    TeacherStore(tmp_path, {"a": 1}, create=True)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)  # it has looked just before
    with pytest.raises(StoreError, match="a: the store has 1, asked for 2"):
        TeacherStore(tmp_path, {"a": 2}, create=True)
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    store = new_store(tmp_path, RECORDS)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, name = disk.socket.gethostname(), store.shards[0].name
    stays = [f".{name}.{host}.{os.getppid()}.tmp", f".{name}.other.host.{dead.pid}.tmp",
             ".something-else.tmp"]
    goes = [f".{name}.{host}.{dead.pid}.tmp", f".manifest.json.{host}.{dead.pid}.tmp",
            f"..checked.json.{host}.{dead.pid}.tmp", f".{name}.{host}.{os.getpid()}.tmp",
            f".{name}.gone-days-ago.7.tmp"]
    for leftover in stays + goes:
        (tmp_path / leftover).write_text("half")
    os.utime(tmp_path / goes[-1], (0, 0))
    TeacherStore(tmp_path, SETTINGS)
    assert len(list(tmp_path.glob(".*.tmp"))) == 8  # a reader removes nothing
    TeacherStore(tmp_path, SETTINGS, create=True)
    assert sorted(path.name for path in tmp_path.glob(".*.tmp")) == sorted(stays)
