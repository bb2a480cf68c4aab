"""`python -m eval` and `distill.plan` of a tagger."""

import json
import shutil

import numpy as np
import pytest

import distill.train
from distill.ced.teachers.ensemble import Ensemble
from distill.data.files import read_json, read_jsonl, write_jsonl
from distill.plan import main as plan_command
from eval.__main__ import main as eval_command
from eval.tagging import measure as tagging
from pseudo_label import tag_scores

pytestmark = pytest.mark.usefixtures("remembered")


@pytest.fixture(scope="module")
def run(tags):
    arguments = tags.arguments("train.max_steps=2")
    tag_scores.main(arguments)
    distill.train.main(arguments)
    return arguments, tags.folder / "run"


def test_student_and_teachers_each_and_together(run, capsys):
    arguments, folder = run
    eval_command(arguments)
    printed = capsys.readouterr().out
    assert "member2" in printed and "Student minus teacher, mAP" in printed
    assert "ms for 10 s alone" in printed and "size of the weights, MB" in printed
    assert "6 recordings, 0.00 h, in 8 clips of up to 1 s. Times: " in printed
    assert "float32, batches of 4, from decoded audio" in printed
    results = read_json(folder / "eval" / "results.json")
    assert list(results["systems"]) == ["student", "teacher", "member1", "member2"]
    assert results["num_recordings"] == 6 and results["num_clips"] == 8
    for system in results["systems"].values():
        assert 0 <= system["mean_average_precision"] <= 1
        assert system["num_classes_with_positives"] == 3
        for key in ("auc", "d_prime_of_mean_auc", "mean_d_prime", "lwlrap", "ece", "brier"):
            assert key in system
        assert system["clips_per_second"] > 0 and system["ms_per_10_s"] > 0
        assert len(system["mean_average_precision_ci"]) == 2
    assert results["systems"]["student"]["parameters"] > 10_000
    paired = results["paired"]
    assert paired["map_difference"] == pytest.approx(
        results["systems"]["student"]["mean_average_precision"]
        - results["systems"]["teacher"]["mean_average_precision"])
    for name in results["systems"]:
        lines = (folder / "eval" / f"classes-{name}.csv").read_text().splitlines()
        assert len(lines) == 4


def test_predictions_are_what_the_results_are_of(run):
    arguments, folder = run
    rows = read_jsonl(folder / "eval" / "predictions.jsonl")
    assert [row["id"] for row in rows] == [f"test-{n}" for n in range(6)]
    assert rows[2]["duration"] == 2.5 and rows[0]["labels"] == ["bell"]
    said = {name: np.array([row[name] for row in rows]) for name in
            ("student", "teacher", "member1", "member2")}
    assert np.allclose(said["teacher"], (said["member1"] + said["member2"]) / 2, atol=1e-5)
    assert np.allclose(said["member2"], [0.8, 0.4, 0.2])
    from distill.metrics.tagging import mean_average_precision

    targets = np.array([[name in row["labels"] for name in ("bell", "cat", "dog")] for row in rows])
    results = read_json(folder / "eval" / "results.json")
    assert mean_average_precision(said["student"], targets)[0] == pytest.approx(
        results["systems"]["student"]["mean_average_precision"])


def test_nothing_is_measured_twice(run, monkeypatch, capsys):
    arguments, folder = run
    monkeypatch.setattr(tagging, "measure", None)
    eval_command(arguments)
    assert "done already" in capsys.readouterr().out


def test_batches_before_a_stop_are_kept(run, tmp_path, monkeypatch):
    """Ctrl-C in the second of two batches: the first is not computed again, and the results are
    those of a run that nobody stopped."""
    arguments, folder = run
    eval_command(arguments)
    shutil.copytree(folder / "student", tmp_path / "student")
    shutil.copy(folder / "student.json", tmp_path)
    arguments = [arguments[0], f"output_dir={tmp_path}", *arguments[2:]]
    batches, stop_after = [], 1

    def ask(ensemble, number, waves, features):
        if len(waves) > 1:  # not the clip that is timed alone
            batches.append(len(waves))
            if len(batches) > 3 * stop_after:  # the student and two teachers each
                raise KeyboardInterrupt
        return real(ensemble, number, waves, features)

    real = Ensemble.ask
    monkeypatch.setattr(Ensemble, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        eval_command(arguments)
    kept = tmp_path / "eval" / ".tags.said.jsonl"
    assert len(kept.read_text().splitlines()) == 2  # the key and a batch
    with open(kept, "a") as file:
        file.write('{"start": 4, "torn')  # a power cut
    batches.clear()
    eval_command(arguments)
    assert len(batches) == 3 and not kept.exists()
    ours, whole = (read_json(each / "eval" / "results.json") for each in (tmp_path, folder))
    for name, system in whole["systems"].items():
        assert ours["systems"][name]["classes"] == system["classes"]
        assert ours["systems"][name]["clips_per_second"] > 0
    assert (tmp_path / "eval" / "predictions.jsonl").read_text() == (
        folder / "eval" / "predictions.jsonl").read_text()


def test_batches_of_another_student_are_not_taken(run, tmp_path, monkeypatch):
    arguments, folder = run
    shutil.copytree(folder / "student", tmp_path / "student")
    arguments = [arguments[0], f"output_dir={tmp_path}", *arguments[2:]]
    monkeypatch.setattr(tagging, "evaluate_tags", None)  # all batches are done by then
    with pytest.raises(TypeError):
        eval_command(arguments)
    kept = tmp_path / "eval" / ".tags.said.jsonl"
    before = kept.read_text().splitlines()
    weights = tmp_path / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    with pytest.raises(TypeError):
        eval_command(arguments)
    after = kept.read_text().splitlines()
    assert len(before) == len(after) == 3 and before[0] != after[0] and before[1] != after[1]


def test_other_labels_or_sounds_under_the_same_names_are_measured_again(run, monkeypatch):
    arguments, folder = run
    data = folder.parent / "data"
    monkeypatch.setattr(tagging, "measure", None)
    for path, old, new in ((data / "test.jsonl", b"cat", b"dog"),
                           (data / "test" / "0.wav", b"data", b"dat\0")):
        before = path.read_bytes()
        path.write_bytes(before.replace(old, new, 1))
        with pytest.raises(TypeError, match="not callable"):
            eval_command(arguments)
        path.write_bytes(before)
    eval_command(arguments)  # done


def test_the_student_is_scored_as_it_would_be_by_its_users(run):
    """Logits and features by the folder alone, clip by clip."""
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from distill.data.audio import load_audio

    _, folder = run
    model = AutoModelForAudioClassification.from_pretrained(folder / "student").eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder / "student")
    row = read_jsonl(folder / "eval" / "predictions.jsonl")[0]
    inputs = extractor(load_audio(row["audio_filepath"]), sampling_rate=16_000,
                       return_tensors="pt")
    said = model(**inputs).logits.sigmoid()[0].tolist()
    assert said == pytest.approx(row["student"], abs=1e-5)


def test_without_teachers_there_is_only_the_student(tags, run, tmp_path):
    _, folder = run
    (tmp_path / "student").symlink_to(folder / "student")
    results = tagging.evaluate(tags.recipe("teacher.members=[]", f"output_dir={tmp_path}"),
                               tmp_path)
    assert list(results["systems"]) == ["student"] and "paired" not in results
    assert json.dumps(results)


def test_what_is_missing_is_said(tags, run, tmp_path):
    with pytest.raises(ValueError, match="no student in .*make NAME.train"):
        eval_command(tags.arguments(f"output_dir={tmp_path}"))
    with pytest.raises(ValueError, match="data.test is empty"):
        eval_command(tags.arguments("data.test=[]"))
    rows = [{**row, "labels": []} for row in read_jsonl(tags.folder / "data" / "test.jsonl")]
    write_jsonl(tags.folder / "data" / "unlabelled.jsonl", rows)
    with pytest.raises(ValueError, match="none of the 6 recordings has a label"):
        eval_command(tags.arguments(f"data.test=[{tags.folder / 'data' / 'unlabelled.jsonl'}]"))


def test_plan(tags, run, capsys):
    plan_command(tags.arguments("scores.epochs=3", "train.max_steps=100"))
    text = capsys.readouterr().out
    assert "13 clips" in text and "39 views (3 of each clip)" in text
    assert "26 views" in text and "2 steps" in text  # done already
    plan_command(tags.arguments("teacher.mode=live"))
    assert "at every step" in capsys.readouterr().out
    plan_command(tags.arguments("teacher.members=[]"))
    assert "from the labels alone" in capsys.readouterr().out


def test_plan_knows_the_number_of_parameters():
    from distill.ced.plan import WIDTHS, num_parameters

    counts = [num_parameters(WIDTHS[size], 12, 527) for size in ("tiny", "mini", "small", "base")]
    assert counts == [5_503_183, 9_696_655, 21_622_543, 85_711_759]


def test_the_plan_counts_what_muon_computes(tags):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from distill.ced.model.modeling import new_model
    from distill.ced.plan import _muon_flops
    from distill.training.optimizer import make_optimizer

    recipe = tags.recipe("train.optimizer=muon", "student.config.hidden_size=192",
                         "student.config.num_hidden_layers=2", "train.max_steps=3")
    model = new_model("tiny", ["a", "b"], num_hidden_layers=2)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer = make_optimizer(model, recipe.train)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert 3 * counter.get_total_flops() == _muon_flops(recipe)
    assert _muon_flops(tags.recipe()) == 0
