"""Counter-based draws: what happens to a clip in an epoch is a function of nothing else.

    view = draw_view(seed=0, key="train-0-000017", epoch=3, config)

Philox (Salmon et al., SC 2011) is keyed by seed and clip and counts by epoch, so the same view
comes out on any rank, with any number of workers, in any order, in any batch, and after a resume.
Everything drawn is a value in the view, never only a seed: a store can write it down.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class View:
    """One fully determined training input.

    Attributes:
        id: window.
        timestamps: keep the label's timestamps.
        previous: give the previous window's text as a prompt.
    """

    id: str
    timestamps: bool
    previous: bool


def generator(seed: int, key: str, counter: int) -> np.random.Generator:
    """Random numbers that depend on (seed, key, counter) alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    words = np.array([seed, int.from_bytes(digest, "little")], dtype=np.uint64)
    # The stream advances the low words of the counter; ours lives in the highest one.
    start = np.array([0, 0, 0, counter], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words, counter=start))


def draw_view(
    seed: int,
    key: str,
    epoch: int,
    *,
    timestamp_probability: float,
    previous_text_probability: float,
) -> View:
    """The view of a window in an epoch.

    The number of draws never depends on their outcome, so that changing one probability leaves
    the other draws as they were.
    """
    first, second = generator(seed, key, epoch).random(2)
    return View(
        id=key,
        timestamps=bool(first < timestamp_probability),
        previous=bool(second < previous_text_probability),
    )


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Permutation of 0..size-1 for an epoch."""
    return generator(seed, "order", epoch).permutation(size)


class ViewStream:
    """An endless, seekable stream of (window index, epoch).

    Position `p` is element `p % size` of epoch `p // size`: a step knows its views from its number
    alone, which is what makes resumption exact.
    """

    def __init__(self, seed: int, size: int):
        if size < 1:
            raise ValueError("there is nothing to train on: no window is left after filtering")
        self.seed, self.size = seed, size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, at = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.seed, epoch, self.size)
        return int(self._order[at]), epoch

    def micro_batches(
        self, first_step: int, last_step: int, batch_size: int, micro: int, rank: int, world: int
    ):
        """Lists of (index, epoch) for one rank: `batch_size // (micro * world)` lists a step.

        Which views a step holds depends on `batch_size` alone, not on how they are spread.

        Raises:
            ValueError: batch_size is not a multiple of micro * world.
        """
        if batch_size % (micro * world):
            raise ValueError(
                f"train.batch_size ({batch_size}) must be a multiple of train.micro_batch_size "
                f"({micro}) times the number of processes ({world})"
            )
        for step in range(first_step, last_step):
            for at in range(rank * micro, batch_size, micro * world):
                start = step * batch_size + at
                yield [self[position] for position in range(start, start + micro)]
