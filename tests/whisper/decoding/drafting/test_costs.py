"""What passes cost: kept in a file of the machine, and what follows from it."""

import json
import subprocess
import sys
import time

import pytest

from distill.whisper.decoding.drafting import calibration
from distill.whisper.decoding.drafting.balance import RATE, Balance
from distill.whisper.decoding.drafting.costs import Costs, costs_of, interpolated
from distill.whisper.decoding.drafting.length import LONGEST, DraftLength, tokens_per_sequence
from distill.whisper.decoding.whisper_decoder import WhisperDecoder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "draft_costs"
    monkeypatch.setattr(calibration, "_folder", lambda: folder)
    return folder


@pytest.fixture
def busy():
    """Batch sizes at which the machine is busy."""
    return set()


@pytest.fixture
def measured(monkeypatch, busy):
    """Batch sizes that were measured, in order."""
    found, measure = [], calibration.measure

    def counted(target, draft, rules, slots):
        found.append(slots)
        return measure(target, draft, rules, slots)[0], slots not in busy

    monkeypatch.setattr(calibration, "measure", counted)
    return found


@pytest.fixture
def decoder(models, tiny_processor):
    def decoder(**options) -> WhisperDecoder:
        return WhisperDecoder(models["itself"], tiny_processor.tokenizer, "en",
                              student=models["two"], **options)

    return decoder


def test_costs_are_measured_once(folder, measured, decoder):
    first = decoder(max_slots=3)
    assert measured == [1, 4] and first.length.costs.keys() == {1, 4}
    assert first.target._buffers is None, "the caches are freed"
    second = decoder(max_slots=4)
    assert measured == [1, 4] and second.length.costs == first.length.costs
    assert len(list(folder.iterdir())) == 2, "and nothing half written is left"
    decoder(int8=True)
    assert measured == [1, 4, 1], "another type"
    decoder(max_slots=16, draft_length=2)
    assert measured == [1, 4, 1], "a length that is given needs no costs"


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", "null", "key", "verify", "nan"])
def test_a_file_that_says_nothing_is_measured_again(folder, measured, decoder, broken):
    decoder()
    path, = folder.iterdir()
    whole = json.loads(path.read_text())
    changes = {"key": {"key": whole["key"] | {"processor": "another"}},
               "verify": {"verify": {"1": 1.0}}, "nan": {"fill": float("nan")}}
    path.write_text(json.dumps(whole | changes[broken]) if broken in changes else broken)
    costs = decoder().length.costs
    assert measured == [1, 1] and costs[1].fill > 0
    decoder()
    assert measured == [1, 1], "it is whole again"


def test_a_busy_machine_measures_again(folder, measured, decoder, busy):
    busy.add(1)
    costs = [decoder().length.costs[1] for _ in range(5)]
    assert measured == [1, 1, 1]
    assert costs[0].fill >= costs[1].fill >= costs[2].fill == costs[4].fill
    assert costs[0].verify[1] >= costs[2].verify[1]


@pytest.mark.parametrize("phase", [0.05, 0.3, 2.0])
def test_others_that_compute_for_a_while_slow_all_alike(phase):
    """Every other while all takes three times as long."""
    now, took = [0.0], {("verify", 1): 0.02, ("verify", 5): 0.03, ("draft", 1): 0.005}

    def take(seconds):
        now[0] += seconds * (3 if int(now[0] / phase) % 2 == 0 else 1)

    found, _ = calibration._in_turn(
        {run: lambda each=each: take(each) for run, each in took.items()}, lambda: None,
        lambda: now[0])
    ratios = [found[run] / each for run, each in took.items()]
    assert max(ratios) < 1.5 * min(ratios), found


def test_what_takes_longer_now_and_then_is_not_steady():
    now, times = [0.0], iter([1.0, 1.0, 3.0, 1.0, 3.0, 1.0])

    def take():
        now[0] += next(times)

    found, is_steady = calibration._in_turn({("verify", 1): take, ("draft", 1): take},
                                            lambda: None, lambda: now[0])
    assert found == {("verify", 1): 1.0, ("draft", 1): 1.0} and not is_steady


def test_another_machine_measures_its_own(folder, measured, decoder, monkeypatch):
    decoder()
    monkeypatch.setattr(calibration, "_processor", lambda: "another")
    decoder()
    monkeypatch.setattr(calibration.torch, "get_num_threads", lambda: 77)
    decoder()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "another")  # than the one these tests may run with
    decoder()
    assert measured == [1] * 4 and len(list(folder.iterdir())) == 4


def test_nothing_is_measured_where_nothing_can_be_kept(tmp_path, measured, decoder, monkeypatch,
                                                       states):
    """Each process would pay for it: decoding is plain until its time has paid."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(calibration, "_folder", lambda: tmp_path / "file" / "draft_costs")
    found = decoder()
    assert not measured and not found.length.costs
    found(states[:1], [20])
    assert found.report.tested == 0
    found.length.balance.seconds = 1e9
    found(states[:1], [20])
    assert found.length.costs.keys() == {1}
    assert found.length.balance.seconds < 1e9


def test_two_processes_may_keep_costs_together(tmp_path):
    code = """
import sys
from pathlib import Path
from distill.data.files import write_json
for number in range(40):
    write_json(Path(sys.argv[1]), {"key": 1, "verify": {"1": number}, "draft": {}})
"""
    path = tmp_path / "costs.json"
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    while any(run.poll() is None for run in runs):
        if path.exists():
            assert json.loads(path.read_text())["key"] == 1
        time.sleep(0.02)
    assert all(run.returncode == 0 for run in runs)
    assert [each.name for each in tmp_path.iterdir()] == ["costs.json"]


def test_times_are_interpolated():
    assert interpolated({1: 2.0}, 7) == 2.0
    points = {1: 2.0, 5: 6.0, 9: 4.0}  # noise: more tokens never cost less
    assert [interpolated(points, n) for n in (1, 2, 5, 7, 20)] == [2, 3, 6, 6, 6]
    assert interpolated({1: 1.0, 11: 11.0}, 16) == pytest.approx(16)


def test_sizes_between_are_interpolated():
    small, large = (Costs({1: s, 5: 2 * s}, {1: s / 10, 2: s / 5}, 1.0) for s in (1.0, 8.0))
    table = {1: small, 8: large}
    assert costs_of(table, 1) is small and costs_of(table, 5) is large
    assert costs_of(table, 4).passes(0) == pytest.approx(1 + 7 * 3 / 7)
    assert costs_of(table, 9) is None and costs_of({8: large}, 4) is None
    assert small.passes(3) == pytest.approx(1.75 + 0.2 + 2 * 0.1)


@pytest.mark.parametrize("acceptance", [0.2, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("slope", [0.0, 0.05, 0.3])
def test_the_best_length_is_that_of_brute_force(acceptance, slope):
    costs = Costs({n: 1 + slope * (n - 1) for n in (1, 5, 11)}, {1: 0.08, 2: 0.1}, 1.0)
    length = DraftLength()
    length.learn(4, costs)

    def speedup(k):
        said = 1 + sum(acceptance**n for n in range(1, k + 1))
        return said / (1 + slope * k + 0.1 + (k - 1) * 0.08)

    wanted = max(range(1, LONGEST + 1), key=speedup)
    found, gain = length.best(4, acceptance)
    assert found == wanted and gain == pytest.approx(speedup(wanted))
    assert length.limit(4, acceptance) == pytest.approx(max(1.0, gain))
    assert length.speedup(4, found, acceptance) == pytest.approx(gain)
    for _ in range(9):  # all takes twice as long here, and rounds with drafts even longer
        length.note_plain(4, 2.0)
        length.note_drafted(4, found, 3 * 2 * costs.passes(found) / 2, 1.0)
    length._drafted[4].extend([3.0] * 9)
    assert length.best(4, acceptance)[1] == pytest.approx(gain / 3)


def test_acceptance_is_a_running_share_and_surer_with_tokens():
    length = DraftLength()
    assert length.acceptance == 0.75 and length.sure_acceptance < 0.62
    length.note(4, 4)
    assert length.acceptance > 0.75
    for _ in range(400):
        length.note(1, 4)
    assert length.acceptance == pytest.approx(0.25, abs=1e-3)
    assert 0.2 < length.sure_acceptance < 0.25


def test_a_balance_keeps_a_share_of_all_time():
    balance = Balance()
    balance.note_plain(100.0)
    assert balance.seconds == pytest.approx(100 * RATE)
    balance.spend(3.0)
    balance.note_drafted(5.0, 4.0)
    assert balance.seconds == pytest.approx(104 * RATE - 4.0)
    balance.note_drafted(1.0, 1000.0)
    assert balance.seconds == pytest.approx(0.05 * 1104)


@pytest.mark.parametrize("acceptance", [0.0, 0.4, 0.9, 1.0])
def test_no_token_is_lost(acceptance):
    assert 1 <= tokens_per_sequence(acceptance, 5) <= 6
