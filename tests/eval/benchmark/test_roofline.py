"""The roofline of decoding: published points, limits, and how its JSON is marked."""

import json
import random
from itertools import pairwise

import pytest

from distill.whisper.plan.cost import token_flops
from distill.whisper.plan.sizes import find_size
from eval.benchmark import roofline as r

LARGE, DISTIL = find_size("openai/whisper-large-v3"), find_size("distil-whisper/distil-large-v3")
PLACES = [(pair, device, setting) for pair in r.PAIRS for device in (r.A100, r.H100)
          for setting in r.SETTINGS]


def seconds(*args) -> float:
    return sum(r.pass_parts(*args).values())


def never_falls(times: list[float]) -> bool:
    return all(after >= before * (1 - 1e-12) for before, after in pairwise(times))  # rounding


@pytest.mark.parametrize("rows", r.PUBLISHED_SPEEDUPS)
def test_published_speedups_within_a_quarter(rows):
    published = r.PUBLISHED_SPEEDUPS[rows]
    assert abs(r.published_speedup(rows, r.FITTED_ACCEPTANCE) / published - 1) < 0.25


def test_the_rule_that_all_rows_agree_is_needed():
    """By its own accepted tokens each row would gain at every batch, whatever the acceptance."""
    for acceptance in (0.6, 0.7, 0.8, 0.9):
        errors = [abs(r.published_speedup(rows, acceptance, per_row=True) / published - 1)
                  for rows, published in r.PUBLISHED_SPEEDUPS.items()]
        assert max(errors) > 0.25
    assert r.published_speedup(16, r.FITTED_ACCEPTANCE, per_row=True) > 1.5


@pytest.fixture(scope="module")
def errors() -> dict[float, float]:
    return r.fit_errors()


def test_the_stated_fit_is_the_best_one(errors):
    assert min(errors, key=errors.__getitem__) == r.FITTED_ACCEPTANCE
    assert errors[0.5] > 0.25 and errors[0.99] > 0.25
    # and what the module says of its neighbours
    assert errors[0.68] <= 0.25 < errors[0.67] and errors[0.91] <= 0.25 < errors[0.92]


@pytest.mark.parametrize(("name", "value"), [
    ("TOKENS_PER_AUDIO_SECOND", 2.5), ("TOKENS_PER_AUDIO_SECOND", 4.5), ("CLIP_TOKENS", 20),
    ("CLIP_TOKENS", 60), ("MEMORY_SHARE", 0.5), ("COMPUTE_SHARE", 0.3), ("GAP_SECONDS", 3e-6),
    ("PUBLISHED_LATENCIES", {1: (0.1219, 0.0242)}),  # with flash attention
])
def test_assumptions_hardly_move_the_published_points(monkeypatch, name, value):
    before = [r.published_speedup(rows, r.FITTED_ACCEPTANCE) for rows in r.PUBLISHED_SPEEDUPS]
    monkeypatch.setattr(r, name, value)
    monkeypatch.setattr(r, "EAGER", r.published_eager())
    after = [r.published_speedup(rows, r.FITTED_ACCEPTANCE) for rows in r.PUBLISHED_SPEEDUPS]
    assert after == pytest.approx(before, rel=0.06)


def test_the_assumed_gap_hardly_moves_the_gains(monkeypatch):
    def gains() -> list[float]:
        return [r.best(r.MAIN_PAIR, device, r.GRAPHS, rows, acceptance)["speedup"]
                for device in (r.A100, r.H100) for rows in r.BATCHES
                for acceptance in r.ACCEPTANCES]

    before = gains()
    for factor in (0.5, 2):
        monkeypatch.setattr(r, "GAP_SECONDS", factor * 1.5e-6)
        assert gains() == pytest.approx(before, rel=0.07)


def test_latencies_that_were_not_used_fit_too():
    first, *others = r.check_latencies()
    assert first["relative_error"] == pytest.approx(0, abs=0.01)
    assert all(abs(row["relative_error"]) < 0.25 for row in others)


def test_expected_tokens_of_a_simulation():
    draw = random.Random(0)
    for acceptance, length in ((0.8, 5), (0.5, 3), (0.95, 10)):
        total = 0
        for _ in range(20_000):
            accepted = 0
            while accepted < length and draw.random() < acceptance:
                accepted += 1
            total += accepted + 1
        assert r.expected_tokens(acceptance, length) == pytest.approx(total / 20_000, rel=0.02)
    assert r.expected_tokens(0.7, 0) == pytest.approx(1)
    assert r.expected_tokens(0.0, 9) == 1
    assert r.expected_tokens(1.0, 9) == 10


def test_all_rows_agreeing_is_the_minimum_over_rows():
    draw = random.Random(1)
    rows, acceptance, length, rounds = 4, 0.8, 5, 20_000

    def accepted() -> int:
        return next((n for n in range(length) if draw.random() >= acceptance), length)

    mean = sum(min(accepted() for _ in range(rows)) + 1 for _ in range(rounds)) / rounds
    agreed = r.all_rows(acceptance, rows)
    assert r.expected_tokens(agreed, length) == pytest.approx(mean, rel=0.02)


def test_schedule_of_draft_lengths_is_that_of_a_simulated_walk():
    draw, length, lengths = random.Random(2), 5, []
    for _ in range(100_000):
        lengths.append(length)
        whole = draw.random() < 0.8**length
        length = min(r.CLIP_TOKENS, length + 2) if whole else max(1, length - 1)
    shares = r.schedule(0.8)
    assert sum(shares.values()) == pytest.approx(1)
    mean = sum(number * share for number, share in shares.items())
    assert mean == pytest.approx(sum(lengths) / len(lengths), rel=0.02)
    assert r.schedule(0.0)[1] == pytest.approx(1)


@pytest.mark.parametrize("setting", r.SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("device", [r.A100_40GB, r.A100, r.H100], ids=lambda device: device.name)
def test_time_never_falls_with_tokens_rows_or_layers(device, setting):
    for rows in (*r.BATCHES, 512):
        times = [seconds(LARGE, device, setting, rows, tokens) for tokens in range(1, 40)]
        assert never_falls(times)
        assert seconds(LARGE, device, setting, rows) > seconds(DISTIL, device, setting, rows)
    for tokens in (1, 6, 30):
        times = [seconds(LARGE, device, setting, rows, tokens) for rows in range(1, 200)]
        assert never_falls(times)
    assert min(r.pass_parts(LARGE, device, setting, 1).values()) >= 0


def test_what_rows_and_tokens_share():
    one = r.pass_parts(LARGE, r.H100, r.GRAPHS, 1)
    eight = r.pass_parts(LARGE, r.H100, r.GRAPHS, 8)
    tokens = r.pass_parts(LARGE, r.H100, r.GRAPHS, 1, 8)
    for part in ("weights", "launches"):
        assert one[part] == eight[part] == tokens[part]
    for part in ("cross_attention", "self_attention"):
        assert eight[part] == pytest.approx(8 * one[part])
        assert tokens[part] == one[part]
    # 32 layers, key and value, 1500 x 1280, 2 bytes: 246 MB a row
    read = one["cross_attention"] * r.H100.bandwidth * r.MEMORY_SHARE
    assert read == pytest.approx(245.8e6, rel=1e-3)


def test_short_clips_share_the_silence():
    padded, one, eight = (r.pass_parts(LARGE, r.H100, r.GRAPHS, rows, positions=positions)
                          for rows, positions in ((1, 1500), (1, 150), (8, 150)))
    numbers = 32 * 2 * 1280 * 2 / (r.H100.bandwidth * r.MEMORY_SHARE)  # seconds a position
    assert one["cross_attention"] == pytest.approx((150 + 675) * numbers)  # every second of 1,350
    assert eight["cross_attention"] == pytest.approx((8 * 150 + 675) * numbers)
    assert {part: one[part] for part in ("weights", "head", "self_attention")} == {
        part: padded[part] for part in ("weights", "head", "self_attention")}
    place = (r.MAIN_PAIR, r.H100, r.GRAPHS)
    found = [r.short_clips(*place, rows) for rows in r.BATCHES]
    for row in found:
        assert row["short"]["positions"] == 150
        assert row["speedup"] > 1 and row["short"]["step_ms"] < row["padded"]["step_ms"]
        assert row["padded"]["step_ms"] == pytest.approx(
            r.split(*place, row["batch"])["step_ms"])
    assert found[-1]["speedup"] > found[0]["speedup"]  # weights are shared by the rows


def test_very_many_rows_are_bound_by_compute_alone():
    """Then only the operations count, and they are those of `distill.whisper.plan.cost`."""
    rows, tokens = 64, 100
    time = seconds(LARGE, r.A100, r.GRAPHS, rows, tokens)
    context = 2 * r.CONTEXT  # token_flops has half its tokens as the context, on average
    flops = rows * tokens * token_flops(LARGE, context) / context
    limit = flops / (r.A100.flops * r.COMPUTE_SHARE)
    assert limit < time < 1.05 * limit


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "-".join(
    [place[0], place[1].name, place[2].name]))
def test_limits_of_drafting(place):
    pair, device, setting = place
    teacher = find_size(r.PAIRS[pair][0])
    for rows in r.BATCHES:
        plain = seconds(teacher, device, setting, rows)
        assert r.round_seconds(*place, rows, 0) == plain  # no draft is plain decoding
        nothing = r.best(*place, rows, 0.0)
        assert (nothing["draft_length"], nothing["speedup"]) == (0, 1.0)
        all_accepted = r.best(*place, rows, 1.0)
        assert all_accepted["draft_length"] == r.MAX_DRAFT
        length = all_accepted["draft_length"]
        limit = (length + 1) * plain / r.round_seconds(*place, rows, length)
        assert all_accepted["speedup"] == pytest.approx(limit)
        assert limit < length + 1
        for acceptance in r.ACCEPTANCES:
            found = r.predict(*place, rows, acceptance)
            assert 1 <= found["all_rows_speedup"] <= found["speedup"] < limit
            assert 1 <= found["speedup_with_encoder"] <= found["speedup"]
            if rows == 1:
                assert found["all_rows_speedup"] == found["speedup"]
                assert found["all_rows_draft_length"] == found["draft_length"]


def test_the_best_draft_length_beats_its_neighbours():
    place = (r.MAIN_PAIR, r.H100, r.GRAPHS)
    found = r.best(*place, 16, 0.8)
    assert 0 < found["draft_length"] < r.MAX_DRAFT
    for length in (found["draft_length"] - 1, found["draft_length"] + 1):
        rate = 16 * r.expected_tokens(0.8, length) / r.round_seconds(*place, 16, length)
        assert rate < found["tokens_per_second"]


def test_json_marks_what_is_predicted(errors, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(r, "fit_errors", lambda: errors)
    monkeypatch.setattr(r, "OUT", tmp_path / "bench" / "roofline.json")
    r.main([])
    found = json.loads((tmp_path / "bench" / "roofline.json").read_text(encoding="utf-8"))
    assert found["measured"] is False
    assert len(found["predictions"]) == len(PLACES) * len(r.BATCHES) * len(r.ACCEPTANCES)
    assert len(found["plain_steps"]) == len(PLACES) * len(r.BATCHES)
    assert len(found["short_clips"]) == len(found["plain_steps"])
    assert all(row["predicted"] is True for row in
               found["predictions"] + found["plain_steps"] + found["short_clips"])
    assert not any("predicted" in row for row in found["published_speedups"])
    for row in found["plain_steps"]:
        assert sum(row["parts_ms"].values()) == pytest.approx(row["step_ms"])
        assert row["parts_ms"][row["bound"]] == max(row["parts_ms"].values())
    assert all("predicted" in line for line in found["finding"][1:])
    printed = capsys.readouterr().out
    blocks = [block for block in printed.split("\n\n") if "acceptance 0.7" in block]
    assert len(blocks) == 4 and all(block.startswith("predicted: ") for block in blocks)


def test_who_wins():
    """Launches at batch 1, and cross-attention once weights are shared by enough rows."""
    for device in (r.A100, r.H100):
        bounds = {rows: r.split(r.MAIN_PAIR, device, r.GRAPHS, rows)["bound"]
                  for rows in r.BATCHES}
        assert bounds[1] == "launches" and bounds[32] == bounds[64] == "cross_attention"
        assert r.split(r.MAIN_PAIR, device, r.EAGER, 64)["bound"] == "launches"


def test_help_computes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(r, "OUT", tmp_path / "roofline.json")
    r.main(["--help"])
    assert "python -m eval.benchmark.roofline" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
