"""Which views an optimiser update holds, and how they are spread over micro-batches and ranks.

    batches = TokenBatches(seed, num_views, lengths, batch_tokens=8192, micro_batch_tokens=2048)
    sampler = RankBatches(batches, first_step=120, last_step=1000, rank=0, world=2)
    loader = DataLoader(identity, batch_sampler=sampler, collate_fn=collate)

What an update holds is a function of its number and never of the number of processes: a run can be
resumed at any step, and on other hardware. Both classes have the same four methods; a view is a
pair (index, epoch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distill.data.views.draws import ViewStream, epoch_order, generator

Views = list[tuple[int, int]]

MIN_POOL_VIEWS = 256
MIN_POOL_UPDATES = 8  # with few updates a pool, the lengths in an update differ much
KEPT_EPOCHS = 4  # plans kept: workers read ahead into the next epoch, or epochs if they are short


class Batches(Protocol):
    """What the loop and its loader need to know."""

    def update(self, step: int) -> Views:
        """All views of an update, over all ranks."""

    def micro_batches(self, step: int, rank: int, world: int) -> list[Views]:
        """A rank's share of an update: as many micro-batches on every rank, none empty."""

    def epoch(self, step: int) -> int:
        """Epoch of an update's first view."""


class FixedBatches:
    """`train.batch_size` views an update, in the order of the epochs; it may straddle two.

    Args:
        weights: (num_views,) of each view in every epoch; None: each comes once.
    """

    def __init__(
        self, seed: int, num_views: int, batch_size: int, micro_batch_size: int,
        weights: np.ndarray | None = None,
    ):
        self.stream = ViewStream(seed, num_views, weights)
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    def update(self, step: int) -> Views:
        start = step * self.batch_size
        return [self.stream[position] for position in range(start, start + self.batch_size)]

    def micro_batches(self, step: int, rank: int, world: int) -> list[Views]:
        """Runs of `micro_batch_size` views, dealt out to the ranks in turn.

        Raises:
            ValueError: batch_size is not a multiple of micro_batch_size * world.
        """
        size, micro = self.batch_size, self.micro_batch_size
        if size % (micro * world):
            raise ValueError(
                f"train.batch_size ({size}) must be a multiple of train.micro_batch_size "
                f"({micro}) times the number of processes ({world})"
            )
        views = self.update(step)
        return [views[at : at + micro] for at in range(rank * micro, size, micro * world)]

    def epoch(self, step: int) -> int:
        return step * self.batch_size // self.stream.size


@dataclass(frozen=True)
class _Plan:
    """The updates of one epoch.

    Attributes:
        lengths: int64 (num_views,), decoder tokens.
        updates: indices of each, longest view first.
    """

    lengths: np.ndarray
    updates: list[np.ndarray]


class TokenBatches:
    """Updates of views of like length with about `train.batch_tokens` decoder tokens.

    Padding is counted: an update's size is its number of views times its longest one. An epoch is
    shuffled and cut into pools, a pool is sorted by length and cut into updates, longest first,
    each as large as fits (a view beyond the budget is alone). What is left of a pool, its shortest
    views, joins the next one. What is left of the last pool is an update of its own, or, below half
    of the budget, joins the update before it, which is then up to one and a half budgets large,
    each part with its own padding. Last, the updates are shuffled: otherwise a pool's long views
    would come first.

    So every view comes once an epoch, and which views share an update is a function of
    (seed, epoch, lengths, batch_tokens) alone.

    Args:
        lengths: decoder tokens of each view 0..num_views-1 in an epoch; asked once an epoch.
        batch_tokens: of an update, over all ranks.
        micro_batch_tokens: of a forward pass of one rank, padding counted; memory depends on it.
    """

    def __init__(
        self,
        seed: int,
        num_views: int,
        lengths: Callable[[int], Sequence[int]],
        batch_tokens: int,
        micro_batch_tokens: int,
    ):
        if num_views < 1:
            raise ValueError("there is nothing to train on: no window is left after filtering")
        for name, value in (("batch", batch_tokens), ("micro_batch", micro_batch_tokens)):
            if value < 1:
                raise ValueError(f"train.{name}_tokens must be > 0, got {value}")
        self.seed, self.num_views, self.lengths = seed, num_views, lengths
        self.batch_tokens, self.micro_batch_tokens = batch_tokens, micro_batch_tokens
        self._plans: dict[int, _Plan] = {}
        self._checked: set[tuple[int, int]] = set()  # (epoch, world)
        self._first_steps = [0]  # of each epoch whose predecessors are planned

    def update(self, step: int) -> Views:
        """Longest view first."""
        epoch, position = self._locate(step)
        return [(index, epoch) for index in self._plan(epoch).updates[position].tolist()]

    def micro_batches(self, step: int, rank: int, world: int) -> list[Views]:
        """The longest views are in each rank's first one; see `split` for the rest.

        Raises:
            ValueError: the budgets are too small for this number of processes, anywhere in the
                epoch: known at its start, which for most runs is the start of the run.
        """
        epoch, position = self._locate(step)
        plan = self._plan(epoch)
        if (epoch, world) not in self._checked:
            self._check_world(plan, epoch, world)
            self._checked.add((epoch, world))
        indices = plan.updates[position]
        # Neighbours in length are computed at the same time: no rank waits for the others.
        mine = split(plan.lengths[indices], self.micro_batch_tokens, world)[rank::world]
        return [[(index, epoch) for index in indices[part].tolist()] for part in mine]

    def epoch(self, step: int) -> int:
        return self._locate(step)[0]

    def _check_world(self, plan: _Plan, epoch: int, world: int) -> None:
        longest = int(plan.lengths.max())
        fewest = min(map(len, plan.updates))
        if self.num_views < world:
            raise ValueError(
                f"there are fewer windows to train on ({self.num_views}) than processes ({world})"
            )
        if fewest < world:
            # Updates have batch_tokens // longest views, one that is left over perhaps half of it.
            raise ValueError(
                f"train.batch_tokens ({self.batch_tokens}) must be at least {2 * world * longest} "
                f"for {world} processes: an update of epoch {epoch} has only {fewest} views, and "
                f"the longest view has {longest} tokens"
            )
        if self.micro_batch_tokens >= 2 * longest:
            return  # half as many micro-batches as views are enough, and always possible
        for indices in plan.updates:
            needed = _num_parts(plan.lengths[indices], self.micro_batch_tokens)
            if len(indices) // world * world < needed:
                raise ValueError(
                    f"train.micro_batch_tokens ({self.micro_batch_tokens}) must be at least "
                    f"{2 * longest} for {world} processes: the {len(indices)} views of an update "
                    f"of epoch {epoch} need {needed} micro-batches, which cannot be dealt out "
                    f"evenly; the longest view has {longest} tokens"
                )

    def _locate(self, step: int) -> tuple[int, int]:
        """(epoch, number of the update in it)."""
        while self._first_steps[-1] <= step:
            last = len(self._first_steps) - 1
            self._first_steps.append(self._first_steps[last] + len(self._plan(last).updates))
        epoch = int(np.searchsorted(self._first_steps, step, side="right")) - 1
        return epoch, step - self._first_steps[epoch]

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            while len(self._plans) >= KEPT_EPOCHS:
                del self._plans[next(iter(self._plans))]  # the one made first
            lengths = np.asarray(self.lengths(epoch), dtype=np.int64)
            assert lengths.shape == (self.num_views,) and lengths.min() > 0
            updates = _cut_epoch(epoch_order(self.seed, epoch, self.num_views), lengths,
                                 self.batch_tokens)
            order = generator(self.seed, "updates", epoch).permutation(len(updates))
            self._plans[epoch] = _Plan(lengths, [updates[at] for at in order])
        return self._plans[epoch]


def _cut_epoch(order: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Updates of an epoch, before they are shuffled; see `TokenBatches`."""
    pool = max(MIN_POOL_VIEWS, round(MIN_POOL_UPDATES * budget / lengths.mean()))
    # A small corpus in one pool would be sorted into much the same updates every epoch.
    pool = min(pool, -(-len(order) // 2))
    updates: list[np.ndarray] = []
    left = order[:0]
    for start in range(0, len(order), pool):
        left = _by_length(np.concatenate([left, order[start : start + pool]]), lengths)
        at = 0
        while at < len(left) and (size := max(1, budget // lengths[left[at]])) <= len(left) - at:
            updates.append(left[at : at + size])
            at += size
        left = left[at:]
    if len(left):
        if updates and 2 * len(left) * lengths[left[0]] < budget:
            left = _by_length(np.concatenate([updates.pop(), left]), lengths)
        updates.append(left)
    return updates


def _by_length(indices: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Longest first; ties stay in their (shuffled) order."""
    return indices[np.argsort(-lengths[indices], kind="stable")]


def split(lengths: np.ndarray, budget: int, world: int) -> list[slice]:
    """Cut an update into the fewest micro-batches that `world` ranks can share.

    Args:
        lengths: of its views, longest first.
        budget: of a micro-batch, padding counted; a view beyond it is alone.

    Returns:
        m * world slices, none empty, for the smallest m; of all ways to do so one whose largest
        micro-batch is as small as can be.
    """
    parts = -(-_num_parts(lengths, budget) // world) * world
    assert parts <= len(lengths), "TokenBatches checks every epoch"
    low, high = 1, budget  # the smallest budget that does with as many parts
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _num_parts(lengths, middle) <= parts else (middle + 1, high)
    slices, at = [], 0
    for after in reversed(range(parts)):  # how many parts come after this one
        size = min(max(1, low // int(lengths[at])), len(lengths) - at - after)
        slices.append(slice(at, at + size))
        at += size
    assert at == len(lengths)
    return slices


def _num_parts(lengths: np.ndarray, budget: int) -> int:
    """Fewest micro-batches within a budget: taking as many as fit is optimal, longest first."""
    at = count = 0
    while at < len(lengths):
        at += max(1, budget // int(lengths[at]))
        count += 1
    return count


class RankBatches:
    """A rank's micro-batches of steps first..last-1, in order, made when they are asked for.

    The `batch_sampler` of a DataLoader. It can be gone through again.
    """

    def __init__(self, batches: Batches, first_step: int, last_step: int, rank: int, world: int):
        self.batches, self.steps = batches, range(first_step, last_step)
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Views]:
        for step in self.steps:
            yield from self.batches.micro_batches(step, self.rank, self.world)
