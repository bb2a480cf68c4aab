"""Leases: one rank at a shard; nobody waits for the dead."""

import json
import multiprocessing
import os
import time

import pytest

from pseudo_label.labelling import leases as module
from pseudo_label.labelling.leases import Leases

NAME = "part-00003"


@pytest.fixture
def leases(tmp_path):
    with Leases(tmp_path) as found:
        yield found


def hold_for_ever(folder) -> None:
    with Leases(folder) as mine:
        assert mine.take(NAME)
        (folder / "taken").touch()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """A living process that holds the lease."""
    process = multiprocessing.get_context("fork").Process(target=hold_for_ever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "taken").exists():
        time.sleep(0.005)
    yield process
    process.kill()
    process.join()


def write(folder, **owner) -> None:
    (folder / f"{NAME}.lease").write_text(json.dumps(owner))


def test_one_at_a_time_and_again_after_release(leases, tmp_path):
    assert leases.take(NAME) and leases.take("part-00004")
    with Leases(tmp_path) as second:
        assert not second.take(NAME)
        leases.release(NAME)
        assert second.take(NAME) and not second.take("part-00004")
    assert [path.name for path in tmp_path.iterdir()] == ["part-00004.lease"]


def test_all_are_released_at_the_end(tmp_path):
    with pytest.raises(KeyError), Leases(tmp_path) as leases:
        assert leases.take(NAME)
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_killed_rank_stalls_nobody(leases, tmp_path, other):
    assert not leases.take(NAME)
    other.kill()
    other.join()
    assert (tmp_path / f"{NAME}.lease").exists()
    assert leases.take(NAME)
    assert json.loads((tmp_path / f"{NAME}.lease").read_text())["pid"] == os.getpid()


def test_a_process_id_that_is_used_again(leases, tmp_path):
    write(tmp_path, **{**leases._owner, "born": "1"})
    assert leases.take(NAME)


@pytest.mark.parametrize(("age", "free"), [(0.0, False), (0.9, False), (1.1, True)])
def test_another_machine(leases, tmp_path, age, free):
    write(tmp_path, host="elsewhere", pid=1, born="1")
    before = time.time() - age * module.STALE_SECONDS
    os.utime(tmp_path / f"{NAME}.lease", (before, before))
    assert leases.take(NAME) == free


def test_a_lease_is_never_without_its_owner(leases, tmp_path, monkeypatch):
    """Whoever was killed between making and writing one would be waited for."""
    link = os.link

    def seen(source, target):
        assert json.loads(source.read_text())["pid"] == os.getpid()
        link(source, target)

    monkeypatch.setattr(module.os, "link", seen)
    assert leases.take(NAME) and not leases.take(NAME)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.lease"]
    leases.release(NAME)

    def unsupported(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(module.os, "link", unsupported)
    assert leases.take(NAME) and not leases.take(NAME)


def test_killed_before_it_could_write_its_name(leases, tmp_path):
    path = tmp_path / f"{NAME}.lease"
    path.touch()
    assert not leases.take(NAME), "its owner may be writing it"
    os.utime(path, (0, 0))
    assert leases.take(NAME)


def test_leases_are_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RENEW_SECONDS", 0.02)
    with Leases(tmp_path) as leases:
        leases.take(NAME)
        path = tmp_path / f"{NAME}.lease"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 1e9:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def take_and_report(folder, results) -> None:
    with Leases(folder) as mine:
        results.put(mine.take(NAME))
        (folder / f"done-{os.getpid()}").touch()
        while len(list(folder.glob("done-*"))) < 4:
            time.sleep(0.005)


def test_of_several_that_want_a_new_one_exactly_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=take_and_report, args=(tmp_path, results)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=30) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert sorted(found) == [False, False, False, True]
