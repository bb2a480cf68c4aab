"""Encoder frames -> one embedding of the language model per `frame_ms`.

    adapter = StackMlp(512, 576, stack=6)        # 20 ms frames -> 120 ms
    embeddings = adapter(states)                 # (clips, frames // 6, 576)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

    def lengths(self, frames: Tensor) -> Tensor:
        """Embeddings of clips with so many frames."""
        return frames // self.stack

    def forward(self, states: Tensor) -> Tensor:
        """(clips, frames, width) -> (clips, frames // stack, llm_width)."""
        clips, frames, width = states.shape
        count = frames // self.stack
        stacked = states[:, : count * self.stack].reshape(clips, count, width * self.stack)
        return self.out(torch.relu(self.inner(stacked)))


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
