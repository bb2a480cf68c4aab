"""What is written down of a teacher's scores of a token: k ids with values, and the rest's mass.

All three ways give the same columns (`distill.losses.token_losses.TeacherScores`) and meet the same
loss:

- `top_k`: the k largest logits, and the exact mass of the others as one bucket. Biased: how the
  student spreads its tail is not taught. Good at any of the stored temperatures.
- `sampled`: k draws from the teacher at temperature T, weighted by how often an id came
  (arXiv:2503.16870). Unbiased, noisy. For comparison (`eval.benchmark.scores`): a draw follows
  from the order of the ids, so that rounding moves it, and nobody could verify it elsewhere.
- `head_and_sampled`: what is likely exactly, and a sample of the rest in proportion to its
  probability, which shares the rest's mass evenly: priority sampling (Duffield, Lund, Thorup, JACM
  54(6), 2007). No id comes twice, the distribution says where the head ends, and rounding changes
  near-ties only. Least noisy; sharing evenly, for a sum of exactly 1, moves
  probabilities near the head's end by about 1 / (2 k).

With k = the whole vocabulary all three are exact. Draws make a target for one temperature: their
values are T * log(weight), and nothing is left over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.losses.matmul import product
from distill.losses.token_losses import chunks

METHODS = ("top_k", "sampled", "head_and_sampled")


@torch.no_grad()
def record_scores(
    hidden: Tensor, weight: Tensor, method: str, k: int, temperatures: list[float], seed: int = 0
) -> dict[str, Tensor]:
    """A teacher's record of each token.

    Args:
        hidden: (tokens, width) last decoder states; weight: (vocab, width) output layer.
        method: one of METHODS.
        k: ids kept per token; the whole vocabulary if it is smaller.
        temperatures: at which the rest's mass is kept; draws are made at the last one.
        seed: of the draws, which are the same on every device, but for rounding.

    Returns:
        `indices` (tokens, k) int64; `values` (tokens, k) and `log_rest` (tokens, temperatures)
        float32, see `TeacherScores`.
    """
    k = min(k, len(weight))
    exact = method == "top_k" or k == len(weight)
    chance = [] if exact else _chance(method, len(hidden), len(weight), k, seed)
    chance = [each.to(hidden.device) for each in chance]
    parts = []
    for rows in chunks(hidden):
        logits = product(hidden[rows], weight.to(hidden.dtype)).float()
        if exact:
            parts.append(_top_k(logits, k, temperatures))
        elif method == "sampled":
            parts.append(_sampled(logits, k, temperatures, chance[0][rows]))
        else:
            uniforms = _uniforms(chance[0][rows], chance[1])
            parts.append(_head_and_sampled(logits, k, temperatures, uniforms))
    columns = zip(*parts, strict=True)
    return {name: torch.cat(c) for name, c in zip(("indices", "values", "log_rest"), columns,
                                                  strict=True)}


def _top_k(logits: Tensor, k: int, temperatures: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    values, indices = logits.topk(k, dim=-1)
    rests = []
    for temperature in temperatures:
        log_p = (logits / temperature).log_softmax(-1).scatter_(-1, indices, -torch.inf)
        rests.append(log_p.logsumexp(-1))
    return indices, values - values[:, :1], torch.stack(rests, -1)


def _sampled(
    logits: Tensor, k: int, temperatures: list[float], places: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """k draws with replacement: the ids at `places` (tokens, k) in [0, 1) of the distribution."""
    p = (logits / temperatures[-1]).softmax(-1)
    sums = p.cumsum(-1)
    draws = torch.searchsorted(sums, places * sums[:, -1:]).clamp_(max=p.shape[-1] - 1)
    weights = torch.zeros_like(p).scatter_add_(-1, draws, torch.full_like(places, 1 / k))
    # Every id once; fewer than k when an id was drawn twice. The places left over go to ids of
    # weight 0, which topk finds by itself.
    weights, indices = weights.topk(k, dim=-1)
    return _target(weights, indices, temperatures)


def _head_and_sampled(
    logits: Tensor, k: int, temperatures: list[float], uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Priority sampling: ids with the k largest p / u, u (tokens, vocab) uniform in (0, 1]."""
    p = (logits / temperatures[-1]).softmax(-1)
    priorities, indices = (p / uniforms).topk(k + 1, dim=-1)
    indices, threshold = indices[:, :k], priorities[:, k:]
    p = p.gather(-1, indices)
    exact = p >= threshold
    rest = 1 - torch.where(exact, p, 0.0).sum(-1, keepdim=True)
    share = rest.clamp(min=0.0) / (k - exact.sum(-1, keepdim=True)).clamp(min=1)
    weights, order = torch.where(exact, p, share).sort(-1, descending=True)
    return _target(weights, indices.gather(-1, order), temperatures)


def _target(
    weights: Tensor, indices: Tensor, temperatures: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (tokens, k) and their weights, largest first, as logits at the last temperature."""
    values = temperatures[-1] * (weights / weights[:, :1]).log()
    nothing = torch.full((len(values), len(temperatures)), -torch.inf, device=values.device)
    return indices, values, nothing


def _chance(method: str, tokens: int, vocab: int, k: int, seed: int) -> list[Tensor]:
    """What a record's draws are made of, from the CPU: a GPU's generator draws otherwise."""
    generator = torch.Generator().manual_seed(seed)
    if method == "sampled":
        return [torch.rand(tokens, k, generator=generator)]
    return [torch.randint(-(1 << 31), 1 << 31, shape, generator=generator, dtype=torch.int32)
            for shape in ((tokens, 1), (vocab,))]


def _uniforms(token_bits: Tensor, id_bits: Tensor) -> Tensor:
    """(tokens, vocab) numbers in (0, 1], independent over ids, from (tokens, 1) and (vocab,) bits.

    A generator's number for each would take longer than the scoring; multiplicative hashing
    (Knuth, The Art of Computer Programming, sec. 6.4) of both takes a pass, the same everywhere.
    """
    mixed = (token_bits ^ id_bits).mul_(-1640531535)  # 2^32 / golden ratio; overflow wraps around
    return mixed.float().mul_(2.0**-32).add_(0.5 + 2.0**-24)
