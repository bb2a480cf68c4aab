"""Draws are a function of (seed, clip, epoch); a step's views are a function of its number."""

import itertools
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from distill.data.views.augment import AugmentConfig
from distill.data.views.batches import FixedBatches, RankBatches
from distill.data.views.draws import (
    View,
    ViewStream,
    draw_view,
    epoch_order,
    generator,
    view_from_dict,
)

KEYS = [f"train-0-{index:06d}" for index in range(2000)]
PROBABILITIES = {
    "timestamp_probability": 0.2, "previous_text_probability": 0.6
}
AUGMENT = AugmentConfig(probability=0.7, num_time_masks=2, num_frequency_masks=1)


def draw(key: str, epoch: int = 0, seed: int = 0, **changes):
    return draw_view(seed, key, epoch, **{**PROBABILITIES, **changes})


def test_any_order_gives_the_same():
    pairs = list(itertools.product(KEYS[:50], range(4)))
    forward = {pair: draw(*pair, augment=AUGMENT) for pair in pairs}
    backward = {pair: draw(*pair, augment=AUGMENT) for pair in reversed(pairs)}
    assert forward == backward


def test_draws_are_known_values():
    """They stand for runs: neither our keying nor a library version may change them."""
    expected = [0.071373239259368, 0.29272834208960885, 0.5031225565446763]
    assert generator(7, "train-0-000017", 3).random(3).tolist() == expected


def test_views_are_known_values():
    views = [draw(key, epoch=index % 3, seed=5) for index, key in enumerate(KEYS[:12])]
    assert [int(view.timestamps) for view in views] == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert [int(view.previous) for view in views] == [1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1]
    assert views[0] == View(KEYS[0], timestamps=True, previous=True)


def test_augmentation_leaves_the_other_draws():
    plain, augmented = (
        [draw(key, augment=augment) for key in KEYS[:200]] for augment in (None, AUGMENT)
    )
    assert not any(view.augmentation for view in plain)
    assert len({view.augmentation is None for view in augmented}) == 2
    for before, after in zip(plain, augmented, strict=True):
        assert (before.timestamps, before.previous) == (after.timestamps, after.previous)


def test_other_processes_draw_the_same():
    """Also new ones, whose `hash` is salted differently."""
    task = partial(draw_view, 0, epoch=2, augment=AUGMENT, **PROBABILITIES)
    expected = [task(key) for key in KEYS[:40]]
    assert pickle.loads(pickle.dumps(expected)) == expected
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(task, KEYS[:40], chunksize=5)) == expected


def test_what_was_drawn_can_be_written_down():
    views = [draw(key, augment=AUGMENT) for key in KEYS[:200]]
    rows = [view.to_dict() for view in views]
    again = json.loads(json.dumps(rows))
    assert again == rows
    restored = [view_from_dict({**row, "shard": 3}) for row in again]
    assert restored == views and list(map(hash, restored)) == list(map(hash, views))
    assert len(set(views)) == len(views)


def test_recordings_are_a_part_of_what_was_drawn():
    view = next(v for v in map(partial(draw, augment=AUGMENT), KEYS)
                if v.augmentation and v.augmentation.noise)
    row = view.to_dict()["augmentation"]
    assert "recordings" not in row and row["level"] == "active speech"
    other = replace(view, augmentation=replace(view.augmentation, noise="babble", recordings="0a"))
    assert other.to_dict()["augmentation"]["recordings"] == "0a"
    assert view_from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_a_plain_view_is_three_values():
    row = {"id": "a", "timestamps": True, "previous": False}
    assert View("a", timestamps=True, previous=False).to_dict() == row
    assert view_from_dict(row) == View("a", timestamps=True, previous=False)


def test_features_of_other_sizes():
    config = AugmentConfig(probability=1.0, num_time_masks=3, num_frequency_masks=3)
    views = [draw(key, augment=config, num_frames=100, num_bands=128) for key in KEYS[:200]]
    drawn = [view.augmentation for view in views]
    assert 90 < max(first + size for a in drawn for first, size in a.time_masks) <= 100
    assert 100 < max(first + size for a in drawn for first, size in a.frequency_masks) <= 128


def test_draws_depend_on_seed_key_and_epoch():
    def draws(**changes):
        return [draw(key, **changes) for key in KEYS[:200]]

    assert draws(epoch=0) != draws(epoch=1)
    assert draws(seed=0) != draws(seed=1)
    first = [(v.timestamps, v.previous) for v in draws()]
    assert len(set(first)) == 2 * 2  # every combination occurs: the draws are independent


def test_probabilities():
    views = [draw(key) for key in KEYS]
    # 4 standard deviations of a binomial of 2000
    assert np.mean([v.timestamps for v in views]) == pytest.approx(0.2, abs=0.036)
    assert np.mean([v.previous for v in views]) == pytest.approx(0.6, abs=0.044)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_never_and_always(probability):
    views = [draw(key, timestamp_probability=probability) for key in KEYS]
    assert {v.timestamps for v in views} == {bool(probability)}


def test_one_probability_leaves_the_other_draws():
    before = [draw(key) for key in KEYS]
    after = [draw(key, timestamp_probability=0.9) for key in KEYS]
    assert [v.previous for v in before] == [v.previous for v in after]
    assert [v.timestamps for v in before] != [v.timestamps for v in after]
    # and a larger probability only adds
    assert all(b.timestamps <= a.timestamps for b, a in zip(before, after, strict=True))


def test_epoch_order():
    orders = [epoch_order(0, epoch, 100).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != list(range(100))
    assert orders[1] == epoch_order(0, 1, 100).tolist()


def steps(first: int, last: int, micro: int, world: int, size: int = 10, batch: int = 4):
    """Views of each step, over all ranks."""
    found = {step: [] for step in range(first, last)}
    for rank in range(world):
        lists = list(RankBatches(FixedBatches(3, size, batch, micro), first, last, rank, world))
        per_step = batch // (micro * world)
        assert len(lists) == per_step * (last - first)
        assert all(len(views) == micro for views in lists)
        for index, views in enumerate(lists):
            found[first + index // per_step] += views
    return [sorted(views) for views in found.values()]


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4)])
def test_a_step_does_not_depend_on_its_spread(shape):
    micro, world = shape
    assert steps(0, 12, micro, world) == steps(0, 12, micro=4, world=1)


def test_an_epoch_holds_every_window_once():
    stream = ViewStream(0, 10)
    for epoch in range(3):
        views = [stream[epoch * 10 + at] for at in range(10)]
        assert sorted(views) == [(index, epoch) for index in range(10)]


def test_resuming_gives_the_tail():
    whole = steps(0, 12, micro=2, world=1)
    for step in (1, 5, 11):
        assert steps(step, 12, micro=2, world=1) == whole[step:]


def test_seek_back():
    stream = ViewStream(0, 7)
    forward = [stream[position] for position in range(30)]
    assert [stream[position] for position in reversed(range(30))] == forward[::-1]


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="nothing to train on"):
        ViewStream(0, 0)
