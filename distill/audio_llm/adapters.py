"""Encoder frames -> one embedding of the language model per `frame_ms`.

    adapter = StackMlp(512, 576, stack=6)        # 20 ms frames -> 120 ms
    embeddings = adapter(states)                 # (clips, frames // 6, 576)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.whisper_at.tltr import TimeLayerTransformer

KINDS = ("stack_mlp", "tltr")
HIDDEN = 2048  # MooER's: arXiv:2408.05101, sec. 2


class StackMlp(nn.Module):
    """MooER's adapter: neighbouring frames side by side, two linear layers, a ReLU between.

    Args:
        width: of the encoder's states.
        llm_width: of the language model's embeddings.
        stack: frames that become one embedding; a rest of fewer frames is dropped.
    """

    def __init__(self, width: int, llm_width: int, stack: int, hidden: int = HIDDEN):
        super().__init__()
        self.stack = stack
        self.inner = nn.Linear(width * stack, hidden)
        self.out = nn.Linear(hidden, llm_width)

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(clips, frames, width) -> (clips, frames // stack, llm_width); frames do not see each
        other, whatever their `lengths`."""
        clips, frames, width = states.shape
        count = frames // self.stack
        stacked = states[:, : count * self.stack].reshape(clips, count, width * self.stack)
        return self.out(torch.relu(self.inner(stacked)))


class TltrProjection(nn.Module):
    """LTU-AS's adapter (arXiv:2309.14405 sec. 3): TLTR over all layers of the encoder, averaged
    over 0.4 s; a norm without weights, and a linear layer.

    Args:
        width: of one layer's states.
        layers: of the encoder; their states stand side by side.
    """

    stack = 1

    def __init__(self, width: int, layers: int, llm_width: int):
        super().__init__()
        self.layers = layers
        self.blocks = TimeLayerTransformer(width)
        self.out = nn.Linear(width, llm_width)

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(clips, steps, layers * width) -> (clips, steps, llm_width).

        Args:
            lengths: (clips,) steps of each; None: all.
        """
        steps = states.shape[1]
        if not steps:
            return states.new_zeros(len(states), 0, self.out.out_features)
        by_layer = states.unflatten(2, (self.layers, -1)).transpose(1, 2)
        mask = None
        if lengths is not None:
            mask = torch.arange(steps, device=states.device) < lengths[:, None]
            mask[:, 0] = True  # of no steps: a softmax over nothing would be NaN
        found = self.blocks(by_layer, mask)
        return self.out(F.layer_norm(found, found.shape[-1:]))


def make_adapter(config: Any, width: int, layers: int, llm_width: int,
                 encoder_ms: int = 20) -> nn.Module:
    """The adapter of an `AdapterConfig`.

    Args:
        width, layers: of what the encoder gives; of several layers, times how many there are.
        encoder_ms: milliseconds of a frame of the encoder.

    Raises:
        ValueError: frames do not fit.
    """
    if config.kind == "tltr":
        return TltrProjection(width // layers, layers, llm_width)
    return StackMlp(width, llm_width, stack_of(config.frame_ms, encoder_ms), config.hidden_size)


class EmbeddingScale(nn.Module):
    """Moves vectors to where the language model's embeddings are: their mean, and their distance
    from it. A random adapter's output is elsewhere, and is not listened to for long.

    It has buffers alone: sizes of adapters stay those of the papers.
    """

    def __init__(self, embeddings: Tensor):
        """
        Args:
            embeddings: (vocab, llm_width).
        """
        super().__init__()
        mean = embeddings.detach().mean(0)
        away = (embeddings.detach() - mean).pow(2).mean(1).sqrt().median()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("away", away, persistent=False)

    def direction(self, vectors: Tensor) -> Tensor:
        """Of root mean square 1."""
        return vectors * torch.rsqrt(vectors.pow(2).mean(-1, keepdim=True) + 1e-8)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.mean + self.away * self.direction(vectors)


def stack_of(frame_ms: int, encoder_ms: int) -> int:
    """How many encoder frames an embedding is made of.

    Raises:
        ValueError: `frame_ms` is no multiple of the encoder's frames.
    """
    if frame_ms < encoder_ms or frame_ms % encoder_ms:
        raise ValueError(f"adapter.frame_ms must be a multiple of the encoder's {encoder_ms} ms, "
                         f"got {frame_ms}")
    return frame_ms // encoder_ms
