"""The student's input is the teachers', to the last bit."""

from __future__ import annotations

import json

import pytest
import torch

from distill.ced.data.view_source import ViewSource
from distill.ced.teachers.scoring import Scorer
from pseudo_label import tag_scores
from tests.ced.teachers.replay import alone, digest, heard_by_student, heard_by_teachers

LENGTHS = (0.3, 20.0, 0.1, 1.0, 10.0, 0.5, 2.2, 1.0, 5.5, 0.7)
LONG = "data.clip_seconds=20"
STEPS = ("train.batch_size=4", "train.micro_batch_size=2", "train.max_steps=6")  # 2.4 epochs of 10


@pytest.fixture(scope="module")
def long_tags(make_tags, tmp_path_factory):
    """Clips of 0.1 s to 20 s at several rates; scored."""
    folder = tmp_path_factory.mktemp("replay")
    tags = make_tags(folder, train=LENGTHS, rates=(16_000, 44_100, 8_000))
    tag_scores.main(tags.arguments(LONG, *STEPS))
    return tags


@pytest.fixture(scope="module")
def heard(long_tags):
    found = heard_by_teachers(long_tags.recipe(LONG, *STEPS))
    assert len(found) == 2 * len(LENGTHS) == len(set(found.values()))
    return found


@pytest.mark.parametrize(("micro", "workers"), [(4, 0), (1, 2)])
def test_any_batch_size_and_number_of_workers(long_tags, heard, workers, micro):
    """CED's workers keep the epoch they were forked in when epochs are cut short."""
    recipe = long_tags.recipe(LONG, *STEPS, f"train.num_workers={workers}",
                              f"train.micro_batch_size={micro}")
    assert heard_by_student(recipe, alone()) == heard


def test_any_number_of_threads_and_no_cache(long_tags, heard):
    torch.set_num_threads(4)
    try:
        recipe = long_tags.recipe(LONG, *STEPS, "data.cache_megabytes=0")
        assert heard_by_student(recipe, alone()) == heard
        assert heard_by_teachers(recipe) == heard
    finally:
        torch.set_num_threads(1)


def test_other_batches_of_the_teachers(long_tags, heard):
    recipe = long_tags.recipe(LONG, *STEPS, "scores.batch_size=7")
    assert heard_by_teachers(recipe) == heard


def test_two_ranks_that_know_each_other(long_tags, heard, fork_two, tmp_path):
    arguments = [str(tmp_path), *long_tags.arguments(LONG, *STEPS, "train.num_workers=2")]
    fork_two("tests.ced.teachers.replay", arguments, tmp_path / "log")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [each["world"] for each in found] == [2, 2]
    assert len(found[0]["heard"]) and len(found[1]["heard"])
    assert found[0]["heard"] | found[1]["heard"] == heard


def test_a_resumed_run_hears_the_same(long_tags, heard):
    recipe = long_tags.recipe(LONG, *STEPS)
    rest = heard_by_student(recipe, alone(), first_step=3)
    assert 0 < len(rest) <= len(heard) and rest.items() <= heard.items()


NOTHING = ("views.shift=0", "views.gain_db=[0,0]", "views.noise_probability=0",
           "views.time_masks=0", "views.frequency_masks=0", "views.mixup_probability=0",
           "train.max_steps=3")


@pytest.fixture(scope="module")
def plain(tags):
    return heard_by_teachers(tags.recipe(*NOTHING))


@pytest.mark.parametrize(
    "only",
    ["shift=0.5", "gain_db=[-6,6]", "noise_probability=1", "time_masks=2", "frequency_masks=2",
     "mixup_probability=1"],
)
def test_every_augmentation_by_itself(tags, plain, tmp_path, only):
    options = (*NOTHING, f"views.{only}", "views.shift_probability=1", f"scores.dir={tmp_path}")
    tag_scores.main(tags.arguments(*options))
    recipe = tags.recipe(*options)
    found = heard_by_teachers(recipe)
    own = heard_by_student(recipe, alone())
    assert len(own) == 24 and own.items() <= found.items()
    changed = [key for key in found if found[key] != plain[key]]
    assert len(changed) >= 0.8 * len(found), "nothing was done to the sound"


def test_waves_that_members_hear_are_the_views(long_tags):
    """Members with front ends of their own; the features are those of this very wave."""
    recipe = long_tags.recipe(LONG, *STEPS)
    source = ViewSource(recipe)
    prepared = Scorer(recipe, source, None).prepare([(0, 1), (4, 0)])
    for wave, features, view in zip(prepared.waves, prepared.features, prepared.views, strict=True):
        assert digest(source.features(wave.copy(), view)) == digest(features)
