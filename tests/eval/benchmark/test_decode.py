"""The decoding benchmark: what it computes from seconds; its models, small."""

import pytest
import torch

from distill.data.files import read_json, write_json
from distill.whisper.decoding.drafting.policy import Drafting
from eval.benchmark import decode_memory, pairs
from eval.benchmark.decode import __main__ as decode
from eval.benchmark.decode.measure import measure
from eval.benchmark.pairs import Pair, Shape, shortened
from eval.benchmark.tables.decode import figures, table


def test_ratios_are_medians_over_rounds():
    seconds = {"transformers": [9.0, 9.0], "plain": [4.0, 4.0, 5.0],
               "speculative": [2.0, 4.0, 1.0]}
    first = {"plain": [3.0, 3.0, 9.0], "speculative": [3.0, 2.0, 3.0]}
    found = figures({"base.fp32.4": {"seconds": seconds, "first_calls": first}})
    assert found["first_call_vs_plain"] == {"base": {"fp32": {"4": 1.5}}}
    assert found["speedup_vs_plain"] == {"base": {"fp32": {"4": 2.0}}}
    assert found["vs_transformers_greedy"]["base"]["fp32"]["4"] == (4.5 + 2.25) / 2
    assert found["plain_vs_transformers_greedy"]["base"]["fp32"]["4"] == 2.25
    assert "vs_transformers_assisted" not in found and found["drafts_lose"] == {}
    first["speculative"] = [3.1, 3.1, 9.0]
    lost = figures({"base.fp32.4": {"seconds": seconds, "first_calls": first}})["drafts_lose"]
    assert lost == {"first_call_vs_plain, base.fp32.4": pytest.approx(3 / 3.1)}


def options(*words: str):
    return decode._parser().parse_args(words)


def test_settings_are_measured_once():
    settings = [decode.setting_of(part) for part in decode.parts_of(options())]
    assert len(settings) == len(set(settings)) == 8 + 8 + 2 * 2
    assert settings[0] == "whisper_base.fp32.1" and settings[-1] == "large_v3_shape_90.int8.1"
    short = options("--pairs", "base", "--seconds", "2", "10", "--types", "int8")
    settings = [decode.setting_of(part) for part in decode.parts_of(short)]
    assert settings == [f"whisper_base_shape_90_{seconds}s.int8.{batch}"
                        for seconds in (2, 10) for batch in (1, 4, 8, 16)]


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    path, measured = tmp_path / "x.json", []
    words = ["--pairs", "base", "--batches", "1", "--output", str(path)]
    found = {"seconds": {"plain": [2.0], "speculative": [1.0]}, "plain_passes": 1.0,
             "first_calls": {"plain": [1.0], "speculative": [1.25], "plain_passes": [1.0]},
             "limit": 2.0, "acceptance": None,
             "tokens_per_second": {"plain": 1.0, "speculative": 2.0},
             "tokens_per_pass": None, "identical": True,
             "milliseconds": {"verify": {}, "draft": {}}}

    def measure_one(self, part):
        measured.append(decode.setting_of(part))
        self.result["settings"][measured[-1]] = found

    monkeypatch.setattr(decode.Source, "measure", measure_one)
    decode.main([*words, "--types", "fp32"])
    assert "1.00x" not in (said := capsys.readouterr().out) and "2.00x" in said
    assert "0.80x (noise: no pass had drafts)" in said
    found["first_calls"] = {"plain": [1.0, 1.1], "speculative": [1.25, 1.3], "plain_passes": [1, 0]}
    decode.main([*words, "--types", "fp32"])  # nothing is measured again: as it was kept
    assert "noise" in capsys.readouterr().out
    settings = {"base.fp32.1": found}
    said = table({"threads": 1, "settings": settings} | figures(settings))
    assert "(rounds: 0.80 to 0.85x)" in said and "noise" not in said
    decode.main([*words, "--stop-after", "0"])
    assert "1 of 2 settings are left" in capsys.readouterr().out
    decode.main(words)
    assert measured == ["whisper_base_shape_90.fp32.1", "whisper_base_shape_90.int8.1"]
    kept = read_json(path)
    assert set(kept["settings"]) == set(measured)
    write_json(path, kept | {"run": kept["run"] | {"threads": 99}})
    with pytest.raises(ValueError, match=r"x\.json was measured with .*99.* move it away"):
        decode.main(words)


def test_errors_are_sentences(monkeypatch):
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
    scale = shape.set_acceptance(0.8, states[:1])
    text = torch.randint(0, 50_000, (1, 200), generator=torch.Generator().manual_seed(1))
    assert abs(shape.agreement(text, states[:1]) - 0.8) < 0.08
    assert shape.set_acceptance(0.8, states[:1], scale=scale) == scale
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
    said = table({"threads": 1, "settings": settings} | figures(settings))
    assert "small" in said and "NO" not in said and "milliseconds of a pass" in said
    assert shortened(pair, 2).states.shape == (24, 150, 64)
    few = shortened(pair, 10)
    assert few.states.shape == (16, 550, 64) and few.limit(1) == 40
    found = measure(few, "fp32", 2, with_transformers=False)
    assert found["identical"] and found["tokens"] == 4 * 40
    assert set(found["seconds"]) == {"plain", "speculative"}
