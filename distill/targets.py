"""What is written down of a teacher's scores of a token: k ids with values, and the rest's mass.

All three ways give the same columns (`distill.losses.TeacherScores`) and meet the same loss:

- `top_k`: the k largest logits, and the exact mass of the others as one bucket. Biased: how the
  student spreads its tail is not taught. Good at any of the stored temperatures.
- `sampled`: k draws from the teacher at temperature T, weighted by how often an id came
  (arXiv:2503.16870). Unbiased, noisy.
- `head_and_sampled`: the k/2 largest probabilities exactly, and k/2 draws from the rest, which
  share its mass. Unbiased, and less noisy.

Draws make a target for one temperature: their values are T * log(weight), and nothing is left over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.losses import chunks
from distill.products import product

METHODS = ("top_k", "sampled", "head_and_sampled")


@torch.no_grad()
def record_scores(
    hidden: Tensor,
    weight: Tensor,
    method: str,
    k: int,
    temperatures: list[float],
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """A teacher's record of each token.

    Args:
        hidden: (tokens, width) last decoder states; weight: (vocab, width) output layer.
        method: one of METHODS.
        k: ids kept per token; the whole vocabulary if it is smaller.
        temperatures: at which the rest's mass is kept; draws are made at the last one.
        generator: of the draws.

    Returns:
        `indices` (tokens, k) int64; `values` (tokens, k) and `log_rest` (tokens, temperatures)
        float32, see `TeacherScores`.
    """
    k = min(k, len(weight))
    parts = []
    for rows in chunks(hidden):
        logits = product(hidden[rows], weight.to(hidden.dtype)).float()
        if method == "top_k":
            parts.append(_top_k(logits, k, temperatures))
        else:
            num_exact = k // 2 if method == "head_and_sampled" else 0
            parts.append(_drawn(logits, k, num_exact, temperatures, generator))
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


def _drawn(
    logits: Tensor, k: int, num_exact: int, temperatures: list[float],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`num_exact` ids as they are and k - num_exact draws from the others, with replacement."""
    temperature = temperatures[-1]
    p = (logits / temperature).softmax(-1)
    exact, head = p.topk(num_exact, dim=-1)
    tail = p.scatter(-1, head, 0.0)
    mass = tail.sum(-1, keepdim=True)
    num_drawn = k - num_exact
    # a teacher without a tail (all of a small vocabulary is exact) has nothing to draw from
    draws = torch.multinomial(tail.clamp_(min=torch.finfo(p.dtype).tiny), num_drawn, True,
                              generator=generator)
    weights = torch.zeros_like(p).scatter_add_(-1, draws, (mass / num_drawn).expand_as(draws))
    weights.scatter_(-1, head, exact)
    # Every id once; fewer than k when an id was drawn twice. The places left over go to ids of
    # weight 0, which topk finds by itself.
    weights, indices = weights.topk(k, dim=-1)
    values = temperature * (weights / weights[:, :1]).log()
    nothing = torch.full((len(p), len(temperatures)), -torch.inf, device=p.device)
    return indices, values, nothing
