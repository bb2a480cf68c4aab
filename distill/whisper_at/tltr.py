"""Time and layer transformer (TL-TR) over the layers of a Whisper encoder (arXiv:2307.03183).

    mixer = TimeLayerTransformer(1280)    # or (1280, inner=512): the low-dimension form
    mixer(states)                         # (batch, layers, steps, width) -> a vector a step
    mixer.pooled(states)                  # -> a vector a clip, as Whisper-AT does

One block attends over time, the same for every layer; one over the layers. Neither knows positions:
the states have them. Blocks and their names are those of openai/whisper, as in the published
checkpoints (`distill.whisper_at.checkpoint`). Only torch is imported here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

TIME_HEADS, LAYER_HEADS = 1, 8  # as published


class _Attention(nn.Module):
    """Whisper's: keys have no bias."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                             for project in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(query, key, value, mask)
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A residual attention block: x + attn(LN(x)), then x + mlp(LN(x)); 12 d^2 + 12 d parameters.

    Args:
        width: d, of what comes and of what goes.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.attn = _Attention(width, num_heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, positions, width) -> the same.

        Args:
            mask: bool (batch, positions), which of them may be looked at; None: all.
        """
        seen = None if mask is None else mask[:, None, None]
        x = x + self.attn(self.attn_ln(x), seen)
        return x + self.mlp(self.mlp_ln(x))


class TimeLayerTransformer(nn.Module):
    """States of all layers -> a vector for each step of 0.4 s, or for the clip.

    Args:
        width: of the states.
        inner: of the blocks, where the states are first projected to fewer dimensions (512 as
            published, for encoders wider than that); None: that of the states.

    Attributes:
        width: of what comes out.
    """

    def __init__(self, width: int, inner: int | None = None):
        super().__init__()
        self.width = inner or width
        if self.width % LAYER_HEADS:
            raise ValueError(f"the blocks' width must be a multiple of {LAYER_HEADS} (heads), got "
                             f"{self.width}")
        self.down_layer = None
        if inner is not None:
            self.down_layer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.time_tr = Block(self.width, TIME_HEADS)
        self.layer_tr = Block(self.width, LAYER_HEADS)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Every step by itself behind the time transformer, as LTU-AS reads it
        (arXiv:2309.14405 sec. 3).

        Args:
            states: (batch, layers, steps, width) before the encoder's last norm, means over 0.4 s.
            mask: bool (batch, steps), those of the clip; None: all.

        Returns:
            (batch, steps, self.width); what the mask leaves out means nothing.
        """
        return self.of_steps(self.over_time(states, mask))

    def pooled(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean over time before the layer transformer, as Whisper-AT does.

        Returns:
            (batch, self.width)
        """
        return self.of_clip(self.over_time(states, mask), mask)

    def over_time(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, layers, steps, self.width): the time transformer over each layer."""
        if self.down_layer is not None:
            states = self.down_layer(states)
        layers = states.shape[1]
        repeated = None if mask is None else mask.repeat_interleave(layers, 0)
        return self.time_tr(states.flatten(0, 1), repeated).unflatten(0, (-1, layers))

    def of_steps(self, timed: Tensor) -> Tensor:
        """(batch, steps, self.width) of `over_time`: each step's layers, mixed."""
        by_step = timed.transpose(1, 2)
        return self.layer_tr(by_step.flatten(0, 1)).mean(1).unflatten(0, by_step.shape[:2])

    def of_clip(self, timed: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, self.width) of `over_time`: the layers of each clip's mean, mixed."""
        if mask is None:
            mean = timed.mean(2)
        else:
            share = (mask / mask.sum(1, keepdim=True)).to(timed.dtype)
            mean = (timed * share[:, None, :, None]).sum(2)
        return self.layer_tr(mean).mean(1)
