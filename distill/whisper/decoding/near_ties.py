"""Near ties: positions where rounding could decide between the two best tokens.

A pass over several tokens rounds differently from a pass over one token. If the two largest logits
differ by less than that, the two ways of computing may choose different tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.whisper.decoding.cache import Cache
from distill.whisper.decoding.decoder import Decoder

NEAR = 2e-3  # logits; passes over one and over several tokens differ by up to 2e-4 (whisper-base)
# Half types: rounded logits lie further apart than that (float16: 0.03 from 32 on), and the gap of
# the two best moved by up to two steps, eps times their size, in whisper-base.
NEAR_STEPS = 4


def thresholds(target: Decoder, logits: Tensor, tokens: Sequence[Sequence[int]]) -> list[float]:
    """For each position, the gap between the two best below which rounding could have decided.

    Args:
        target: its type says how coarse the steps are.
        logits: (positions, vocabulary).
        tokens: the best token of each position, then others.
    """
    step = torch.finfo(target.embeddings.dtype).eps
    if target.int8 or step <= torch.finfo(torch.float32).eps:
        return [NEAR] * len(tokens)
    best = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, :1])[:, 0]
    return (NEAR_STEPS * step * best.abs()).clamp(min=NEAR).tolist()


def plain_states(
    target: Decoder, cache: Cache, prompt: Sequence[int], generated: Sequence[int]
) -> Tensor:
    """Last states (1, width) before the next token as plain decoding of this sequence alone has
    them: one pass over the prompt, then one pass for each token.

    Args:
        cache: for one sequence, with its audio and no tokens (`Cache.alone`).
    """
    device = target.embeddings.device
    hidden = target(torch.tensor([list(prompt)], device=device), [0], cache)
    for position, token in enumerate(generated, len(prompt)):
        hidden = target(torch.tensor([[token]], device=device), [position], cache)
    return hidden[:, -1]
