"""Audio in shards, on a disk and behind URLs: the same samples as from files."""

from __future__ import annotations

import io
import itertools
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.audio import AudioError, audio_info, load_audio
from distill.data.formats import copies, remote
from distill.data.formats.addresses import Place
from distill.data.formats.places import fingerprint, place_of, stat_of
from distill.data.formats.remote import RemoteFile
from distill.data.formats.source import fetch_ahead
from distill.data.formats.tar_members import list_members
from distill.data.unreadable import Unreadable, UnreadableError, file_fault
from tests.support.range_server import RangeServer, range_server

KINDS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"),
         "mp3": ("MP3", "MPEG_LAYER_III"), "gsm.wav": ("WAV", "GSM610")}


def sound(kind: str, seconds: float = 1.5, seed: int = 0) -> bytes:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000))
    form, codec = KINDS[kind]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8_000 if "gsm" in kind else 16_000, codec, format=form)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """a.KIND of each kind, and all of them in shard.tar; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    members = {f"d/a.{kind}": sound(kind) for kind in KINDS}
    for name, data in members.items():
        (folder / Path(name).name).write_bytes(data)
    write_tar(folder / "shard.tar", members)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIO_DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUDIO_DISTILL_CACHE_GB", raising=False)
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.0, 0.01))
    monkeypatch.setattr(remote, "_sizes", {})
    monkeypatch.setattr(remote, "_away", {})
    monkeypatch.setattr(remote, "AWAY_SECONDS", 0.0)
    monkeypatch.setitem(copies._added, "bytes", float("inf"))


@pytest.fixture
def served(corpus) -> Iterator[RangeServer]:
    with range_server(corpus) as server:
        yield server


def ranges(shard: Path) -> dict[str, str]:
    with open(shard, "rb") as file:
        return {name: f"#bytes={start}+{size}"
                for name, (start, size) in list_members(file, "").items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_sounds_as_its_file_does(corpus, served, kind):
    whole, name = corpus / f"a.{kind}", f"d/a.{kind}"
    shard, part = corpus / "shard.tar", ranges(corpus / "shard.tar")[name]
    for place in (f"{shard}{part}", f"{shard}#member={name}", f"{served.url}/shard.tar{part}",
                  f"{served.url}/shard.tar#member=./{name}", f"{served.url}/a.{kind}",
                  f"file://{shard}{part}"):
        for offset, seconds in ((0.0, None), (0.25, 0.5)):
            assert np.array_equal(load_audio(place, offset, seconds),
                                  load_audio(whole, offset, seconds)), place
        assert audio_info(place) == audio_info(whole)
        assert file_fault(place) is None
        assert stat_of(place)[0] == whole.stat().st_size


def test_ranges_are_told_apart_as_files_are(corpus):
    parts = {name: f"{corpus / 'shard.tar'}{part}"
             for name, part in ranges(corpus / "shard.tar").items()}
    for name, place in parts.items():
        assert fingerprint(place) == fingerprint(corpus / Path(name).name)
    assert len({fingerprint(place) for place in parts.values()}) == len(KINDS)


def test_what_is_not_there(corpus, tmp_path, served):
    packed = write_tar(tmp_path / "packed.tar", {"a.wav": sound("wav")}, "w:gz")
    cases = {
        f"{corpus}/none.tar#bytes=0+10": "missing_file",
        f"{corpus}/none.tar#member=a.wav": "missing_file",
        f"{corpus}/shard.tar#member=none.wav": "missing_file",
        f"{corpus}/shard.tar#bytes=100+999999999": "truncated",
        f"{corpus}/shard.tar#bytes=100+0": "empty",
        f"{packed}#member=a.wav": "unreadable",
        f"{served.url}/none.tar#bytes=0+10": "missing_file",
        f"{served.url}/none.wav": "missing_file",
        f"{served.url}/shard.tar#bytes=100+999999999": "truncated",
        "nosuch://host/a.wav": "cannot_open",
    }
    for place, reason in cases.items():
        with pytest.raises(AudioError) as error:
            load_audio(place)
        assert error.value.reason == reason, place
        if reason in ("missing_file", "cannot_open"):
            assert file_fault(place).reason == reason, place


def test_faults_of_the_moment_are_tried_again(corpus, served, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(remote, "WAITS_SECONDS", (0.0,) * 5)
    served.slow_seconds = 0.4
    place = f"{served.url}/shard.tar{ranges(corpus / 'shard.tar')['d/a.wav']}"
    faults = ["cut", "closed", 503, "slow", 429]
    served.fault = lambda number, path: faults[number] if number < len(faults) else None
    assert np.array_equal(load_audio(place), load_audio(corpus / "a.wav"))
    assert len(served.requests) == len(faults) + 1, served.requests


def test_who_does_not_answer_is_tried_by_the_next_run(corpus, served):
    place = f"{served.url}/shard.tar{ranges(corpus / 'shard.tar')['d/a.wav']}"
    for fault in (503, "cut", "whole"):
        served.fault = lambda number, path, fault=fault: fault
        with pytest.raises(AudioError) as error:
            load_audio(place)
        assert error.value.is_transient
        assert fault != "whole" or "all of the file" in error.value.detail
    assert not list((copies.cache_folder() / "audio").rglob("*"))


def test_a_server_that_is_away_is_not_asked_for_every_clip(corpus, served, monkeypatch):
    monkeypatch.setattr(remote, "AWAY_SECONDS", 1000.0)
    parts = ranges(corpus / "shard.tar").values()
    clips = [(str(n), f"{served.url}/shard.tar{part}") for n, part in enumerate(parts)]
    served.fault = lambda number, path: "closed"
    for _, place in clips:
        with pytest.raises(AudioError, match="cannot_open"):
            load_audio(place)
    assert len({part for *_, part in served.requests}) == 1, "one clip was tried, several times"
    served.fault = lambda number, path: None
    monkeypatch.setattr(remote, "AWAY_SECONDS", 0.0)
    for _, place in clips:
        load_audio(place)
    monkeypatch.setattr(remote, "AWAY_SECONDS", 1000.0)
    served.fault = lambda number, path: 503
    with pytest.raises(AudioError, match="503"):
        load_audio(f"{served.url}/a.wav")
    served.fault = lambda number, path: None
    load_audio(f"{served.url}/a.flac")  # a server that answers is there


def test_a_shard_is_looked_for_once(corpus, served):
    clips = [(str(n), f"{served.url}/shard.tar{part}")
             for n, part in enumerate(ranges(corpus / "shard.tar").values())]
    Unreadable(len(clips), 0.0, "labelling").stat(clips)
    assert [method for method, *_ in served.requests] == ["HEAD"]
    none = [(name, place.replace("shard", "none")) for name, place in clips]
    with pytest.raises(UnreadableError, match="5 missing_file"):
        Unreadable(len(none), 0.0, "labelling").stat(none)
    assert len(served.requests) <= 4


def test_copies_are_read_once_and_kept_within_their_limit(tmp_path, monkeypatch):
    names = [f"{number}.wav" for number in range(20)]
    folder = tmp_path / "files"
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(sound("wav", 0.5, number))
    size = (folder / names[0]).stat().st_size
    monkeypatch.setenv("AUDIO_DISTILL_CACHE_GB", str(8.5 * size / 1e9))
    with range_server(folder) as server:
        places = [f"{server.url}/{name}#bytes=0+{size}" for name in names]
        for _ in range(2):
            load_audio(places[0])
        assert server.sent == size
        for at, place in enumerate(places[1:], 1):
            load_audio(place)
            load_audio(places[0])  # so that it is the newest but one
            for kept in (copies.cache_folder() / "audio").glob("*/*"):
                os.utime(kept, ns=(kept.stat().st_atime_ns, kept.stat().st_mtime_ns - 10**9))
            held = sum(p.stat().st_size for p in (copies.cache_folder() / "audio").glob("*/*"))
            assert held <= 9.5 * size, at
        assert server.sent == 20 * size, "the one that is read all the time was never removed"
        monkeypatch.setenv("AUDIO_DISTILL_CACHE_GB", "0")
        load_audio(places[0])
        assert server.sent == 21 * size
        monkeypatch.setenv("AUDIO_DISTILL_CACHE_GB", "lots")
        with pytest.raises(ValueError, match="AUDIO_DISTILL_CACHE_GB must be a number of GB"):
            load_audio(places[0])


def test_a_torn_copy_is_read_again(corpus, served):
    place = f"{served.url}/shard.tar{ranges(corpus / 'shard.tar')['d/a.flac']}"
    samples = load_audio(place)
    (copy,) = (copies.cache_folder() / "audio").glob("*/*")
    copy.write_bytes(copy.read_bytes()[:100])
    assert np.array_equal(load_audio(place), samples)


def test_a_thousand_random_reads_cost_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIO_DISTILL_CACHE_GB", "0")
    members = {f"{number:03}.wav": sound("wav", 0.05 + number / 400, number)
               for number in range(100)}
    write_tar(tmp_path / "shard.tar", members)
    parts = ranges(tmp_path / "shard.tar")
    draw, needed = random.Random(0), 0
    with range_server(tmp_path) as server:
        for _ in range(1000):
            name = draw.choice(list(members))
            needed += len(members[name])
            load_audio(f"{server.url}/shard.tar{parts[name]}")
        assert len(server.requests) == 1000, "a read is one request"
        print(f"{server.sent / needed:.3f} times the bytes that 1,000 reads need")
        assert server.sent <= 1.3 * needed


def test_what_is_read_next_is_fetched_several_at_a_time(corpus, served):
    of_the_shard = itertools.count()  # in any order: a number of all requests may be none.tar's
    served.fault = lambda number, path: (
        404 if path == "/shard.tar" and next(of_the_shard) == 2 else "slow")
    served.slow_seconds = 0.1
    places = [f"{served.url}/shard.tar{part}" for part in ranges(corpus / "shard.tar").values()]
    fetch_ahead([*places, places[0], str(corpus / "a.wav"), f"{served.url}/none.tar#bytes=0+5"])
    assert served.most_at_once >= 3
    asked = len(served.requests)
    served.fault = lambda number, path: None
    for place in places:
        load_audio(place)
    assert len(served.requests) == asked + 1, "only the one that was not there"


def test_a_shard_is_listed_once_however_many_members_are_fetched(served):
    fetch_ahead(f"{served.url}/shard.tar#member=d/a.{kind}" for kind in KINDS)
    assert len(set(served.requests)) == len(served.requests) > len(KINDS)


def test_a_cache_that_cannot_be_written_is_done_without(corpus, served, monkeypatch, capsys):
    monkeypatch.setenv("AUDIO_DISTILL_CACHE", str(corpus / "a.wav"))
    place = f"{served.url}/shard.tar{ranges(corpus / 'shard.tar')['d/a.wav']}"
    for _ in range(2):
        assert np.array_equal(load_audio(place), load_audio(corpus / "a.wav"))
    assert capsys.readouterr().out.count("AUDIO_DISTILL_CACHE says where") == 1


def test_a_list_of_members_behind_a_url_is_made_once(corpus, served, monkeypatch):
    from distill.data.formats import tar_members

    place = f"{served.url}/shard.tar#member=d/a.wav"
    found = place_of(place)
    asked = len(served.requests)
    tar_members._remote_members.cache_clear()  # as in another process
    assert place_of(place) == found and len(served.requests) == asked


def test_a_file_behind_a_url_is_a_file(corpus, served):
    data = (corpus / "shard.tar").read_bytes()
    file = RemoteFile(f"{served.url}/shard.tar", 1000)
    assert file.read(10) == data[:10] and file.read(3000) == data[10:1000]
    assert file.seek(-5, io.SEEK_END) == len(data) - 5 and file.read() == data[-5:]
    assert file.read() == b""


def test_other_file_systems_are_read_by_ranges(corpus):
    """Those whose files would read ahead, as of the Hub."""
    import fsspec

    # in a folder: all tests of a process share this file system
    fsspec.filesystem("memory").pipe("/places/shard.tar", (corpus / "shard.tar").read_bytes())
    place = f"memory://places/shard.tar{ranges(corpus / 'shard.tar')['d/a.flac']}"
    assert np.array_equal(load_audio(place), load_audio(corpus / "a.flac"))
    assert remote.list_files("memory://places") == ["shard.tar"]


def test_how_places_are_written():
    assert place_of("a#b.wav") == Place("a#b.wav")
    assert str(place_of("a.tar#bytes=5+7")) == "a.tar#bytes=5+7"
    assert place_of("s3://b/a.tar#bytes=5+7") == Place("s3://b/a.tar", 5, 7)
    assert Place("s3://b/a.tar").is_remote and not Place("/s3/a.tar").is_remote


def test_workers_that_were_forked_read_too(corpus, served, monkeypatch):
    """fsspec has a thread, which a fork does not have."""
    from torch.utils.data import DataLoader

    monkeypatch.setenv("AUDIO_DISTILL_CACHE_GB", "0")
    part = ranges(corpus / "shard.tar")["d/a.wav"]
    places = [f"{served.url}/shard.tar{part}"] * 4
    load_audio(places[0])
    loader = DataLoader(places, batch_size=None, num_workers=2, collate_fn=load_audio, timeout=20,
                        multiprocessing_context="fork")
    whole = load_audio(corpus / "a.wav")
    assert [np.array_equal(samples, whole) for samples in loader] == [True] * 4
