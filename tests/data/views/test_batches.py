"""What an update holds depends on its number alone, not on where or from when on it is computed."""

import itertools
import pickle
import re

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from distill.data.views.batches import FixedBatches, RankBatches, TokenBatches, split
from distill.data.views.draws import ViewStream, epoch_order

NUM_VIEWS = 700
# Log-normal, as the lengths of texts are; the draws of another epoch give other ones.
LENGTHS = [
    np.random.default_rng(epoch).lognormal(3.4, 0.6, NUM_VIEWS).clip(4, 448).astype(int)
    for epoch in range(6)
]
BUDGETS = [(2000, 500), (6000, 1000), (900, 900), (10**6, 2000)]


def token_batches(batch: int = 2000, micro: int = 1000, seed: int = 0) -> TokenBatches:
    return TokenBatches(seed, NUM_VIEWS, LENGTHS.__getitem__, batch, micro)


def fixed_batches(seed: int = 3) -> FixedBatches:
    return FixedBatches(seed, 10, batch_size=4, micro_batch_size=2)


def num_steps(batches: TokenBatches, num_epochs: int) -> int:
    return next(step for step in itertools.count() if batches.epoch(step) == num_epochs)


def length(view: tuple[int, int]) -> int:
    index, epoch = view
    return int(LENGTHS[epoch][index])


def padded(views: list[tuple[int, int]]) -> int:
    return len(views) * max(map(length, views))


def padding_share(groups: list[list[tuple[int, int]]]) -> float:
    tokens = sum(length(view) for views in groups for view in views)
    return 1 - tokens / sum(map(padded, groups))


# A fixed number of views


def test_fixed_batches_are_known_values():
    batches = fixed_batches()
    expected = [
        [(1, 0), (9, 0), (8, 0), (7, 0)],
        [(5, 0), (0, 0), (3, 0), (4, 0)],
        [(6, 0), (2, 0), (4, 1), (8, 1)],
    ]
    assert [batches.update(step) for step in range(3)] == expected
    assert [batches.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    assert batches.micro_batches(2, 1, 2) == [[(4, 1), (8, 1)]]


@pytest.mark.parametrize(("micro", "world"), [(1, 1), (2, 1), (1, 2), (3, 2), (12, 1), (4, 3)])
def test_fixed_batches_are_those_of_the_stream(micro, world):
    batches, stream = FixedBatches(5, 17, 12, micro), ViewStream(5, 17)
    for rank in range(world):
        starts = [12 * step + at for step in range(3, 20)
                  for at in range(rank * micro, 12, micro * world)]
        expected = [[stream[p] for p in range(start, start + micro)] for start in starts]
        assert list(RankBatches(batches, 3, 20, rank, world)) == expected


def test_not_divisible():
    message = r"batch_size \(6\) must be a multiple of train.micro_batch_size \(2\).*processes \(2"
    with pytest.raises(ValueError, match=message):
        FixedBatches(0, 10, 6, 2).micro_batches(0, 0, 2)


# About as many tokens


@pytest.mark.parametrize(("batch", "micro"), BUDGETS)
def test_every_view_once_an_epoch(batch, micro):
    batches = token_batches(batch, micro)
    steps = range(num_steps(batches, 3))
    views = [view for step in steps for view in batches.update(step)]
    assert sorted(views) == sorted((i, e) for e in range(3) for i in range(NUM_VIEWS))
    assert [batches.epoch(step) for step in steps] == [batches.update(s)[0][1] for s in steps]
    assert [epoch for _, epoch in views] == sorted(epoch for _, epoch in views)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("batch", "micro"), BUDGETS)
def test_an_update_does_not_depend_on_its_spread(batch, micro, world):
    batches = token_batches(batch, micro)
    for step in range(num_steps(batches, 2)):
        ranks = [batches.micro_batches(step, rank, world) for rank in range(world)]
        assert len(set(map(len, ranks))) == 1
        everything = [views for rank in ranks for views in rank]
        assert all(everything)
        assert all(padded(views) <= micro or len(views) == 1 for views in everything)
        assert sorted(itertools.chain(*everything)) == sorted(batches.update(step))


@pytest.mark.parametrize(("batch", "micro"), BUDGETS)
def test_budget_of_updates(batch, micro):
    batches = token_batches(batch, micro)
    for epoch in range(3):
        steps = [s for s in range(num_steps(batches, 3)) if batches.epoch(s) == epoch]
        updates = [batches.update(step) for step in steps]
        assert all([length(v) for v in u] == sorted(map(length, u), reverse=True) for u in updates)
        large = [u for u in updates if padded(u) > batch and len(u) > 1]
        assert len(large) <= 1  # what was left over joined it
        assert all(sum(map(length, u)) <= 1.5 * batch for u in large)
        small = [u for u in updates if 2 * padded(u) < batch]
        assert not small or len(updates) == 1


def test_less_padding_than_without_sorting():
    batch = 2000
    batches = token_batches(batch)
    updates = [batches.update(step) for step in range(num_steps(batches, 3))]
    unsorted: list[list[tuple[int, int]]] = [[]]
    for epoch in range(3):
        for index in epoch_order(0, epoch, NUM_VIEWS).tolist():
            if padded([*unsorted[-1], (index, epoch)]) > batch:
                unsorted.append([])
            unsorted[-1].append((index, epoch))
    share, usual = padding_share(updates), padding_share(unsorted)
    assert share < usual / 2, f"padding {share:.1%}, without sorting {usual:.1%}"
    micro = [m for s in range(len(updates)) for m in batches.micro_batches(s, 0, 1)]
    assert padding_share(micro) < share


def test_randomness_survives():
    """Sorting within pools leaves most of it: neighbours in one epoch rarely meet in another."""
    constant = TokenBatches(0, NUM_VIEWS, lambda epoch: LENGTHS[0], 2000, 1000)
    steps = range(num_steps(constant, 2))

    def pairs(epoch: int) -> set[tuple[int, int]]:
        updates = [constant.update(step) for step in steps if constant.epoch(step) == epoch]
        members = [sorted(index for index, _ in update) for update in updates]
        return {pair for update in members for pair in itertools.combinations(update, 2)}

    first, second = pairs(0), pairs(1)
    assert len(first & second) / len(first) < 0.5
    # and an epoch does not go from long to short
    longest = [length(constant.update(s)[0]) for s in steps if constant.epoch(s) == 0]
    assert sorted(longest, reverse=True) != longest


def test_seed():
    def updates(seed: int) -> list:
        return [token_batches(seed=seed).update(step) for step in range(10)]

    assert updates(0) == updates(0)
    assert updates(0) != updates(1)


@pytest.mark.parametrize("make", [token_batches, fixed_batches])
def test_resuming_gives_the_tail(make):
    last = 40
    whole = [make().micro_batches(step, 1, 2) for step in range(last)]
    for step in (1, 17, 33, 39):
        tail = RankBatches(make(), step, last, 1, 2)
        assert list(tail) == [views for each in whole[step:] for views in each]
    backwards = make()
    assert [backwards.micro_batches(s, 1, 2) for s in reversed(range(last))] == whole[::-1]


def test_lengths_are_asked_once_an_epoch():
    asked = []

    def lengths(epoch: int):
        asked.append(epoch)
        return LENGTHS[epoch]

    batches = TokenBatches(0, NUM_VIEWS, lengths, 2000, 1000)
    for step in range(num_steps(batches, 3)):
        batches.update(step)
        batches.micro_batches(step, 0, 2)
    assert asked == [0, 1, 2, 3]


def test_one_update_an_epoch():
    batches = TokenBatches(0, 5, lambda epoch: [3, 1, 4, 1, 5], 10**6, 8)
    for epoch in range(3):
        assert sorted(batches.update(epoch)) == [(index, epoch) for index in range(5)]
    assert batches.micro_batches(0, 0, 1) == [[(4, 0)], [(2, 0), (0, 0)], batches.update(0)[3:]]


def test_a_single_view():
    batches = TokenBatches(0, 1, lambda epoch: [50], 10, 10)
    assert [batches.micro_batches(step, 0, 1) for step in range(2)] == [[[(0, 0)]], [[(0, 1)]]]


# Budgets that do not fit


def test_too_few_tokens():
    """The number in the message is enough."""
    with pytest.raises(ValueError, match=r"train.batch_tokens \(400\) must be .* 3 proc") as error:
        token_batches(400, 900).micro_batches(0, 0, 3)
    enough = int(re.search(r"at least (\d+)", str(error.value))[1])
    batches = TokenBatches(0, NUM_VIEWS, lambda epoch: LENGTHS[0], enough, 900)
    for step in range(num_steps(batches, 3)):
        assert len(batches.update(step)) >= 3


def test_too_few_tokens_of_a_micro_batch():
    """3 views on 2 processes: one of them has 2, which do not fit."""
    def make(micro: int) -> TokenBatches:
        return TokenBatches(0, 3, lambda epoch: [10, 10, 10], 100, micro)

    with pytest.raises(ValueError, match=r"train.micro_batch_tokens \(15\) must be at least 20"):
        make(15).micro_batches(0, 0, 2)
    assert [len(make(20).micro_batches(0, rank, 2)) for rank in (0, 1)] == [1, 1]
    assert len(make(15).micro_batches(0, 0, 1)) == 3


def test_enough_tokens_of_a_micro_batch_always_are():
    """Twice the longest view is enough for every update that has as many views as processes."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        world = int(generator.integers(1, 6))
        lengths = -np.sort(-generator.integers(1, 50, int(generator.integers(world, 40))))
        budget = 2 * int(lengths[0])
        parts = split(lengths, budget, world)
        assert len(parts) % world == 0
        assert [at for part in parts for at in range(len(lengths))[part]] == [*range(len(lengths))]
        assert all(len(lengths[part]) * lengths[part.start] <= budget for part in parts)


def test_a_split_is_balanced():
    equal = np.full(10, 7)
    assert [part.stop - part.start for part in split(equal, 28, 1)] == [4, 4, 2]
    assert [part.stop - part.start for part in split(equal, 28, 4)] == [3, 3, 3, 1]
    # a view beyond the budget is alone, and no excuse for others to be beyond it
    assert split(np.array([90, 9, 9, 9]), 20, 1) == [slice(0, 1), slice(1, 3), slice(3, 4)]


def test_more_processes_than_views():
    with pytest.raises(ValueError, match=r"fewer windows to train on \(2\) than processes \(3\)"):
        TokenBatches(0, 2, lambda epoch: [5, 5], 100, 100).micro_batches(0, 0, 3)


def test_nothing_to_train_on():
    with pytest.raises(ValueError, match="nothing to train on"):
        FixedBatches(0, 0, 4, 2)
    with pytest.raises(ValueError, match="nothing to train on"):
        TokenBatches(0, 0, lambda epoch: [], 4, 2)
    with pytest.raises(ValueError, match="train.micro_batch_tokens must be > 0, got 0"):
        TokenBatches(0, 1, lambda epoch: [1], 4, 0)


# For a DataLoader


class Identity(Dataset):
    def __getitem__(self, view: tuple[int, int]) -> tuple[int, int]:
        return view


@pytest.mark.parametrize("make", [token_batches, fixed_batches])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader(make, num_workers):
    sampler = RankBatches(make(), 5, 25, 1, 2)
    loader = DataLoader(Identity(), batch_sampler=sampler, collate_fn=list, num_workers=num_workers)
    expected = [views for step in range(5, 25) for views in make().micro_batches(step, 1, 2)]
    assert list(loader) == expected


@pytest.mark.parametrize("make", [token_batches, fixed_batches])
def test_again_and_pickled(make):
    sampler = RankBatches(make(), 5, 25, 1, 2)
    first = list(sampler)
    assert list(sampler) == first
    assert list(pickle.loads(pickle.dumps(sampler))) == first


def test_batches_are_made_when_asked_for():
    assert next(iter(RankBatches(token_batches(), 3, 10**9, 0, 1)))


def test_balanced_epochs_hold_each_view_as_often_as_its_weight():
    weights = np.array([4.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    batches = FixedBatches(0, 6, 3, 3, weights)
    counts = np.zeros(6)
    for step in range(2 * 200):
        views = batches.update(step)
        assert {epoch for _, epoch in views} == {step // 2}
        np.add.at(counts, [index for index, _ in views], 1)
    assert np.allclose(counts / 200, 6 * weights / weights.sum(), atol=0.1)
    assert counts[0] == 600  # 3 an epoch, never 2 or 4
    again = FixedBatches(0, 6, 3, 1, weights)
    assert again.update(17) == batches.update(17)
