"""A family of tiny students from one store: trained, measured, chosen, and gone on with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import distill.train
import pseudo_label.__main__
from distill.data.files import read_json
from distill.testing import write_tiny_recipe
from eval.family import __main__ as family
from eval.family import measure, members, times
from eval.family.ct2 import is_installed
from eval.family.models import CT2
from eval.speech.weight_bytes import shapes_of, weight_bytes

LAYERS = "family.decoder_layers=[1,2,[0,1,3]]"  # of 4; the second is the recipe's own
OVERRIDES = ["loss.hidden_weight=1", "loss.kl_weight=0", "train.max_steps=2",
             "train.validate_every=2", "views.timestamp_probability=0",
             "views.previous_text_probability=0", "family.budget.clip_seconds=1",
             "teacher.short_audio_margin=0.5"]


TYPES = ["float32", "int8", *([CT2] if is_installed() else [])]


class Stages:
    """Runs stages in this process, and writes down which."""

    def __init__(self):
        self.calls: list[list[str]] = []

    def __call__(self, name: str, arguments: list[str]) -> int:
        from accelerate.state import AcceleratorState

        self.calls.append([name, *arguments])
        AcceleratorState._reset_state(reset_partial_state=True)  # of other tests
        main = {"label": pseudo_label.__main__.main, "train": distill.train.main}[name]
        return main(arguments) or 0

    def trained(self) -> list[str]:
        """Layers of the students that were trained."""
        words = [" ".join(call) for call in self.calls if call[0] == "train"]
        return [re.search(r"student\.decoder_layers=(\S+)", each)[1] for each in words]


def call_instead(patch: pytest.MonkeyPatch, function) -> None:
    """Of copies of this process."""
    patch.setattr(members, "can_fork", lambda: True)
    patch.setattr(torch.cuda, "is_available", lambda: False)
    patch.setattr(members, "import_shared", lambda: None)
    patch.setattr(members, "call_forked", function)


@pytest.fixture(scope="module", autouse=True)
def two_clips():
    """Are timed."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (times, measure):
            patch.setattr(module, "NUM_CLIPS", 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def arguments(folder) -> list[str]:
    recipe = write_tiny_recipe(folder, train=6, validation=3, test=3)
    return [str(recipe), f"output_dir={folder / 'run'}", *OVERRIDES]


@pytest.fixture
def stages(monkeypatch) -> Stages:
    found = Stages()
    call_instead(monkeypatch, found)
    return found


@pytest.fixture(scope="module")
def results(folder, arguments) -> dict:
    """Of a family of which one student was trained before."""
    with pytest.MonkeyPatch.context() as patch:
        stages = Stages()
        call_instead(patch, stages)
        stages("label", [*arguments, LAYERS])
        stages("train", [*arguments, LAYERS])
        stages.calls.clear()
        assert family.main([*arguments, LAYERS]) == 0
        assert stages.trained() == ["[3]", "[0,1,3]"]
    return read_json(folder / "run" / "family" / "results.json")


def test_every_student_is_measured_in_every_type(folder, results):
    run = folder / "run"
    folders = {"3": run / "family" / "3", "0-3": run, "0-1-3": run / "family" / "0-1-3"}
    assert [each["name"] for each in results["students"]] == list(folders)
    for student in results["students"]:
        assert Path(student["folder"]) == folders[student["name"]] / "student"
        assert list(student["ways"]) == TYPES
        for way in student["ways"].values():
            assert way["milliseconds"] > 0
            for split in ("validation", "test"):
                assert way[split]["error_rate"] >= 0 and way[split]["looping_clips"] in range(4)
    for split in ("validation", "test"):
        assert results["splits"][split]["num_clips"] == 3
        assert results["teacher"][split]["error_rate"] >= 0
        assert "difference" not in results["teacher"][split]
    sizes = [each["ways"]["float32"]["megabytes"] for each in results["students"]]
    assert sizes == sorted(sizes) and sizes[-1] < results["teacher"]["megabytes"]


def test_the_best_on_validation_is_chosen_and_timed_again(results):
    rates = {(each["name"], dtype): way["validation"]["error_rate"]
             for each in results["students"] for dtype, way in each["ways"].items()}
    chosen = results["chosen"]
    assert rates[chosen["name"], chosen["dtype"]] == min(rates.values())
    assert chosen["again"]["milliseconds"] > 0 and chosen["again"]["is_within_budget"]


def test_it_is_drawn_and_told(folder, results, capsys):
    run = folder / "run"
    family.show(run, results)
    printed = capsys.readouterr().out
    assert "* Take decoder layers" in printed and "validation: 3 clips" in printed
    svg = (run / "family" / "family.svg").read_text()
    assert svg.count("<polyline") == 1 + len(TYPES) and "nan" not in svg
    page = (run / "report" / "index.html").read_text()
    assert "Family of students" in page and "decoder layers 0 1 3" in page


def test_what_is_done_is_not_done_again(folder, arguments, results, stages, monkeypatch, capsys):
    def no_models(*_arguments):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr("eval.family.measure.Models", no_models)
    assert family.main([*arguments, LAYERS]) == 0
    assert stages.trained() == [] and len(stages.calls) == 1  # labels say themselves that they are
    assert read_json(folder / "run" / "family" / "results.json") == results
    limits = ["family.budget.milliseconds=0.001"]
    assert family.main([*arguments, LAYERS, *limits]) == 0
    assert "No student is within the budget (0.001 ms a clip of 1 s)" in capsys.readouterr().out


@pytest.mark.slow
def test_another_student_costs_its_own_training_and_decoding(folder, arguments, results, stages):
    kept = folder / "run" / "family" / "kept"
    before = {path.name: path.stat().st_mtime_ns for path in kept.glob("0-1-3.*")}
    assert family.main([*arguments, "family.decoder_layers=[[0,1,3],[1,3]]"]) == 0
    assert stages.trained() == ["[1,3]"] and len(before) == 2 * len(TYPES)
    found = read_json(folder / "run" / "family" / "results.json")
    assert [each["name"] for each in found["students"]] == ["0-1-3", "1-3"]
    same = found["students"][0]["ways"]["int8"]["test"]
    assert same == results["students"][2]["ways"]["int8"]["test"]


def test_a_stage_that_fails_ends_it(arguments, monkeypatch):
    call_instead(monkeypatch, lambda name, arguments: 3)
    assert family.main([*arguments, LAYERS]) == 3


def test_what_cannot_be_is_said_first(arguments, results, stages):
    for more, words in (
            (["family.decoder_layers=[]"], "family.decoder_layers is empty"),
            ([LAYERS, "data.validation=[]"], "data.validation is empty"),
            (["family.decoder_layers=[5]"], "between 1 and 4, got 5"),
            (["family.decoder_layers=[[0,2]]"], "the family learns from [2]"),
            (["family.decoder_layers=[0]"], "a count > 0 or a list of layer indices"),
            (["family.budget.clip_seconds=31"], "at most 30"),
            (["family.budget.megabytes=0"], "> 0 or null"),
            (["family.budget.milliseconds=-1"], "> 0 or null"),
            (["--num-processes"], "needs a value")):
        with pytest.raises(ValueError, match=re.escape(words)):
            family.main([*arguments, *more])
    assert stages.calls == []


def test_several_processes_label_and_train(arguments, monkeypatch):
    calls = []
    monkeypatch.setattr(members, "wait_for", lambda command: calls.append(command[1:]) or 0)
    assert members.label(["demo"], ["--num-processes=2"]) == 0
    member = members.Member((0, 3), Path("runs/x"), ("student.decoder_layers=[0,3]",), False)
    assert members.train(member, ["demo"], ["--num-processes=2"]) == 0
    assert calls == [["-m", "distill", "label", "demo", "--num-processes=2"],
                     ["-m", "distill", "train", "demo", "student.decoder_layers=[0,3]",
                      "--num-processes=2"]]


def test_where_cuda_is_in_use_students_are_no_copies_of_this_process(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(members, "wait_for", lambda command: calls.append(command[1:]) or 0)
    assert members.label(["demo"], []) == 0
    member = members.Member((0, 3), Path("runs/x"), ("student.decoder_layers=[0,3]",), False)
    assert members.train(member, ["demo"], []) == 0
    assert calls == [["-m", "pseudo_label", "demo"],
                     ["-m", "distill.train", "demo", "student.decoder_layers=[0,3]"]]


def test_bytes_of_weights(folder, results):
    from transformers import WhisperForConditionalGeneration

    student = folder / "run" / "family" / "3" / "student"
    model = WhisperForConditionalGeneration.from_pretrained(student, dtype=torch.float32)
    numbers = list(model.parameters())
    assert weight_bytes(shapes_of(student), "float32") == 4 * sum(each.numel() for each in numbers)
    assert weight_bytes(shapes_of(student), "int8") == sum(
        each.numel() + 4 * len(each) if each.ndim > 1 else 4 * each.numel() for each in numbers)
