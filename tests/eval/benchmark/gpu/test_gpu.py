"""The GPU check on a CPU: everything it asserts holds, and fails where its subject is broken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import pseudo_label.__main__
import pseudo_label.scores
from distill.data.files import read_json
from distill.whisper.decoding.report import NearTie
from distill.whisper.decoding.verification import Verifier
from eval.benchmark.gpu import __main__ as gpu
from eval.benchmark.gpu import checks, labelling, several, training
from eval.benchmark.gpu.material import OF_SMALL, SMALLEST, load_material, run_stage
from eval.benchmark.gpu.table import table

HALF_TYPES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return load_material(tmp_path_factory.mktemp("gpu"), replace(SMALLEST, clips=10))


@pytest.fixture(scope="module")
def labelled(material):
    """With labels and a store."""
    for stage in (pseudo_label.__main__, pseudo_label.scores):
        stage.main([str(material.path), *material.overrides("labels")])
    return material


@pytest.fixture(scope="module")
def steps(labelled):
    """Of all ways but the compiled one, whose compiler takes seconds to import."""
    return [training.measure(labelled, mode, precision)
            for mode in ("live", "store") for precision in ("no", "bf16")]


def failed(found: list[checks.Check]) -> set[str]:
    return {check.name for check in found if not check.passed}


def test_what_is_right_passes(material, steps, tmp_path):
    found, drafts = gpu.in_this_process(material)
    found += training.judge(steps)
    assert not failed(found), found
    assert len(found) == 2 + 2 + 1 + 4 * 2 + 2
    assert {name: len(each) for name, each in drafts.items()} == {"float16": 1, "bfloat16": 1}
    compiled = steps[2] | {"compiled": True, "median_seconds": steps[2]["median_seconds"] / 2}
    assert training.compiling([*steps, compiled]) == {"speedup": 2.0, "pays": True}
    speed = labelling.speed(material, torch.float32)
    assert speed["rtfx"].keys() == {"ours", "transformers"} and speed["peak_memory_bytes"] > 0
    said = table({
        "size": SMALLEST.name, "device": "cpu", "windows": 3, "batch": 2, "labelling": [speed],
        "checks": [vars(check) for check in found], "processes": [],
        "steps": [*steps, compiled], "compile": {"speedup": 2.0, "pays": True}})
    assert "FAILED" not in said and "store, bf16" in said and "store, float32, compiled" in said
    json.dumps([steps, drafts, speed])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_that_is_not_its_teacher_has_a_divergence(material, monkeypatch, dtype):
    def nearly(model):
        copy = exactly(model)
        with torch.no_grad():
            copy.model.decoder.layer_norm.weight[0] *= 1.01
        return copy

    exactly = checks.deepcopy
    monkeypatch.setattr(checks, "deepcopy", nearly)
    assert not checks.kl_is_zero(material, dtype).passed


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_drafts_that_are_believed_are_seen(material, monkeypatch, dtype):
    def gullible(self, *arguments):
        choose = wary(self, *arguments)

        def believe(index, slot, draft, step):
            choice = choose(index, slot, draft, step)
            return choice._replace(token=draft.tokens[step]) if step < len(draft.tokens) else choice

        return believe

    wary = Verifier._by_logits
    monkeypatch.setattr(Verifier, "_by_logits", gullible)
    [(check, figures)] = checks.drafts_change_nothing(material, dtype)
    assert not check.passed and figures["identical"] < figures["windows"]


def test_near_ties_that_nobody_resolved_are_seen(material):
    report = checks.Report(tested=4)
    assert checks.judge_drafts("x", [[1]], [[1]], report)[0].passed
    report.near_ties.append(NearTie((), (1, 2), 0.001, 1, resolved=False))
    assert not checks.judge_drafts("x", [[1]], [[1]], report)[0].passed
    assert not checks.judge_drafts("x", [[1]], [[1]], checks.Report())[0].passed, "no drafts"


def test_labels_that_are_not_those_of_transformers_are_seen(material, monkeypatch):
    monkeypatch.setattr(labelling, "encode",
                        lambda model, features: 0.1 * encode(model, features))
    encode = checks.encode
    assert not labelling.labels_are_transformers(material).passed


def test_a_store_of_other_scores_is_seen(labelled, steps, monkeypatch):
    def wrong(self, samples):
        batch = right(self, samples)
        return batch | {"teacher": batch["teacher"] | {"hidden": -batch["teacher"]["hidden"]}}

    recorded = training.WhisperTask.__init__.__globals__["RecordedTeacher"]
    right = recorded.__call__
    monkeypatch.setattr(recorded, "__call__", wrong)
    broken = training.measure(labelled, "store", "no")
    assert failed(training.judge([*steps[:2], broken, *steps[3:]])) == {
        "loss as live in float32: store, float32"}


def test_wrong_products_of_lower_precision_are_seen(labelled, steps, monkeypatch):
    def lose(states):
        return -states if torch.is_autocast_enabled("cpu") else states

    monkeypatch.setattr("distill.whisper.model._to_autocast_dtype", lose)
    broken = training.measure(labelled, "live", "bf16")
    assert "loss as live in float32: live, bf16" in failed(
        training.judge([steps[0], broken, *steps[2:]]))


def test_a_wrong_compiler_is_seen(labelled, steps, monkeypatch):
    def compile_wrongly(module, **_options):
        forward = module.forward

        def wrong(*arguments, **options):
            output = forward(*arguments, **options)
            output.last_hidden_state = output.last_hidden_state * 1.1
            return output

        module.forward = wrong

    monkeypatch.setattr(torch.nn.Module, "compile", compile_wrongly)
    broken = training.measure(labelled, "store", "no", compiled=True)
    assert failed(training.judge([*steps, broken])) == {
        "loss as live in float32: store, float32, compiled"}


class Idle:
    """An optimiser that changes nothing but, where it is told to, the teacher."""

    def __init__(self, model, _config):
        self.model, self.param_groups = model, []

    def zero_grad(self, **_options):
        self.model.zero_grad()

    def step(self):
        with torch.no_grad():
            self.model.teacher.model.encoder.layer_norm.bias += 1e-3


def test_training_of_the_teacher_alone_is_seen(labelled, steps, monkeypatch):
    monkeypatch.setattr(training, "make_optimizer", Idle)
    broken = training.measure(labelled, "live", "no")
    found = failed(training.judge([broken, *steps[1:]]))
    assert "teacher is not trained: live, float32" in found


def test_a_student_that_does_not_learn_is_seen(labelled, steps, monkeypatch):
    monkeypatch.setattr(training, "make_optimizer", Idle)
    monkeypatch.setattr(Idle, "step", lambda self: None)
    broken = training.measure(labelled, "live", "no")
    assert failed(training.judge([broken, *steps[1:]])) == {"learns: live, float32"}


def test_processes_that_differ_are_seen(material):
    runs = [{"processes": count, "losses": [2.0, 1.5]} for count in (1, 2)]
    for run in runs:
        folder = material.folder / f"train-{run['processes']}" / "student"
        folder.mkdir(parents=True)
        save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    assert not failed(several.judge(material, *runs))
    assert failed(several.judge(material, runs[0], runs[1] | {"losses": [2.0, 1.51]})) == {
        "losses of 2 processes as of one"}
    weights = load_file(folder / "model.safetensors")
    save_file({"weight": weights["weight"] * 1.01}, folder / "model.safetensors")
    assert failed(several.judge(material, *runs)) == {"student of 2 processes as of one"}


def test_what_failed_ends_with_an_error(monkeypatch, tmp_path, capsys):
    row = {"name": "KL of equal models, float32", "passed": False, "found": "1 nat"}
    result = {"checks": [row], "size": "s", "device": "cpu", "windows": 1, "batch": 1,
              "labelling": [], "steps": [], "processes": [],
              "compile": {"speedup": 1.0, "pays": False}}
    monkeypatch.setattr(gpu, "run", lambda folder, size: result)
    monkeypatch.setattr(gpu, "OUT", tmp_path)
    with pytest.raises(ValueError, match="1 of 1 checks failed: KL of equal models, float32"):
        gpu.main([])
    assert "FAILED" in capsys.readouterr().out
    assert read_json(tmp_path / "gpu.json")["checks"] == [row]
    gpu.main(["--help"])
    assert "python -m eval.benchmark.gpu" in capsys.readouterr().out


@pytest.mark.slow
def test_shapes_of_public_models_can_be_written(tmp_path):
    small = replace(OF_SMALL, layers=(1, 3), clips=2)
    found = load_material(tmp_path, small)
    assert found.teacher.model.config.d_model == 768
    assert found.features.shape[1:] == (80, 3000)


@pytest.mark.slow
def test_all_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gpu.main([])
    result = read_json(tmp_path / "runs" / "bench" / "gpu.json")
    assert [each["processes"] for each in result["processes"]] == [1, 2]
    assert all(check["passed"] for check in result["checks"])


@pytest.mark.slow
def test_a_stage_that_fails_says_why(material):
    with pytest.raises(ValueError, match="distill.train with 1 processes failed: error: train.max"):
        run_stage("distill.train", material.path, ["train.max_steps=0"])
