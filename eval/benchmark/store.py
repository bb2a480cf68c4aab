"""How long one view takes to read from the teacher store, beside other ways of keeping the same.

    python -m eval.benchmark.store        make bench.store

A view is 100 tokens of what a teacher said: indices (100, 8) uint16, values (100, 8) float16 and
log_rest (100, 2) float32, 4 kB in all. 2,000 views of random content (seed 0) are written in every
layout to a temporary folder, read back and compared with what was written, then read at random,
layouts in turn, the page cache warm. Every read gives `{column: array}` and touches both ends of
every array. Opening is timed only for the layout that opens its file for every read. `ours` and
`numpy.memmap` return views of the file; `ours, copied` copies each array into new memory, as the
others do. Writing starts from arrays in memory and ends with fsync. Ours also stores the name of
each view, where its rows begin, and checksums; the others get the rows' places from memory.
Writes runs/bench/store.json; a minute.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from distill.data.teacher_store import Record, TeacherStore, view_key
from distill.progress import progress
from eval.benchmark.result import run_benchmark, write_result

Arrays = dict[str, np.ndarray]
Reader = Callable[[int], Arrays]  # number of a view: {column: array (rows, width)}

OUT = Path("runs/bench/store.json")
NUM_VIEWS = 2000
NUM_READS = 2000  # of each layout in a round
NUM_ROUNDS = 5
NUM_WRITES = 3  # of each layout
NUM_CHECKED = 50  # views of each layout compared with what was written
TOKENS = 100  # of a view
K = 8
VOCABULARY = 51865
COLUMNS = {"indices": (np.dtype(np.uint16), K), "values": (np.dtype(np.float16), K),
           "log_rest": (np.dtype(np.float32), 2)}  # type, width
TOKEN_BYTES = sum(dtype.itemsize * width for dtype, width in COLUMNS.values())
BATCH = 128  # rows CED appends at a time; h5py makes it the chunk: (128, k)
GZIP_CHUNK = 4096  # rows


class Layout(NamedTuple):
    """One way of keeping views; bounds[i] to bounds[i + 1] are the rows of view i in all rows."""

    name: str  # for people
    write: Callable[[Path, list[Arrays]], None]  # to an empty folder
    reader: Callable[[Path, list[int], ExitStack], Reader]  # folder, bounds, what closes files


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments:
        raise ValueError(f"bench.store takes no arguments, got {' '.join(arguments)}")
    result = measure()
    write_result(OUT, result, table(result))


def measure(num_views: int = NUM_VIEWS, num_reads: int = NUM_READS, num_rounds: int = NUM_ROUNDS,
            num_writes: int = NUM_WRITES) -> dict:
    """Write, check and read every layout.

    Raises:
        ValueError: a layout returns something else than was written.
    """
    views = make_views(num_views)
    bounds = [TOKENS * number for number in range(num_views + 1)]
    with tempfile.TemporaryDirectory(prefix="bench-store-") as parent, ExitStack() as stack:
        folders = {name: Path(parent, name) for name in LAYOUTS}
        seconds = _write_all(folders, views, num_writes)
        sizes = {name: sum(path.stat().st_size for path in folder.iterdir())
                 for name, folder in folders.items()}
        readers = {name: layout.reader(folders[name], bounds, stack)
                   for name, layout in LAYOUTS.items()}
        for name, read in readers.items():
            check(LAYOUTS[name].name, read, views)
        rounds = _read_all(readers, num_views, num_reads, num_rounds)
        empty = _time(lambda view: {}, range(num_reads))
    medians = {name: [float(np.median(each)) for each in found] for name, found in rounds.items()}
    rows = {
        name: {
            "name": layout.name,
            "read_us_median": statistics.median(medians[name]),
            "read_us_95th": float(np.median([np.percentile(each, 95) for each in rounds[name]])),
            "round_medians_us": medians[name],
            "times_slower_than_ours": _ratio(medians[name], medians["ours"]),
            "times_slower_than_ours_copied": _ratio(medians[name], medians["ours_copied"]),
            "bytes_per_token": sizes[name] / (num_views * TOKENS),
            "write_tokens_per_second": num_views * TOKENS / statistics.median(seconds[name]),
        }
        for name, layout in LAYOUTS.items()
    }
    return {
        "num_views": num_views, "tokens_per_view": TOKENS, "k": K, "num_reads": num_reads,
        "num_rounds": num_rounds, "num_writes": num_writes, "data_bytes_per_token": TOKEN_BYTES,
        "clock_us": float(np.median(empty)), "num_cpus": os.cpu_count(), "versions": _versions(),
        "layouts": rows,
    }


def make_views(num_views: int) -> list[Arrays]:
    """Random content of every view, the same on every machine."""
    random = np.random.default_rng(0)
    shape = (num_views, TOKENS)
    whole = {"indices": random.integers(0, VOCABULARY, (*shape, K), np.uint16),
             "values": -random.exponential(3.0, (*shape, K)).astype(np.float16),
             "log_rest": -random.exponential(3.0, (*shape, 2)).astype(np.float32)}
    return [{name: values[number] for name, values in whole.items()} for number in range(num_views)]


def check(name: str, read: Reader, views: list[Arrays]) -> None:
    """Raise unless a layout returns what was written, on views spread over all of them."""
    for number in {*range(0, len(views), max(1, len(views) // NUM_CHECKED)), len(views) - 1}:
        found = read(number)
        for column, written in views[number].items():
            same_type = found[column].dtype == written.dtype
            if not (same_type and np.array_equal(found[column], written)):
                raise ValueError(f"{name}: view {number} reads other {column} than were written; "
                                 "its times would mean nothing")


def _write_all(folders: dict[str, Path], views: list[Arrays], num_writes: int) -> dict:
    """Seconds of each layout's writes; what the last one wrote stays."""
    seconds = {name: [] for name in folders}
    turns = num_writes * list(folders)
    for name in progress(turns, len(turns), "writing", "layouts"):
        shutil.rmtree(folders[name], ignore_errors=True)
        folders[name].mkdir()
        started = time.perf_counter()
        LAYOUTS[name].write(folders[name], views)
        for path in folders[name].iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        seconds[name].append(time.perf_counter() - started)
    return seconds


def _read_all(readers: dict[str, Reader], num_views: int, num_reads: int, num_rounds: int) -> dict:
    """Microseconds (num_reads,) of each layout's rounds; a round has its own views and order."""
    random = np.random.default_rng(0)
    for read in readers.values():  # warm: every page of every file
        _time(read, range(num_views))
    turns = []
    for number in range(num_rounds):
        chosen = random.integers(0, num_views, num_reads).tolist()
        turns += [(name, chosen) for name in np.roll(list(readers), -number).tolist()]
    found = {name: [] for name in readers}
    for name, chosen in progress(turns, len(turns), "reading", "layouts"):
        found[name].append(_time(readers[name], chosen))
    return found


def _time(read: Reader, numbers: list[int] | range) -> np.ndarray:
    """Microseconds (n,) of reading each view and touching its arrays."""
    clock = time.perf_counter_ns
    found = np.empty(len(numbers))
    for at, number in enumerate(numbers):
        started = clock()
        for array in read(number).values():  # smaller than a page: its ends are all its pages
            array.item(0)
            array.item(-1)
        found[at] = clock() - started
    return found / 1000


def _ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds, each of which timed both."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _versions() -> dict[str, str]:
    return {"Python": sys.version.split()[0], "HDF5": h5py.version.hdf5_version,
            **{name: version(name) for name in ("h5py", "numpy", "safetensors", "datasets")}}


# The teacher store

def _write_ours(folder: Path, views: list[Arrays]) -> None:
    store = TeacherStore(folder, {"benchmark": "random"}, create=True)
    store.add([Record(_text(number), view) for number, view in enumerate(views)])
    store.seal()


def _text(number: int) -> str:
    return view_key({"id": f"clip-{number:06d}", "epoch": 0})


def _ours(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    store = TeacherStore(folder)
    rows = store.rows([_text(number) for number in range(len(bounds) - 1)]).tolist()
    return lambda view: store.read(rows[view])


def _ours_copied(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    read = _ours(folder, bounds, stack)
    return lambda view: {name: values.copy() for name, values in read(view).items()}


# HDF5 read by h5py

def _joined(views: list[Arrays], column: str) -> np.ndarray:
    return np.concatenate([view[column] for view in views])


def _write_hdf5(folder: Path, views: list[Arrays], gzip: bool = False) -> None:
    with h5py.File(folder / "scores.h5", "w") as file:
        for name, (_, width) in COLUMNS.items():
            whole = _joined(views, name)
            chunks = {"chunks": (min(GZIP_CHUNK, len(whole)), width)}
            options = chunks | {"compression": "gzip", "compression_opts": 4} if gzip else {}
            file.create_dataset(name, data=whole, **options)


def _write_appended(folder: Path, views: list[Arrays]) -> None:
    """As CED's `save_logits.py` does: a batch of rows at a time, chunks as h5py guesses them."""
    whole = {name: _joined(views, name) for name in COLUMNS}
    with h5py.File(folder / "scores.h5", "w") as file:
        datasets = {
            name: file.create_dataset(name, (BATCH, width), dtype, maxshape=(None, width))
            for name, (dtype, width) in COLUMNS.items()
        }
        for start in range(0, len(views) * TOKENS, BATCH):
            for name, dataset in datasets.items():
                batch = whole[name][start : start + BATCH]
                dataset.resize((start + len(batch), batch.shape[1]))
                dataset[start : start + len(batch)] = batch


def _write_groups(folder: Path, views: list[Arrays]) -> None:
    with h5py.File(folder / "scores.h5", "w") as file:
        for number, view in enumerate(views):
            group = file.create_group(str(number))
            for name, values in view.items():
                group.create_dataset(name, data=values)


def _kept(folder: Path, bounds: list[int], stack: ExitStack, **options) -> Reader:
    """The file and its datasets stay open."""
    file = stack.enter_context(h5py.File(folder / "scores.h5", "r", **options))
    return _sliced([(name, file[name]) for name in COLUMNS], bounds)


def _sliced(columns: list[tuple], bounds: list[int]) -> Reader:
    """Slices of what stays open."""
    return lambda view: {name: rows[bounds[view] : bounds[view + 1]] for name, rows in columns}


def _by_name(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    """The file stays open, as in CED's `LogitsReader` (which reads one row; a view has many)."""
    file = stack.enter_context(h5py.File(folder / "scores.h5", "r"))
    return lambda view: {name: file[name][bounds[view] : bounds[view + 1]] for name in COLUMNS}


def _opened(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    """Nothing stays open: how workers get round handles that break in a fork."""

    def read(view: int) -> Arrays:
        with h5py.File(folder / "scores.h5", "r") as file:
            return {name: file[name][bounds[view] : bounds[view + 1]] for name in COLUMNS}

    return read


def _groups(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    file = stack.enter_context(h5py.File(folder / "scores.h5", "r"))
    return lambda view: {name: file[f"{view}/{name}"][()] for name in COLUMNS}


# Without HDF5

def _write_raw(folder: Path, views: list[Arrays]) -> None:
    for name in COLUMNS:
        _joined(views, name).tofile(folder / f"{name}.bin")


def _memmap(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    return _sliced([
        (name, np.memmap(folder / f"{name}.bin", dtype, "r", shape=(bounds[-1], width)))
        for name, (dtype, width) in COLUMNS.items()
    ], bounds)


def _write_blob(folder: Path, views: list[Arrays]) -> None:
    """The arrays of a view one after the other, then the next view."""
    with open(folder / "scores.bin", "wb") as file:
        for view in views:
            for name in COLUMNS:
                file.write(view[name])


def _pread(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    descriptor = os.open(folder / "scores.bin", os.O_RDONLY)
    stack.callback(os.close, descriptor)
    befores = (0, 2 * K, 4 * K)  # bytes of a row's columns before this one
    columns = [(name, *COLUMNS[name], at) for name, at in zip(COLUMNS, befores, strict=True)]

    def read(view: int) -> Arrays:
        start, rows = bounds[view], bounds[view + 1] - bounds[view]
        data = os.pread(descriptor, rows * TOKEN_BYTES, start * TOKEN_BYTES)
        return {name: np.frombuffer(data, dtype, rows * width, rows * before).reshape(rows, width)
                for name, dtype, width, before in columns}

    return read


def _write_safetensors(folder: Path, views: list[Arrays]) -> None:
    from safetensors.numpy import save_file

    save_file({name: _joined(views, name) for name in COLUMNS}, folder / "scores.safetensors")


def _safetensors(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    from safetensors import safe_open

    file = stack.enter_context(safe_open(folder / "scores.safetensors", "np"))
    return _sliced([(name, file.get_slice(name)) for name in COLUMNS], bounds)


def _write_arrow(folder: Path, views: list[Arrays]) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rows = {name: [view[name].tobytes() for view in views] for name in COLUMNS}
    Dataset.from_dict(rows).save_to_disk(folder)


def _arrow(folder: Path, bounds: list[int], stack: ExitStack) -> Reader:
    from datasets import load_from_disk

    rows = load_from_disk(folder)
    return lambda view: {name: np.frombuffer(data, COLUMNS[name][0]).reshape(-1, COLUMNS[name][1])
                         for name, data in rows[view].items()}


_write_gzip = partial(_write_hdf5, gzip=True)
_kept_cached = partial(_kept, rdcc_nbytes=1 << 26)  # room for all chunks, whichever the default
_kept_uncached = partial(_kept, rdcc_nbytes=0)  # as in a store many times larger than the cache

LAYOUTS = {
    "ours": Layout("ours", _write_ours, _ours),
    "ours_copied": Layout("ours, copied", _write_ours, _ours_copied),
    "h5py_contiguous": Layout("h5py, contiguous, handles kept", _write_hdf5, _kept),
    "h5py_by_name": Layout("h5py, f[name][a:b] (CED)", _write_appended, _by_name),
    "h5py_opened": Layout("h5py, file opened every read", _write_hdf5, _opened),
    "h5py_gzip": Layout("h5py, gzip 4, all chunks cached", _write_gzip, _kept_cached),
    "h5py_gzip_uncached": Layout("h5py, gzip 4, not cached", _write_gzip, _kept_uncached),
    "h5py_groups": Layout("h5py, a group per view", _write_groups, _groups),
    "memmap": Layout("numpy.memmap", _write_raw, _memmap),
    "pread": Layout("os.pread of a blob", _write_blob, _pread),
    "safetensors": Layout("safetensors get_slice", _write_safetensors, _safetensors),
    "datasets": Layout("datasets, Arrow rows of bytes", _write_arrow, _arrow),
}


def table(result: dict) -> str:
    """`measure`'s result for a terminal."""
    versions = ", ".join(f"{name} {each}" for name, each in result["versions"].items())
    lines = [
        f"Random reads of one view ({result['tokens_per_view']} tokens, k = {result['k']}) of "
        f"{result['num_views']:,}, page cache warm. Microseconds: medians of "
        f"{result['num_rounds']} rounds of {result['num_reads']:,} reads, layouts in turn; the "
        f"clock's {result['clock_us']:.2f} are in all of them. Ratios: times slower. "
        f"Bytes a token: the arrays alone are {result['data_bytes_per_token']}. "
        f"Writing: with fsync, medians of {result['num_writes']}. {versions}",
        f"{'layout':<32}{'median':>9}{'95th %':>9}{'to ours':>9}{'to ours, copied':>17}"
        f"{'bytes/token':>13}{'k tokens/s written':>20}",
    ]
    for row in result["layouts"].values():
        lines.append(
            f"{row['name']:<32}{row['read_us_median']:>9.1f}{row['read_us_95th']:>9.1f}"
            f"{row['times_slower_than_ours']:>8.1f}x{row['times_slower_than_ours_copied']:>16.1f}x"
            f"{row['bytes_per_token']:>13.1f}{row['write_tokens_per_second'] / 1000:>20,.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_benchmark(main)
