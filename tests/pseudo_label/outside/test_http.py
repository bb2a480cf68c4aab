"""Labels from a server that goes wrong in every way, and from a client that is killed."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

import pseudo_label.__main__ as command
from distill.data.files import read_json, read_jsonl
from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from distill.whisper.recipe_sections import HttpConfig
from pseudo_label.labelling.shards import read_labels
from pseudo_label.outside import server as server_module
from pseudo_label.outside.answers import Answers
from pseudo_label.outside.http_backend import segments_of
from pseudo_label.outside.server import Pace, Server, retry_after
from tests.support.transcription_server import transcription_server

NUM_CLIPS = 12


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("http"), small_teacher, train=NUM_CLIPS)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(server_module, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def served():
    with transcription_server() as found:
        yield found


def options(url: str, *overrides: str) -> list[str]:
    return ["pseudo_label.backend=http", f"pseudo_label.http.url={url}",
            "pseudo_label.http.model=other-1", "teacher.mode=live", "pseudo_label.shard_size=4",
            "pseudo_label.http.timeout_seconds=5", "pseudo_label.packing=none",
            "views.previous_text_probability=0", "filter.max_wer=null", *overrides]


def label(recipe: Path, run: Path, url: str, *overrides: str) -> Path:
    command.main([str(recipe), f"output_dir={run}", *options(url, *overrides)])
    return run / "pseudo_labels"


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.jsonl"))}


@pytest.fixture(scope="module")
def labelled(recipe, tmp_path_factory) -> Path:
    """By a server without faults; not to be changed."""
    with transcription_server() as (_, url):
        return label(recipe, tmp_path_factory.mktemp("good"), url)


def test_rows(recipe, served, labelled, tmp_path, monkeypatch, capsys):
    server, url = served
    monkeypatch.setenv("SOME_KEY", "secret")
    folder = label(recipe, tmp_path, url, "pseudo_label.http.key_variable=SOME_KEY",
                   "pseudo_label.http.price_per_minute=0.5", "pseudo_label.http.parallel=3",
                   "pseudo_label.http.form={prompt: hello}")
    rows = read_labels(folder)
    assert len(rows) == NUM_CLIPS
    assert {row["label"][:5] for row in rows} == {"text "} and rows[0]["avg_logprob"] == -0.25
    assert rows[0]["no_speech_prob"] == 0.01
    assert rows[0]["teacher"] == {"model": "other-1", "revision": None}
    times = [(t - 267) * 0.02 for t in rows[0]["tokens"] if t >= 267]
    assert times == pytest.approx([0, 1, 1, 2.5])
    assert server.forms[0] == {"model": "other-1", "language": "en", "prompt": "hello",
                               "response_format": "verbose_json"}
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert 1 < server.most_at_once <= 3
    cost = read_json(folder / "cost.json")
    minutes = sum(row["duration"] for row in rows) / 60
    assert cost["requests"] == NUM_CLIPS and cost["unusable"] == 0
    assert cost["minutes"] == pytest.approx(minutes, abs=2e-3)
    assert cost["price"] == pytest.approx(minutes / 2, abs=2e-3)
    assert "price" in capsys.readouterr().out
    assert "secret" not in "".join(p.read_text() for p in folder.rglob("*.json*"))
    # what was said is the same without a prompt; settings are others
    assert [row["label"] for row in read_labels(labelled)] == [row["label"] for row in rows]


FAULTS = [500, (503, {}), (429, {"Retry-After": "0.05"}), "slow", "cut", "closed", b"<html>",
          b'{"words": []}', b'{"text": "x", "segments": [{"text": "x", "start": "0"}]}', 408]


def test_faults_of_the_moment_change_nothing(recipe, served, labelled, tmp_path, capsys):
    server, url = served
    server.fault = lambda number, form: FAULTS[number] if number < len(FAULTS) else None
    folder = label(recipe, tmp_path, url, "pseudo_label.http.timeout_seconds=0.3")
    assert parts(folder) == parts(labelled)
    assert len(server.forms) == NUM_CLIPS + len(FAULTS)
    assert set(server.answered.values()) == {1}
    cost = read_json(folder / "cost.json")
    assert (cost["requests"], cost["unusable"]) == (NUM_CLIPS + 3, 3), "answered, and of no use"
    out = capsys.readouterr().out
    for what in ("1 x 429", "1 x 500", "1 x ReadTimeout", "RemoteProtocolError"):
        assert what in out, out


def test_a_client_that_is_killed_pays_for_nothing_twice(recipe, served, labelled, fork, tmp_path):
    server, url = served
    server.delay = 0.02
    folder = tmp_path / "run" / "pseudo_labels"
    arguments = [str(recipe), f"output_dir={tmp_path / 'run'}",
                 *options(url, "pseudo_label.http.parallel=2")]
    moments = random.Random(int(time.time()))
    kills = 0
    for kill in range(4):
        process = fork("pseudo_label.__main__", arguments, tmp_path / "log")
        while process.is_alive() and sum(server.answered.values()) < 2 * kill + 2:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.03))
        process.kill()
        process.join()
        kills += process.exitcode == -9
    assert kills >= 2
    time.sleep(0.1)  # what the dead client had asked for is being answered
    written = {row["window"] for path in folder.glob("answers/*.jsonl")
               for row in read_jsonl(path, may_be_torn=True)}
    before = sum(server.answered.values())
    label(recipe, tmp_path / "run", url)
    assert parts(folder) == parts(labelled)
    assert sum(server.answered.values()) - before == NUM_CLIPS - len(written)
    lost = sum(server.answered.values()) - NUM_CLIPS
    assert lost <= 2 * kills, "at most what was under way at each kill"
    before = sum(server.answered.values())
    for part in folder.glob("part-*.jsonl"):  # sealed rows are made of what was answered
        part.unlink()
    label(recipe, tmp_path / "run", url)
    assert sum(server.answered.values()) == before and parts(folder) == parts(labelled)


def test_half_a_line_is_asked_for_again(tmp_path):
    answers = Answers(tmp_path, "train-0-000000")
    answers.add("a", "w", 1.0, {"text": "x"})
    with open(answers.path, "ab") as file:
        file.write(b'{"key": "b", "win')
    again = Answers(tmp_path, "train-0-000000")
    assert again.find("a") == {"text": "x"} and again.find("b") is None
    again.add("b", "w", 1.0, {"text": "y"})
    assert Answers(tmp_path, "train-0-000000").find("b") == {"text": "y"}


@pytest.mark.parametrize(("fault", "message"), [
    (401, "refuses: 401.*key_variable"), (404, "refuses: 404.*url or model"),
    (302, "refuses: 302"), (500, "does not answer: 500.*not now.*tried 3 times.*goes on"),
    (400, "takes none of 4 windows.*400"), ((429, {"Retry-After": "7200"}), "come back in 2.0 h"),
    (b"<html>", "does not answer: no JSON"),
])
def test_a_server_that_will_not(recipe, served, tmp_path, fault, message):
    server, url = served
    server.fault = lambda number, form: fault
    with pytest.raises(ValueError, match=message):
        label(recipe, tmp_path, url, "pseudo_label.http.max_retries=2")
    assert not parts(tmp_path / "pseudo_labels")


def test_what_was_answered_is_kept_when_the_server_ends(recipe, served, labelled, tmp_path):
    server, url = served
    server.fault = lambda number, form: 500 if number >= 6 else None
    with pytest.raises(ValueError, match="does not answer"):
        label(recipe, tmp_path, url, "pseudo_label.http.max_retries=1",
              "pseudo_label.http.parallel=1")
    server.fault = lambda number, form: None
    folder = label(recipe, tmp_path, url)
    assert set(server.answered.values()) == {1} and len(server.answered) == NUM_CLIPS
    assert parts(folder) == parts(labelled)


def test_audio_that_is_refused_is_dropped_and_counted(recipe, served, tmp_path):
    server, url = served
    server.fault = lambda number, form: 400 if number == 2 else None
    folder = label(recipe, tmp_path, url, "data.max_unreadable=0.2")
    assert read_json(folder / "drops.json") == {"refused": 1}
    assert len(read_labels(folder)) == NUM_CLIPS - 1


def test_requests_keep_their_distance(recipe, served, tmp_path):
    server, url = served
    label(recipe, tmp_path, url, "pseudo_label.http.requests_per_minute=3000")
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert sum(gaps) >= 0.6 * (NUM_CLIPS - 1) * 0.02  # the first may arrive late


def test_everybody_waits_when_the_server_says_so(served):
    server, url = served
    server.fault = lambda number, form: (429, {"Retry-After": "0.2"}) if number == 0 else None
    asker = Server(HttpConfig(url=url, model="m", response_format="json"))
    started = time.monotonic()
    assert asker.transcribe(b"fLaC", "en")["text"].startswith("text")
    assert time.monotonic() - started >= 0.19
    assert asker.describe() == "tried again: 1 x 429"


def test_a_pause_holds_for_those_who_wait_for_their_turn_already():
    pace, ended = Pace(per_minute=600), threading.Event()
    pace.wait(ended)
    started = time.monotonic()
    waiting = threading.Thread(target=pace.wait, args=(ended,))  # its turn is in 0.1 s
    waiting.start()
    pace.pause(0.25)
    waiting.join()
    assert time.monotonic() - started >= 0.24
    pace.pause(100)
    ended.set()
    pace.wait(ended)


def test_times_to_wait():
    assert retry_after(None, 0.0) == retry_after("soon", 0.0) == retry_after("-3", 0.0) == 0.0
    assert retry_after("2.5", 0.0) == 2.5
    assert retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 50.0) == 10.0


def test_segments_of_answers():
    parts = [{"start": 3.0, "end": 40.0, "text": " b", "avg_logprob": "?"},
             {"start": 0.0, "end": 3.0, "text": " a", "avg_logprob": -0.5}]
    found = segments_of({"text": "a b", "segments": parts}, 30.0)
    assert [(s.text, s.start, s.end, s.logprob) for s in found] == [
        (" a", 0.0, 3.0, -0.5), (" b", 3.0, 30.0, None)]
    (one,) = segments_of({"text": "a b", "segments": []}, 12.0)
    assert (one.text, one.start, one.end) == ("a b", 0.0, 12.0)


@pytest.mark.parametrize(("overrides", "message"), [
    (["pseudo_label.http.url=server:80"], "pseudo_label.http.url must be http"),
    (["pseudo_label.http.model=null"], "pseudo_label.http.model must be a name"),
    (["pseudo_label.http.response_format=json"], "pseudo_label.timestamps must be false with"),
    (["pseudo_label.http.form={model: x}"], "pseudo_label.http.form must be other fields"),
    (["task=translate"], "task must be transcribe"),
    (["pseudo_label.http.parallel=0"], "pseudo_label.http.parallel must be > 0"),
])
def test_recipes_that_make_no_sense(recipe, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(str(recipe), [*options("http://x/v1"), *overrides])


def test_a_key_that_is_not_there(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment has no SOME_KEY"):
        Server(HttpConfig(url="http://x", model="m", key_variable="SOME_KEY"))


@pytest.mark.parametrize("url", ["http://", "http:///v1", "http://host:port/v1"])
def test_an_address_that_is_none(url):
    with pytest.raises(ValueError, match="pseudo_label.http.url: no address of a server"):
        Server(HttpConfig(url=url, model="m"))


def test_nobody_listens():
    asker = Server(HttpConfig(url="http://127.0.0.1:9/v1", model="m", max_retries=1))
    with pytest.raises(ValueError, match="does not answer: ConnectError.*tried 2 times"):
        asker.transcribe(b"fLaC", "en")


def test_the_plan_says_what_it_costs(recipe, capsys):
    from distill.plan import main as plan

    plan([str(recipe), *options("http://x/v1", "pseudo_label.http.price_per_minute=6",
                                "pseudo_label.http.requests_per_minute=1")])
    out = capsys.readouterr().out
    rows = read_jsonl(recipe.parent / "corpus" / "train.jsonl")
    minutes = sum(row["duration"] for row in rows) / 60
    assert f"{NUM_CLIPS} requests, {minutes:.1f} minutes of audio" in out
    assert f"price {minutes * 6:.2f} at 6 a minute" in out
    assert f"at least {NUM_CLIPS} min" in out
