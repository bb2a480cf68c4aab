"""What the layers of the encoder give, averaged over steps of 0.4 s, for those who tag sounds.

    heard = LayerMeans()
    states = encode_features(encoder, features, heard)    # as without it, to the last bit
    heard[0]                                              # (layers, steps, width) of the first clip

The same pass serves both: layers are averaged while it runs, and their states are gone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

POOL = 20  # positions of 20 ms, as Whisper-AT averages (arXiv:2307.03183)


class Listener(Protocol):
    """Is told what the encoder's layers give."""

    def of_clips(self, clips: Sequence[int]) -> Callable[[Tensor], None]:
        """What takes the layers of some clips, (clips, positions, width), in order."""
        ...


class LayerMeans:
    """Of the clips of a batch, by their index; the silence or padding behind them included."""

    def __init__(self) -> None:
        self._layers: dict[int, list[Tensor]] = {}

    def of_clips(self, clips: Sequence[int]) -> Callable[[Tensor], None]:
        """What takes the layers of some clips, (clips, positions, width), in order."""
        for clip in clips:
            self._layers[clip] = []

        def take(hidden: Tensor) -> None:
            for clip, means in zip(clips, mean_steps(hidden), strict=True):
                self._layers[clip].append(means)

        return take

    def __getitem__(self, clip: int) -> Tensor:
        """(layers, steps, width), before the encoder's last norm."""
        return torch.stack(self._layers[clip])


def mean_steps(hidden: Tensor) -> Tensor:
    """(clips, positions, width) -> (clips, steps, width); the last step may be of fewer."""
    whole = hidden.shape[1] // POOL * POOL
    means = hidden[:, :whole].unflatten(1, (-1, POOL)).mean(2)
    if whole < hidden.shape[1]:
        means = torch.cat([means, hidden[:, whole:].mean(1, keepdim=True)], 1)
    return means
