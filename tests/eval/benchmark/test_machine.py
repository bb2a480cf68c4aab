"""What benchmarks say of the machine they ran on, and how they end."""

import json
import os

import pytest
import torch

from eval import machine
from eval.benchmark.result import run_benchmark, write_result

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2.10GHz
flags\t\t: fpu sse2 avx2 avx512f amx_tile

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
KEYS = {"processor", "cores", "threads", "avx512", "amx", "gpu", "torch"}


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", path)
    return path


def test_processor_and_its_instructions(cpuinfo):
    cpuinfo.write_text(CPUINFO)
    found = machine.this_machine()
    assert set(found) == KEYS
    assert found["processor"] == "Some CPU @ 2.10GHz" and found["avx512"] and found["amx"]
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    assert 1 <= found["cores"] <= os.cpu_count()
    cpuinfo.write_text(CPUINFO.replace(" avx512f amx_tile", ""))
    assert machine.this_machine()["avx512"] is machine.this_machine()["amx"] is False


def test_a_system_that_does_not_say_is_not_said_to_lack_it(cpuinfo):
    found = machine.this_machine()
    assert found["processor"] and found["avx512"] is found["amx"] is None
    assert "AVX" not in machine.describe(found)


def test_in_a_sentence():
    found = {"processor": "Some CPU", "cores": 2, "threads": 1, "avx512": True, "amx": False,
             "gpu": None, "torch": "2.13.0"}
    assert machine.describe(found) == (
        "Some CPU, 2 cores, AVX-512, no AMX, 1 thread, torch 2.13.0")
    assert ", 1 core, no AVX-512, no AMX, 1 thread, Some GPU, torch" in machine.describe(
        found | {"cores": 1, "avx512": False, "gpu": "Some GPU"})


def test_results_name_the_machine(tmp_path, capsys):
    write_result(tmp_path / "bench" / "x.json", {"speed": 2}, "a table")
    found = json.loads((tmp_path / "bench" / "x.json").read_text())
    assert found == {"speed": 2, "machine": machine.this_machine()}
    assert capsys.readouterr().out.splitlines() == [
        "a table", f"Machine: {machine.describe(found['machine'])}",
        f"Written to {tmp_path / 'bench' / 'x.json'}"]


def test_a_benchmark_ends_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench"])

    def stopped(arguments):
        raise KeyboardInterrupt

    def wrong(arguments):
        raise ValueError("no such recipe")

    with pytest.raises(SystemExit) as ended:
        run_benchmark(stopped)
    assert ended.value.code == 130 and "measures everything again" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="error: no such recipe"):
        run_benchmark(wrong)
