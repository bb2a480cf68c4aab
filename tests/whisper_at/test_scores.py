"""A head that learns from what a tagger's teachers think, without labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.ced.teachers.of_clips import ClipScores
from distill.config import ConfigError
from distill.data.files import read_jsonl, write_text
from distill.data.manifest import Row, read_manifest, write_manifest
from distill.methods import load_recipe
from distill.train import main as train
from pseudo_label.tag_scores import main as score

TEACHERS = """\
method: ced
num_threads: 1
data: {{train: [unlabelled.jsonl], classes: classes.txt, clip_seconds: {seconds}}}
teacher: {{members: [{{model: "{module}:pitch"}}]}}
views: {{time_masks: 0, frequency_masks: 0, mixup_probability: 0.5}}
scores: {{epochs: 6}}
train: {{max_steps: 100, batch_size: 8, micro_batch_size: 8}}
"""
HEAD = """\
method: whisper_at
num_threads: 1
encoder_batch_size: 4
data: {{train: [unlabelled.jsonl], validation: [labelled.jsonl], allow_overlap: true}}
whisper: {{model: {whisper}}}
head: {{head_size: 16, scores: {scores}}}
train: {{max_steps: 30, batch_size: 8, micro_batch_size: 4, learning_rate: 1e-2, warmup_steps: 1,
        log_every: 10, save_every: 10, validate_every: 10}}
"""
TEACHER = """\
import numpy as np


def pitch(waves):
    sharp = [np.mean(np.diff(np.sign(wave)) != 0) > 0.1 for wave in waves]
    return np.where(np.array(sharp)[:, None], [0.9, 0.2], [0.1, 0.8])


pitch.classes = ["high", "low"]
"""


@pytest.fixture(scope="module")
def folder(tiny_teacher, tmp_path_factory) -> Path:
    """Eight tones, their teachers' scores, and a head's recipe."""
    folder = tmp_path_factory.mktemp("scored")
    rows, draws = [], np.random.default_rng(0)
    for number in range(8):
        time = np.arange(16_000) / 16_000
        tone = 0.5 * np.sin(2 * np.pi * (300, 3000)[number % 2] * time)
        soundfile.write(folder / f"{number}.wav", tone + 0.01 * draws.standard_normal(16_000),
                        16_000)
        rows.append(Row(str(number), f"{number}.wav", 1.0, labels=[("low", "high")[number % 2]]))
    write_manifest(folder / "labelled.jsonl", rows)
    write_manifest(folder / "unlabelled.jsonl", [replace(row, labels=None) for row in rows])
    write_text(folder / "classes.txt", "high\nlow\n")
    write_text(folder / "pitch_teacher.py", TEACHER)
    write_text(folder / "teachers.yaml", TEACHERS.format(module="pitch_teacher", seconds=1))
    write_text(folder / "recipe.yaml",
               HEAD.format(whisper=tiny_teacher, scores=folder / "teachers/scores"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        score([str(folder / "teachers.yaml"), f"output_dir={folder / 'teachers'}"])
        yield folder


def test_clips_have_the_scores_of_views_that_are_not_mixed(folder):
    scores = ClipScores(folder / "teachers/scores")
    targets, is_there = scores(read_manifest(folder / "labelled.jsonl")[0])
    assert is_there.all() and scores.classes == ["high", "low"]
    expected = np.array([[0.1, 0.8], [0.9, 0.2]] * 4)
    np.testing.assert_allclose(targets, expected, atol=0.01)  # steps of uint8
    other = Row("more", str(folder / "0.wav"), 0.5)
    assert not ClipScores(folder / "teachers/scores")([other])[1].any(), "half of a clip"


def test_of_long_clips_what_one_part_has(folder):
    write_text(folder / "short.yaml", TEACHERS.format(module="pitch_teacher", seconds=0.5))
    score([str(folder / "short.yaml"), f"output_dir={folder / 'short'}", "scores.epochs=12"])
    targets, is_there = ClipScores(folder / "short/scores")(
        read_manifest(folder / "labelled.jsonl")[0])
    np.testing.assert_allclose(targets[is_there], np.array(
        [[0.1, 0.8], [0.9, 0.2]] * 4)[is_there], atol=0.01)
    assert is_there.any()


def test_a_head_learns_without_labels(folder, capsys):
    train([str(folder / "recipe.yaml"), f"output_dir={folder / 'run'}"])
    assert f"from the scores in {folder / 'teachers/scores'}" in capsys.readouterr().out
    assert read_jsonl(folder / "run/metrics.jsonl")[-1]["map"] == 1.0
    train([str(folder / "recipe.yaml"), f"output_dir={folder / 'run'}"])
    assert "Training is done already" in capsys.readouterr().out


def test_clips_that_nobody_scored_are_counted(folder, capsys):
    rows = read_manifest(folder / "unlabelled.jsonl")[0]
    write_manifest(folder / "more.jsonl", [*rows, replace(rows[0], id="half", duration=0.5)])
    arguments = [str(folder / "recipe.yaml"), f"output_dir={folder / 'more'}", "train.max_steps=1"]
    train([*arguments, f"data.train=[{folder / 'more.jsonl'}]"])
    assert "8 clips (dropped: 1 not_scored)" in capsys.readouterr().out
    write_manifest(folder / "half.jsonl", [replace(rows[0], duration=0.5)])
    with pytest.raises(ValueError, match="has no scores of the clips of data.train"):
        train([*arguments, f"data.train=[{folder / 'half.jsonl'}]"])


def test_labels_beside_scores(folder):
    from accelerate import Accelerator

    from distill.methods import build_task

    def targets(*overrides: str) -> np.ndarray:
        recipe = load_recipe(str(folder / "recipe.yaml"), [
            f"output_dir={folder / 'labels'}", f"data.train=[{folder / 'labelled.jsonl'}]",
            *overrides])
        return build_task(recipe, Accelerator(cpu=True)).targets

    alone, mixed = targets(), targets("head.label_weight=0.5")
    labels = np.array([[0, 1], [1, 0]] * 4)
    np.testing.assert_allclose(mixed, (alone + labels) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="has no `labels`"):
        targets("head.label_weight=0.5", f"data.train=[{folder / 'unlabelled.jsonl'}]")
    with pytest.raises(ConfigError, match="head.label_weight must be .* 0 without scores"):
        load_recipe(str(folder / "recipe.yaml"), ["head.scores=null", "head.label_weight=0.5"])


def test_no_scores_there(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no recipe.yaml; python -m pseudo_label"):
        train([str(folder / "recipe.yaml"), f"output_dir={tmp_path}", f"head.scores={tmp_path}"])
