"""The plan for many GPUs, by hand; and whether plans come true."""

import re
from pathlib import Path

import pytest

from distill.data.files import read_json
from distill.methods import load_recipe
from distill.whisper.plan.plan import plan
from distill.whisper.plan.plan_text import describe
from distill.whisper.plan.scale_plan import MEASURED, STATED

ROOT = Path(__file__).resolve().parents[3]


def planned(tmp_path, *overrides: str) -> dict:
    return plan(load_recipe(str(ROOT / "recipes" / "distil-large-v3"), [
        f"output_dir={tmp_path}", "data.expected_hours=22000", *overrides]))


def test_22_000_hours_by_hand(tmp_path):
    """A live teacher: audio is heard in every epoch, and gradients are all that is exchanged."""
    result = planned(tmp_path)
    one, stages = result["time"]["seconds"], result["scale"]["stages"]
    assert list(stages) == [8, 64] and list(stages[8]) == ["label", "train"]
    label, train = stages[64]["label"], stages[64]["train"]
    assert label["gpu"] == one["label"]["gpu"] / 64
    assert label["cpu"] == 22_000 * MEASURED["audio_core_seconds"] / (64 * STATED["cores"])
    assert label["disk"] == 22_000 * STATED["flac_bytes"] / STATED["disk_bytes"]
    assert label["network"] == 0
    heard = 22_000 * result["training"]["epochs"]
    assert train["disk"] == pytest.approx(heard * STATED["flac_bytes"] / STATED["disk_bytes"])
    gradients = 4 * result["student"]["trained_parameters"] * result["training"]["steps"]
    assert train["network"] == pytest.approx(2 * gradients * 63 / 64 / STATED["link_bytes"])
    assert stages[8]["train"]["network"] == pytest.approx(
        2 * gradients * 7 / 8 / STATED["inner_bytes"])
    assert train["bottleneck"] == "gpu" and train["seconds"] == train["gpu"]


def test_what_is_slowest_is_named(tmp_path, monkeypatch):
    for name, key in (("disk", "disk_bytes"), ("disk", "disk_reads"), ("network", "link_bytes"),
                      ("cpu", "cores")):
        with monkeypatch.context() as patch:
            patch.setitem(STATED, key, STATED[key] / 1000)
            result = planned(tmp_path)
            train = result["scale"]["stages"][64]["train"]
            assert train["bottleneck"] == name and train["seconds"] == train[name], key
            text = describe(result)
            said = {"cpu": "processor"}.get(name, name)
            assert re.search(rf"  train .*, {said}\n", text), text


def test_a_store_is_read_in_every_epoch(tmp_path):
    result = planned(tmp_path, "teacher.mode=store", "scores.encoder_states=disk",
                     "scores.encoder_states_dtype=int8")
    train, store = result["scale"]["stages"][64]["train"], result["store"]
    states = next(each["total"] for each in store["choices"]
                  if each["name"] == "encoder states, int8")
    scores = store["total"] - states
    views, training = result["training"]["views"], result["training"]
    read = states * views / training["windows"] + scores * views / training["distinct_views"]
    assert train["disk"] == pytest.approx(read / STATED["disk_bytes"])
    assert train["cpu"] == 0 and "score" in result["scale"]["stages"][8]


def test_small_runs_are_not_planned_for_many(tmp_path):
    demo = plan(load_recipe(str(ROOT / "recipes" / "demo"), [f"output_dir={tmp_path}"]))
    assert "Many GPUs" not in describe(demo)
    assert "Many GPUs" in describe(planned(tmp_path))


def test_the_demo_took_what_was_planned(tmp_path):
    """All of `make demo`, on the machine whose time is in its note."""
    measured = read_json(ROOT / "docs" / "benchmarks" / "demo.json")
    minutes, seconds = re.search(r"`make demo` took (\d+):(\d+) on this machine",
                                 measured["note"]).groups()
    cores = measured["machine"]["cores"]
    result = plan(load_recipe(str(ROOT / "recipes" / "demo"), [
        f"output_dir={tmp_path}", f"num_threads={cores}"]))
    expected = sum(stage["cpu"] for stage in result["time"]["seconds"].values())
    assert expected == pytest.approx(60 * int(minutes) + int(seconds), rel=0.3)
