"""Heads of a tagger: the states of all layers -> logits of every step of 0.4 s, and of the clip."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.whisper_at.tltr import TimeLayerTransformer

WINDOW_STEPS = 75  # of an encoder window of 30 s
HEADS = ("layer_sum", "tltr")


class LayerSumHead(nn.Module):
    """A weighted sum of the layers, and one hidden layer, step by step: for a thousand clips rather
    than two millions. A clip's odds are the mean of its steps'."""

    def __init__(self, layers: int, width: int, inner: int, num_classes: int, dropout: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers, 1, width))
        self.register_buffer("deviation", torch.ones(layers, 1, width))
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(width, inner)
        self.out = nn.Linear(inner, num_classes)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            states: (batch, layers, steps, width).
            mask: bool (batch, steps), those of the clip; None: all.

        Returns:
            logits (batch, steps, classes) and (batch, classes).
        """
        states = (states - self.mean) / self.deviation
        mixed = (states * self.layer_weights.softmax(0)[:, None, None]).sum(1)
        steps = self.out(self.dropout(F.gelu(self.inner(self.dropout(mixed)))))
        return steps, pool(steps, mask)

    def mix(self, layers: Iterable[Tensor]) -> Tensor:
        """The weighted sum of layers, (batch, positions, width) each, one after the other."""
        weights = self.layer_weights.softmax(0)
        return sum(weight * (layer - mean) / deviation for weight, layer, mean, deviation
                   in zip(weights, layers, self.mean, self.deviation, strict=True))

    def measure(self, mean: Tensor, deviation: Tensor) -> None:
        """Of each layer's states, (layers, 1, width), which the head works without."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)


class TltrHead(nn.Module):
    """Whisper-AT's head (arXiv:2307.03183): TL-TR, then a norm and a linear layer. The time
    transformer sees 30 s at a time; the odds of a longer clip are the mean of its windows'.

    Args:
        inner: width of the low-dimension form; None: that of the states.
        dropout: before the last layer. As published: 0.
    """

    def __init__(self, width: int, inner: int | None, num_classes: int, dropout: float):
        super().__init__()
        self.blocks = TimeLayerTransformer(width, inner)
        self.dropout = nn.Dropout(dropout)
        self.mlp_layer = nn.Sequential(nn.LayerNorm(self.blocks.width),
                                       nn.Linear(self.blocks.width, num_classes))

    def forward(self, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `LayerSumHead.forward`."""
        is_whole = mask is None
        if mask is None:
            mask = torch.ones(len(states), states.shape[2], dtype=torch.bool, device=states.device)
        steps, clips = [], []
        for part, there in zip(states.split(WINDOW_STEPS, 2), mask.split(WINDOW_STEPS, 1),
                               strict=True):
            seen = there | ~there.any(1, keepdim=True)  # a softmax over nothing would be NaN
            timed = self.blocks.over_time(part, None if is_whole else seen)
            steps.append(self._classify(self.blocks.of_steps(timed)))
            clips.append(self._classify(self.blocks.of_clip(timed, seen)))
        counts = torch.stack([each.sum(1) for each in mask.split(WINDOW_STEPS, 1)], 1)
        weights = (counts / counts.sum(1, keepdim=True)).to(states.dtype).log()
        return torch.cat(steps, 1), (torch.stack(clips, 1) + weights[..., None]).logsumexp(1)

    def mix(self, layers: Iterable[Tensor]) -> Tensor:
        """The mean of layers, (batch, positions, width) each: without the blocks, which know steps
        of 0.4 s."""
        every = list(layers)
        return sum(every) / len(every)

    def _classify(self, vectors: Tensor) -> Tensor:
        return self.mlp_layer(self.dropout(vectors))


def make_head(
    kind: str, layers: int, width: int, inner: int | None, num_classes: int, dropout: float
) -> nn.Module:
    """A head of `HEADS`.

    Args:
        layers, width: of the encoder.
        inner: width inside the head; None, for tltr alone: that of the encoder.
    """
    if kind == "tltr":
        return TltrHead(width, inner, num_classes, dropout)
    if kind != "layer_sum" or inner is None:
        raise ValueError(f"a head is layer_sum, with a size, or tltr; got {kind!r}, {inner}")
    return LayerSumHead(layers, width, inner, num_classes, dropout)


def pool(steps: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logarithm of the mean odds over time: a short sound is heard in a long clip.

    Args:
        steps: (batch, steps, classes) logits.
        mask: (batch, steps) bool; None: all.
    """
    if mask is None:
        return steps.logsumexp(1) - math.log(steps.shape[1])
    hidden = steps.masked_fill(~mask[..., None], -torch.inf)
    return hidden.logsumexp(1) - mask.sum(1, keepdim=True).to(steps.dtype).log()
