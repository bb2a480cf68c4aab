"""Losses as pure functions. All return sums over tokens; who calls divides by the global count.

With student logits z, teacher logits t, temperature T, q = softmax(z / T), p = softmax(t / T):

    CE = -log softmax(z)[label]
    KL = sum_v p_v (log p_v - log q_v)          Hinton et al., arXiv:1503.02531; scaled by T^2

When only the teacher's k best scores and its log-sum-exp are known, all other tokens share one
bucket of mass 1 - sum(p_K). That KL is a lower bound of the full one (data-processing inequality):

    KL_k = sum_{v in K} p_v (log p_v - log q_v) + p_rest (log p_rest - log q_rest)

`token_losses` goes from hidden states to the losses in chunks of tokens, so that no
(tokens, vocab) tensor lives at once, forward or backward: gradients are formed in the forward pass
(the loss is a sum over tokens, so the chain rule only scales them).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100  # label of positions that carry no loss: padding and prompts
CHUNK_TOKENS = 256  # logits of this many tokens exist at once: 53 MB in float32 for Whisper
_TINY = 1e-10  # below float32's resolution of 1 - sum(p)


@dataclass
class TeacherScores:
    """What the teacher thought of each token position.

    Either `hidden` and `weight` (live teacher; exact KL), or `indices`, `values`, `lse` (recorded
    scores; `hidden` may come besides, for `hidden_mse`).

    Attributes:
        hidden: (tokens, width) last decoder state; logits are hidden @ weight.T.
        weight: (vocab, width) output layer.
        indices: (tokens, k) token ids of the k largest logits.
        values: (tokens, k) those logits.
        lse: (tokens,) log-sum-exp of all logits / T, at the temperature of the loss.
        inner: (tokens, width) each, states between layers that the student's should equal.
    """

    hidden: Tensor | None = None
    weight: Tensor | None = None
    indices: Tensor | None = None
    values: Tensor | None = None
    lse: Tensor | None = None
    inner: tuple[Tensor, ...] = ()

    def chunk(self, rows: slice) -> TeacherScores:
        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        parts = [cut(v) for v in (self.indices, self.values, self.lse)]
        return TeacherScores(cut(self.hidden), self.weight, *parts)


def full_kl(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) per token, (tokens,), and its gradient for `student` logits.

    Args:
        student, teacher: logits (tokens, vocab). Exactly 0 when they are equal.
    """
    log_q = (student / temperature).log_softmax(-1)
    log_p = (teacher / temperature).log_softmax(-1)
    p = log_p.exp()
    kl = (p * (log_p - log_q)).sum(-1)
    return kl, (log_q.exp() - p) / temperature


def top_k_kl(
    student: Tensor, indices: Tensor, values: Tensor, lse: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """KL over the teacher's k best tokens and one bucket for the rest; see the module docstring.

    Args:
        student: logits (tokens, vocab).
        indices, values, lse: as in `TeacherScores`.

    Returns:
        KL per token (tokens,) and its gradient for `student`, (tokens, vocab).
    """
    log_q = (student / temperature).log_softmax(-1)
    log_q_top = log_q.gather(-1, indices)
    log_p_top = values / temperature - lse[:, None]
    p_top = log_p_top.exp()
    p_rest = (1 - p_top.sum(-1)).clamp(min=_TINY)
    q_rest = (1 - log_q_top.exp().sum(-1)).clamp(min=_TINY)
    kl = (p_top * (log_p_top - log_q_top)).sum(-1) + p_rest * (p_rest.log() - q_rest.log())
    q = log_q.exp_()  # not needed as a logarithm any more; half the memory of a chunk
    target = q * (p_rest / q_rest)[:, None]
    target.scatter_(-1, indices, p_top)
    return kl, (q - target) / temperature


def cross_entropy(student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """CE per token (tokens,) and its gradient for `student` logits (tokens, vocab)."""
    log_q = student.log_softmax(-1)
    ce = -log_q.gather(-1, labels[:, None])[:, 0]
    gradient = log_q.exp_()
    gradient.scatter_add_(-1, labels[:, None], torch.full_like(ce, -1.0)[:, None])
    return ce, gradient


def token_losses(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    teacher: TeacherScores | None,
    *,
    ce_weight: float,
    kl_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """ce_weight * CE + kl_weight * T^2 * KL, summed over tokens (arXiv:2311.00430 sec. 4).

    Args:
        hidden: (tokens, width) student decoder states of the valid tokens only.
        weight: (vocab, width) student output layer; gets a gradient if it requires one.
        labels: (tokens,) ids, all valid.
        teacher: scores of the same tokens; None (with kl_weight 0) for CE alone.

    Returns:
        the weighted sum (differentiable), and the sums of CE and of KL (T^2 not included).
    """
    if teacher is None and kl_weight:
        raise ValueError("kl_weight > 0 needs teacher scores")
    if not (ce_weight or kl_weight):  # states alone are matched: spare the largest product
        zero = hidden.new_zeros(())
        return zero, zero, zero
    return _TokenLosses.apply(
        hidden, weight, labels, teacher, ce_weight, kl_weight, temperature
    )


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, teacher, ce_weight, kl_weight, temperature):
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        ce_sum = hidden.new_zeros((), dtype=torch.float32)
        kl_sum = torch.zeros_like(ce_sum)
        # Explicitly, because the gradients of a low-precision autocast would differ from autograd's
        for start in range(0, len(hidden), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            logits = (hidden[rows] @ weight.to(hidden.dtype).T).float()
            ce, gradient = cross_entropy(logits, labels[rows])
            ce_sum += ce.sum()
            gradient *= ce_weight
            if kl_weight:
                kl, kl_gradient = _kl(logits, teacher.chunk(rows), temperature)
                kl_sum += kl.sum()
                gradient += kl_gradient.mul_(kl_weight * temperature**2)
            gradient = gradient.to(hidden.dtype)
            if need_hidden:
                grad_hidden[rows] = gradient @ weight.to(hidden.dtype)
            if need_weight:
                grad_weight += (gradient.T @ hidden[rows]).to(weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(ce_sum, kl_sum)
        total = ce_weight * ce_sum + kl_weight * temperature**2 * kl_sum
        return total, ce_sum, kl_sum

    @staticmethod
    def backward(ctx, grad_total, _grad_ce, _grad_kl):
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * grad_total,
            None if grad_weight is None else grad_weight * grad_total,
            *[None] * 5,
        )


def _kl(logits: Tensor, teacher: TeacherScores, temperature: float) -> tuple[Tensor, Tensor]:
    if teacher.indices is not None:
        return top_k_kl(logits, teacher.indices, teacher.values, teacher.lse, temperature)
    reference = (teacher.hidden @ teacher.weight.to(teacher.hidden.dtype).T).float()
    return full_kl(logits, reference, temperature)


@torch.no_grad()
def top_k_scores(
    hidden: Tensor, weight: Tensor, k: int, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A teacher's record of each token: `indices`, `values`, `lse` of `TeacherScores`.

    Args:
        hidden: (tokens, width) decoder states; weight: (vocab, width).
    """
    k = min(k, len(weight))
    parts = []
    for start in range(0, len(hidden), CHUNK_TOKENS):
        logits = (hidden[start : start + CHUNK_TOKENS] @ weight.to(hidden.dtype).T).float()
        values, indices = logits.topk(k, dim=-1)
        parts.append((indices, values, (logits / temperature).logsumexp(-1)))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error between decoder states (tokens, width): mean over width, sum over tokens.

    arXiv:2311.00430 sec. 4.2 and appendix D.5 try it as a third term.
    """
    return (student.float() - teacher.float()).square().mean(-1).sum()
