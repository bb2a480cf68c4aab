"""Counter-based draws: what happens to a clip in an epoch is a function of nothing else.

    view = draw_view(seed=0, key="train-0-000017", epoch=3, config)

Philox (Salmon et al., SC 2011) is keyed by seed and clip and counts by epoch, so the same view
comes out on any rank, with any number of workers, in any order, in any batch, and after a resume.
Everything drawn is a value in the view, never only a seed: a store can write it down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distill.data.views.augment import Augmentation, AugmentConfig, draw_augmentation, philox

_LEVEL = "active speech"  # what an SNR is of. Once it was all of a clip, pauses included: such
# views sounded otherwise, and are other ones


@dataclass(frozen=True)
class Prompt:
    """What a decoder reads before a text, and how the text is written after it.

    Attributes:
        style: how; None: as the label is, and no style is asked for.
        kind: of the content: none, previous (text), words, or other (another window's content).
        content: as it is read.
    """

    style: str | None
    kind: str
    content: str


@dataclass(frozen=True)
class View:
    """One fully determined training input.

    Attributes:
        id: window.
        timestamps: keep the label's timestamps.
        previous: give the previous window's text as a prompt.
        augmentation: what is done to the audio and its features, if anything.
        prompt: a style and a content, in the place of `previous`.
    """

    id: str
    timestamps: bool
    previous: bool
    augmentation: Augmentation | None = None
    prompt: Prompt | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything that was drawn, as plain JSON; `view_from_dict` is the inverse."""
        row: dict[str, Any] = {
            "id": self.id, "timestamps": self.timestamps, "previous": self.previous
        }
        if self.augmentation:
            masks = ("time_masks", "frequency_masks")
            values = asdict(self.augmentation)
            values |= {name: [list(mask) for mask in values[name]] for name in masks}
            if not values["recordings"]:
                del values["recordings"]  # as before there were any
            if values["noise"]:
                values["level"] = _LEVEL
            row["augmentation"] = values
        if self.prompt:
            row["prompt"] = asdict(self.prompt)
        return row


def view_from_dict(row: dict[str, Any]) -> View:
    """The view that was written down; other keys of the row are somebody else's."""
    values = row.get("augmentation")
    augmentation = None
    if values:
        fields = Augmentation.__dataclass_fields__
        known = {name: values[name] for name in fields if name in values}
        for name in ("time_masks", "frequency_masks"):
            known[name] = tuple((first, size) for first, size in values[name])
        augmentation = Augmentation(**known)
    prompt = row.get("prompt")
    return View(row["id"], row["timestamps"], row["previous"], augmentation,
                Prompt(**prompt) if prompt else None)


def generator(seed: int, key: str, counter: int) -> np.random.Generator:
    """Random numbers that depend on (seed, key, counter) alone."""
    return np.random.Generator(philox(seed, key, counter))


def draw_view(
    seed: int,
    key: str,
    epoch: int,
    *,
    timestamp_probability: float,
    previous_text_probability: float,
    augment: AugmentConfig | None = None,
    num_frames: int = 3000,
    num_bands: int = 80,
) -> View:
    """The view of a window in an epoch.

    The number of draws never depends on their outcome, so that changing one probability leaves
    the other draws as they were. Augmentation has streams of its own.

    Args:
        augment: None: views are not augmented.
        num_frames: of 10 ms, of the features that may be masked.
        num_bands: of these features.
    """
    first, second = generator(seed, key, epoch).random(2)
    augmentation = None
    if augment is not None:
        augmentation = draw_augmentation(seed, key, epoch, augment, num_frames, num_bands)
    return View(
        id=key,
        timestamps=bool(first < timestamp_probability),
        previous=bool(second < previous_text_probability),
        augmentation=augmentation,
    )


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Permutation of 0..size-1 for an epoch."""
    return generator(seed, "order", epoch).permutation(size)


def balanced_order(seed: int, epoch: int, weights: np.ndarray) -> np.ndarray:
    """As many elements as there are weights, in random order: each as often as its weight says,
    rounded up or down by chance (systematic sampling)."""
    bits = generator(seed, "balance", epoch)
    ends = np.cumsum(weights) * (len(weights) / weights.sum())
    chosen = np.searchsorted(ends, bits.random() + np.arange(len(weights)), side="right")
    return bits.permutation(np.minimum(chosen, len(weights) - 1))


class ViewStream:
    """An endless, seekable stream of (window index, epoch).

    Position `p` is element `p % size` of epoch `p // size`: a step knows its views from its number
    alone, which is what makes resumption exact.

    Args:
        weights: (size,) of each element in every epoch; None: each comes once.
    """

    def __init__(self, seed: int, size: int, weights: np.ndarray | None = None):
        if size < 1:
            raise ValueError("there is nothing to train on: no window is left after filtering")
        self.seed, self.size, self.weights = seed, size, weights
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, at = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            if self.weights is None:
                self._order = epoch_order(self.seed, epoch, self.size)
            else:
                self._order = balanced_order(self.seed, epoch, self.weights)
        return int(self._order[at]), epoch
