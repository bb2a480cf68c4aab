"""The decoding benchmark: what it computes from seconds; its models, small."""

import pytest
import torch

from distill.config import ConfigError
from distill.whisper.decoding.drafting.policy import Drafting
from eval.benchmark import decode_memory, pairs
from eval.benchmark.decode import main, measure, ratios
from eval.benchmark.pairs import Pair, Shape
from eval.benchmark.tables.decode import table


def test_ratios_are_medians_over_rounds():
    seconds = {"transformers": [9.0, 8.0, 30.0], "plain": [4.0, 4.0, 5.0],
               "speculative": [2.0, 4.0, 1.0]}
    first = {"plain": [3.0, 3.0, 9.0], "speculative": [3.0, 2.0, 3.0]}
    found = ratios({"base.fp32.4": {"seconds": seconds, "first_calls": first}})
    assert found["first_call_vs_plain"] == {"base": {"fp32": {"4": 1.5}}}
    assert found["speedup_vs_plain"] == {"base": {"fp32": {"4": 2.0}}}
    assert found["vs_transformers_greedy"]["base"]["fp32"]["4"] == 4.5
    assert found["plain_vs_transformers_greedy"]["base"]["fp32"]["4"] == 2.25
    assert "vs_transformers_assisted" not in found


def test_errors_are_sentences(monkeypatch):
    with pytest.raises(ConfigError, match="two options, quick and shapes; got quik"):
        main(["quik"])
    monkeypatch.setattr(decode_memory.sys, "executable", "false")
    with pytest.raises(ValueError, match=r"memory \(int8, batch 2\) failed: no message"):
        decode_memory.in_a_process_of_its_own("int8", 2)
    with pytest.raises(ValueError, match="fp32 or int8, got int9"):
        decode_memory.main(["int9"])


@pytest.mark.slow
def test_a_small_large_shape_runs_every_way(monkeypatch):
    """Same code, small sizes: acceptance as wanted, all ways say the same."""
    # so small a teacher is not worth drafting for
    monkeypatch.setattr(Drafting, "_choose", lambda _: 3)
    monkeypatch.setattr(Drafting, "end_round", lambda *_: None)  # it knows no costs
    shape = Shape(layers=4, width=64, heads=4, inner=128)
    states = torch.randn(2, 1500, 64, generator=torch.Generator().manual_seed(0))
    assert abs(shape.set_acceptance(0.8, states[:1]) - 0.8) < 0.08
    pair = Pair("small", shape.teacher, shape.student, shape.assistant, pairs._Ids(), states,
                [pairs._START, pairs._ENGLISH, pairs._TRANSCRIBE, pairs._NO_TIMES],
                long=20, short=10, most=1, rounds={1: 1, 2: 1}, largest=2)
    settings = {f"small.{compute}.{batch}": measure(pair, compute, batch)
                for compute in ("fp32", "int8") for batch in (1, 2)}
    for setting, found in settings.items():
        assert found["identical"], setting
        assert found["tokens"] == 20  # one window of 20, or two of 10
        if "fp32" in setting:
            assert found["identical_to_transformers"]
    assert 0.5 < settings["small.fp32.1"]["acceptance"] <= 1
    said = table({"threads": 1, "settings": settings} | ratios(settings))
    assert "small" in said and "NO" not in said and "milliseconds of a pass" in said
