"""A tagger's recipe says what is wrong with it."""

import pytest

from distill.config import ConfigError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.shft=0.1", r"unknown key views.shft; did you mean views.shift\?"),
        ("views.shift=0.7", r"views.shift must be in \[0, 0.5\], got 0.7"),
        ("views.gain_db=[6,-6]", r"views.gain_db must be two numbers in \[-31.75, 31.75\]"),
        ("views.snr_db=[0,60]", "views.snr_db must be two numbers"),
        ("views.mixup_weight=[0,0.5]", "views.mixup_weight must be two numbers"),
        ("views.noise=[purple]", "views.noise must be a list of white, pink, brown"),
        ("views.time_mask_frames=300", r"views.time_mask_frames must be in 1..255, got 300"),
        ("views.frequency_masks=9", "views.frequency_masks must be in 0..8"),
        ("views.seed=-1", "views.seed must be"),
        ("teacher.mode=lazy", "teacher.mode must be store or live, got 'lazy'"),
        ("teacher.average=median", "teacher.average must be probability or logit"),
        ("teacher.members=[{model: x, weight: 0}]", r"teacher.members\[0\].weight must be > 0"),
        ("teacher.members=[{modl: x}]", "Did you mean: 'model'"),
        ("data.clip_seconds=0.1", r"data.clip_seconds must be in \[0.15, 600\]"),
        ("scores.k=0", "scores.k must be > 0"),
        ("scores.values=int4", "scores.values must be uint8 or float16"),
        ("loss.fill=random", "loss.fill must be zero or tail_mean"),
        ("loss.label_weight=2", r"loss.label_weight must be in \[0, 1\]"),
        ("loss.temperature=0", "loss.temperature must be > 0"),
        ("train.batch_tokens=100", "train.batch_tokens must be null"),
        ("train.micro_batch_size=3", "train.batch_size must be a multiple"),
    ],
)
def test_what_cannot_be_is_named(tags, override, message):
    with pytest.raises(ConfigError, match=message):
        tags.recipe(override)


def test_an_inconsistent_student_needs_a_store(tags):
    for more in ("teacher.mode=live", "teacher.members=[]"):
        with pytest.raises(ConfigError, match="teacher.consistent must be true where no scores"):
            tags.recipe("teacher.consistent=false", more)


def test_paths_and_defaults_are_resolved(tags):
    recipe = tags.recipe("output_dir=runs/x", "seed=7")
    assert recipe.scores.dir == "runs/x/scores" and recipe.views.seed == 7
    assert tags.recipe("seed=7", "views.seed=3").views.seed == 3
    assert tags.recipe("data.classes=c.txt").data.classes == str(tags.path.parent / "c.txt")
