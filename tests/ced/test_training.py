"""Students of stored scores, of live teachers and of labels; spread, killed and resumed."""

from __future__ import annotations

import random
import re
import signal
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import distill.train
from distill.ced.task import CedTask
from distill.data.files import read_json, read_jsonl
from distill.methods import shaping
from pseudo_label import tag_scores

CLASSES = ["bell", "cat", "dog"]
LABELS = "teacher.members=[]"


@pytest.fixture(scope="module")
def scored(tags) -> str:
    """`scores.dir=...` of scores for all that is trained here."""
    folder = tags.folder / "scores"
    tag_scores.main(tags.arguments(f"scores.dir={folder}", "train.max_steps=12"))
    return f"scores.dir={folder}"


def train(tags, run: Path, *overrides: str) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main([*tags.arguments(*overrides), f"output_dir={run}"])
    return run


def task_of(tags, *overrides: str) -> CedTask:
    return CedTask(tags.recipe(*overrides), Accelerator(cpu=True))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


def distance(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


MUON = "train.optimizer=muon"


@pytest.mark.parametrize(
    "mode", [(), pytest.param((MUON,), marks=pytest.mark.slow),
             ("teacher.mode=live",), (LABELS, "data.balance=true")],
    ids=["store", "muon", "live", "labels"])
def test_ranks_and_accumulation_give_the_same_parameters(tags, scored, fork_two, tmp_path, mode):
    common = (scored, *mode, "train.validate_every=4")
    one = train(tags, tmp_path / "1x8", *common)
    four = train(tags, tmp_path / "4x2", *common, "train.micro_batch_size=2")
    assert distance(one, four) < 5e-6  # Adam makes rounding larger
    heard, source = read_json(one / "student.json")["data"], task_of(tags, *common).source
    assert heard["count"] == len(source.clips) and heard["drops"] == dict(source.drops)
    assert heard["hours"] == sum(clip.num_samples for clip in source.clips) / 16_000 / 3600 > 0
    if mode in ((), (MUON,)):
        start = train(tags, tmp_path / "start", *common, "train.learning_rate=1e-12")
        assert distance(one, start) > 1e-3, "the test would pass on a loop that does nothing"
        fork_two("distill.train", [*tags.arguments(*common, "train.micro_batch_size=4"),
                                   f"output_dir={tmp_path / '2x4'}"], tmp_path / "log")
        assert distance(one, tmp_path / "2x4") < 5e-6
        alone, shared = ([row for row in read_jsonl(run / "metrics.jsonl")
                          if row.pop("split") == "validation"] for run in (one, tmp_path / "2x4"))
        assert shared == [pytest.approx(row, rel=1e-4) for row in alone]
        assert alone[0]["num_classes"] == 3


RESUMED = ("train.max_steps=8", "train.validate_every=3", "train.average_decay=0.9", MUON)


def test_sigkill_at_random_moments_changes_nothing(tags, scored, fork, tmp_path):
    whole = train(tags, tmp_path / "whole", scored, *RESUMED)
    run, log, seed = tmp_path / "killed", tmp_path / "log", int(time.time())
    arguments = [*tags.arguments(scored, *RESUMED, "train.save_every=1", "train.num_workers=2"),
                 f"output_dir={run}"]
    moments, kills = random.Random(seed), 0
    for _ in range(2):
        metrics = run / "metrics.jsonl"
        before = metrics.stat().st_mtime_ns if metrics.is_file() else 0
        process = fork("distill.train", arguments, log)
        while process.is_alive() and not (
            metrics.is_file() and metrics.stat().st_mtime_ns > before
        ):
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.2))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 1, f"the run was over before it could be killed (seed {seed})"
    train(tags, run, *arguments[2:-1])
    for path in (whole / "student").iterdir():
        assert (run / "student" / path.name).read_bytes() == path.read_bytes(), f"seed {seed}"


def test_a_teacher_that_was_trained_again_is_another_one(tags, tmp_path, tagger_folder):
    """Under the name that it had."""
    import shutil

    names = tmp_path / "classes.txt"
    names.write_text("bell\ncat\ndog\nrain\nsiren\n")
    member = tmp_path / "teacher"
    shutil.copytree(tagger_folder, member)
    options = (f"teacher.members=[{{model: {member}, classes: {names}}}]", "teacher.mode=live")
    before = task_of(tags, *options).labels_hash
    assert task_of(tags, *options).labels_hash == before
    path = member / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x3c")
    assert task_of(tags, *options).labels_hash != before


def test_what_an_export_may_lose_shapes_no_weights(tags):
    one, other, third = (shaping(asdict(tags.recipe(*keys))) for keys in
                         ((), ("export.max_map_loss=0.5", "train.log_every=7"),
                          ("loss.fill=zero",)))
    assert one == other != third


def test_a_store_and_the_live_teachers_teach_the_same(tags, tmp_path):
    """Up to the rounding of what is stored; as long as no view comes again."""
    exact = ("scores.values=float16", "train.max_steps=3", f"scores.dir={tmp_path / 'scores'}",
             "loss.confidence_power=0.5")
    tag_scores.main(tags.arguments(*exact))
    stored, live = (task_of(tags, *exact, *mode) for mode in ((), ("teacher.mode=live",)))
    for step in range(3):
        views = stored.batches.update(step)
        batches = [task.collate(views) for task in (stored, live)]
        assert torch.equal(batches[0]["input_values"], batches[1]["input_values"])
        losses = [task.model(batch)[0].item() for task, batch in
                  zip((stored, live), batches, strict=True)]
        assert abs(losses[0] - losses[1]) < 2e-3 * losses[1]


def test_a_student_learns_what_the_teachers_say(tags, scored, tmp_path):
    run = train(tags, tmp_path / "run", scored, "train.max_steps=12", "train.learning_rate=1e-2")
    losses = [row["loss"] for row in read_jsonl(run / "metrics.jsonl") if row["split"] == "train"]
    assert losses[-1] < 0.97 * losses[0]


def test_the_student_loads_by_the_auto_classes(tags, scored, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    run = train(tags, tmp_path / "run", scored, "train.max_steps=1")
    model = AutoModelForAudioClassification.from_pretrained(run / "student").eval()
    assert model.config.id2label == dict(enumerate(CLASSES))
    inputs = AutoFeatureExtractor.from_pretrained(run / "student")(
        np.zeros(16_000, np.float32), sampling_rate=16_000, return_tensors="pt")
    assert model(**inputs).logits.shape == (1, 3)


def test_features_are_normalised_by_what_was_measured(tags, scored):
    """Not by a batch's: they would change with the number of ranks."""
    task = task_of(tags, scored)
    norm = task.student.init_bn
    frames = torch.cat(list(task._feature_views()), 1)
    assert torch.allclose(norm.running_mean, frames.mean(1), atol=1e-3)
    assert torch.allclose(norm.running_var, frames.var(1, correction=0), rtol=1e-3)
    before = norm.running_mean.clone()
    task.model.train()
    task.model(task.collate(task.batches.update(0)))
    assert torch.equal(norm.running_mean, before) and not norm.training


def test_gradient_checkpointing_gives_the_same_gradients(tags, scored):
    gradients = []
    for choice in ("false", "true"):
        task = task_of(tags, scored, f"train.gradient_checkpointing={choice}")
        assert task.student.is_activation_checkpointing == (choice == "true")
        task.model(task.collate(task.batches.update(0)))[0].backward()
        gradients.append(task.student.encoder.blocks[0].mlp.fc1.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6)


def test_validation_mode_ends_as_it_began(tags, scored):
    task = task_of(tags, scored)
    task.validate()
    assert task.student.training and not task.student.init_bn.training


# Own classes and starts


def test_a_student_that_goes_on_gets_a_new_output_layer_for_other_classes(tags, tmp_path):
    run = train(tags, tmp_path / "run", LABELS, "train.max_steps=1")
    other = tmp_path / "classes.txt"
    other.write_text("bell\ncat\ndog\nzebra\n")
    again = task_of(tags, LABELS, f"student.model={run / 'student'}", "student.config={}",
                    f"data.classes={other}")
    old, new = weights(run), again.student.state_dict()
    assert torch.equal(new["encoder.blocks.0.mlp.fc1.weight"],
                       old["encoder.blocks.0.mlp.fc1.weight"])
    assert new["outputlayer.1.weight"].shape[0] == 4
    assert again.student.config.id2label[3] == "zebra"
    assert torch.equal(new["encoder.init_bn.running_mean"], old["encoder.init_bn.running_mean"])


def test_seven_classes_and_a_teacher_of_527(tags, tmp_path, monkeypatch):
    """What CED's users ask for first (scatter error, or the teacher's classes)."""
    import toy_teachers

    def many(waves):
        return np.tile(np.linspace(0.01, 0.5, 527), (len(waves), 1))

    many.classes = [f"c{n}" for n in range(524)] + CLASSES
    monkeypatch.setattr(toy_teachers, "loud", many)
    monkeypatch.setattr("distill.ced.teachers.ensemble.content_of", lambda _: "toy")
    options = ("teacher.members=[{model: 'toy_teachers:loud'}]", f"scores.dir={tmp_path / 's'}")
    tag_scores.main(tags.arguments(*options))
    run = train(tags, tmp_path / "run", *options, "train.max_steps=1")
    assert weights(run)["outputlayer.1.weight"].shape == (3, 32)


# Unreadable audio


def test_unreadable_audio_has_no_part_in_the_loss(make_tags, tmp_path):
    tags = make_tags(tmp_path)
    (tmp_path / "data" / "train" / "3.wav").write_bytes(b"RIFF, and nothing else")
    task = task_of(tags, LABELS, "views.mixup_probability=0")
    bad = [clip.key for clip in task.source.clips].index("train-3")
    both, alone = task.collate([(bad, 0), (0, 0)]), task.collate([(0, 0)])
    assert task.count(both) == task.count(alone) == 1
    with torch.no_grad():
        task.model.eval()
        losses = [task.model(batch)[0].item() for batch in (both, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_audio_that_went_bad_after_scoring_is_an_error(make_tags, tmp_path):
    tags = make_tags(tmp_path)
    tag_scores.main(tags.arguments())
    task = task_of(tags, "data.cache_megabytes=0")
    (tmp_path / "data" / "train" / "3.wav").write_bytes(b"RIFF, and nothing else")
    bad = [clip.key for clip in task.source.clips].index("train-3")
    with pytest.raises(ValueError, match="clip train-3.*it could be read when it was scored"):
        task.count(task.collate([(bad, 0)]))


def test_what_is_wrong_with_the_validation_split_is_said_at_once(make_tags, tmp_path):
    tags = make_tags(tmp_path)
    path = tmp_path / "data" / "validation.jsonl"
    rows = path.read_text()
    path.write_text(re.sub(r'\["\w+"\]', "[]", rows))
    with pytest.raises(ValueError, match="data.validation: not one clip has a label"):
        task_of(tags, LABELS)
    path.write_text(rows)
    (tmp_path / "data" / "validation" / "1.wav").unlink()
    with pytest.raises(ValueError, match="data.validation.*1 missing_file .validation-1"):
        task_of(tags, LABELS)
