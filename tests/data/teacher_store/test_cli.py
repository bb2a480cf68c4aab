"""Merging, measuring and checking a store, from the command line."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from distill import methods
from distill.data.files import read_json
from distill.data.teacher_store import Record, StoreError, TeacherStore, view_key
from distill.data.teacher_store.__main__ import main
from distill.data.teacher_store.repack import repack

SETTINGS = {"model": "a", "temperatures": [1.0, 2.0]}


def score(number: int, noise: float = 0.0) -> Record:
    """Three rows of a teacher's top 4; `noise` as another device would make."""
    random = np.random.default_rng(number)
    values = np.sort(random.random((3, 4)))[:, ::-1] + noise
    return Record(view_key({"id": number}), {
        "indices": random.permutation(50_000)[:12].reshape(3, 4).astype(np.uint16),
        "values": values.astype(np.float16),
        "log_rest": np.log([[0.005, 0.3], [0.05, 0.6], [0.7, 0.9]]).astype(np.float32),
    })


def fill(folder, groups) -> TeacherStore:
    store = TeacherStore(folder, SETTINGS, create=True)
    for group in groups:
        store.add([score(number) for number in group], {"by": "test"})
    store.seal()
    return store


def content(folder) -> dict[str, dict]:
    store = TeacherStore(folder, SETTINGS)
    store.check()
    return {store.key(row): {name: (values.dtype, values.tolist())
                               for name, values in store.read(row).items()}
            for row in store.all_rows()}


GROUPS = [range(n, n + 5) for n in range(0, 60, 5)]


# repack


def test_repack_keeps_every_view(tmp_path):
    store = fill(tmp_path, GROUPS)
    before, size = content(tmp_path), store.shards[0].data_bytes
    assert len(before) == 60
    after = repack(tmp_path, megabytes=4.5 * size / 1e6)
    assert len(after.shards) == 3 and content(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [".checked.json", "manifest.json", "index.json", *(s.name for s in after.shards)])
    assert read_json(tmp_path / "index.json")["views"] == 60
    assert json.loads(after.shards[0].metadata) == {"by": "test"}
    # once more: nothing is left to do
    names = [(s.name, s.path.stat().st_mtime_ns) for s in after.shards]
    again = repack(tmp_path, megabytes=4.5 * size / 1e6)
    assert [(s.name, s.path.stat().st_mtime_ns) for s in again.shards] == names
    # new views come in; everything becomes one shard
    again.add([score(n) for n in range(100, 103)], {"by": "another"})
    again.add([])
    one = repack(tmp_path)
    assert len(one.shards) == 1 and len(content(tmp_path)) == 63
    assert {text: content(tmp_path)[text] for text in before} == before
    assert json.loads(one.shards[0].metadata) == {
        "merged": [{"by": "another"}, {"by": "test"}], "left_out": 0}


def test_repack_keeps_as_much_metadata_as_fits(tmp_path):
    store = TeacherStore(tmp_path, SETTINGS, create=True)
    for number in range(30):
        store.add([score(number)], {"n": number, "long": "ü" * 1000})
    for expected in (30, 31):  # merging what was merged counts on
        metadata = json.loads(repack(tmp_path).shards[0].metadata)
        assert len(metadata["merged"]) + metadata["left_out"] == expected
        assert metadata["left_out"] > 10 and len(metadata["merged"]) > 10
        store.add([score(99)], {"n": 99})


def test_repack_checks_before_it_merges(tmp_path):
    store = fill(tmp_path, GROUPS)
    path = store.shards[3].path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(StoreError, match=f"{path.name}: its content does not match its checksum"):
        repack(tmp_path)
    assert [n for n in sorted(os.listdir(tmp_path)) if n != ".checked.json"] == [
        n for n in names if n != ".checked.json"]
    with pytest.raises(StoreError, match="megabytes must be > 0"):
        repack(tmp_path, megabytes=0)


def repack_and_die(folder, megabytes: float, calls: int) -> None:
    """Killed before the file system is changed for the `calls`-th time."""
    left = [calls]

    def counted(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call

    os.replace, os.unlink, os.fsync = map(counted, (os.replace, os.unlink, os.fsync))
    repack(folder, megabytes)


def test_repack_killed_at_any_moment_reads_the_same(tmp_path):
    """Also where two shards hold different copies of a view, of which one is read."""
    fork, start = multiprocessing.get_context("fork"), tmp_path / "start"
    store = fill(start, [range(12, 18), range(0, 20, 5)])
    for noise in range(1, 3):  # copies that differ
        store.add([score(number, noise) for number in range(22)])
    store.seal()
    before, target = content(start), 2.2 * store.shards[0].data_bytes / 1e6
    assert len(before) < store.num_views
    for calls in range(1, 100):
        folder = shutil.copytree(start, tmp_path / str(calls))
        child = fork.Process(target=repack_and_die, args=(folder, target, calls))
        child.start()
        child.join()
        assert content(folder) == before, f"killed at call {calls}"
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        repack(folder, target)  # and the next one goes on
        again = TeacherStore(folder, SETTINGS, create=True)
        assert content(folder) == before and again.num_views == len(before)
        assert not list(folder.glob(".*.tmp"))
    assert calls > 15 and child.exitcode == 0


# The command line


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(("arguments", "message"), [
    (["stats", "nowhere"], "no teacher store in nowhere"),
    (["pack", "nowhere"], "expected stats|verify|repack PATH"),
])
def test_errors_end_with_one_line(arguments, message):
    done = run("-m", "distill.data.teacher_store", *arguments)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and not done.stdout
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["verify", "x", "k=3"], "verify takes n=, seed=, recipe=, got 'k=3'"),
    (["repack", "x", "megabytes=a"], "megabytes must be a number, got 'a'"),
    (["stats", "x", "json"], "stats takes json=, got 'json'"),
])
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)


def test_stats(tmp_path, capsys):
    store = fill(tmp_path / "s", GROUPS)
    main(["stats", str(tmp_path / "s"), f"json={tmp_path / 'out.json'}"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (f"{tmp_path / 's'}: 60 views, 180 rows, 12 shards, "
                          f"{store.num_bytes:,} bytes, {store.num_bytes / 180:.1f} a row")
    assert printed[1].split() == ["indices", "1,440", "bytes", "8.0", "a", "row"]
    # one row in three keeps 99.5, 95, 30 % at T = 1 and 70, 40, 10 % at T = 2
    assert printed[-2].endswith("kept at temperature 1.0: 74.83% of the teacher's mass; 33.33% of "
                                "rows under 50%, 33.33% of rows under 90%, 66.67% of rows under "
                                "99%")
    assert printed[-1].endswith("kept at temperature 2.0: 40.00% of the teacher's mass; 66.67% of "
                                "rows under 50%, 100.00% of rows under 90%, 100.00% of rows under "
                                "99%")
    found = read_json(tmp_path / "out.json")
    assert found["kept_mass"]["2.0"]["mean"] == pytest.approx(0.4, abs=1e-6)
    assert found["bytes_by_column"]["values"] == 180 * 4 * 2 and found["copies"] == 0


def test_stats_of_an_empty_store(tmp_path, capsys):
    TeacherStore(tmp_path, {}, create=True)
    main(["stats", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: 0 views, 0 rows, 0 shards, 0 bytes\n"


def change_indices(record: Record) -> None:
    record.columns["indices"][:] = record.columns["indices"] + 1


def change_values(record: Record) -> None:
    record.columns["values"][1, 2] += 0.05


def change_mass(record: Record) -> None:
    record.columns["log_rest"][0, 1] = np.log(0.35)


def not_a_number(record: Record) -> None:
    record.columns["values"][0, 0] = np.nan


def swap_ties(record: Record) -> None:
    for name in ("indices", "values"):
        record.columns[name][:, [1, 2]] = record.columns[name][:, [2, 1]]
    record.columns["values"][:] = np.sort(record.columns["values"])[:, ::-1]


def drop_rows(record: Record) -> None:
    for name in record.columns:
        record.columns[name] = record.columns[name][1:]


CHANGES = {None: None, swap_ties: None,
           change_indices: "indices: only 0.0% of the stored entries",
           change_values: r"values: differs by \d\.\d% of the column's largest value.*\"id\":7}",
           change_mass: r"log_rest: differs by 5\.0% of the teacher's mass",
           not_a_number: "values: differs by inf",
           drop_rows: r"stored .*\(3, 4\).*the live teacher gives .*\(2, 4\)"}


EVERYWHERE = (change_indices, swap_ties)  # another tokenizer; another device


@pytest.mark.parametrize("change", CHANGES)
def test_verify_scores_again(tmp_path, capsys, monkeypatch, change):
    fill(tmp_path, GROUPS[:4])
    asked = []

    def build_scorer(recipe):
        assert recipe == (str(tmp_path / "recipe.yaml"), [])

        def scorer(texts):
            asked.extend(texts)
            records = [score(json.loads(text)["id"], noise=0.001) for text in texts]
            for record in records:
                if change and (record.key == '{"id":7}' or change in EVERYWHERE):
                    change(record)
            return records[::-1]  # matched by text, not by place
        return scorer

    monkeypatch.setattr(methods, "load_recipe", lambda path, overrides: (path, overrides))
    monkeypatch.setattr(methods, "build_scorer", build_scorer, raising=False)
    (tmp_path / "recipe.yaml").write_text("method: fake\n")
    if CHANGES[change]:
        with pytest.raises(ValueError, match=CHANGES[change]):
            main(["verify", str(tmp_path), "n=20"])
        return
    main(["verify", str(tmp_path), "n=15", "seed=3"])
    printed = capsys.readouterr().out
    assert len(asked) == len(set(asked)) == 15
    assert "4 shards match their checksums" in printed
    assert "indices: 100.00% of the stored entries are the live teacher's" in printed
    assert "values: largest difference 0.00" in printed and ', in view {"id":' in printed
    assert "15 of 20 views scored again: the teacher still says the same" in printed


def test_verify_reads_every_byte(tmp_path, capsys):
    store = fill(tmp_path, GROUPS[:2])
    main(["verify", str(tmp_path), "n=0"])
    with pytest.raises(ValueError, match=r"recipe\.yaml is not there; .*recipe=RECIPE, or n=0"):
        main(["verify", str(tmp_path)])
    path, status = store.shards[0].path, store.shards[0].path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    TeacherStore(tmp_path).check()  # looks at times only
    with pytest.raises(ValueError, match="its content does not match its checksum"):
        main(["verify", str(tmp_path), "n=0"])


def test_repack_prints_before_and_after(tmp_path, capsys):
    fill(tmp_path, GROUPS)
    main(["repack", str(tmp_path), "megabytes=1"])
    before, after = capsys.readouterr().out.splitlines()
    assert before.startswith("before: 12 shards") and before.endswith("60 views, 180 rows")
    assert after.startswith(" after: 1 shards") and after.endswith("60 views, 180 rows")
