"""Losses as pure functions. All return sums over tokens; who calls divides by the global count.

With student logits z, teacher logits t, temperature T, q = softmax(z / T), p = softmax(t / T):

    CE = -log softmax(z)[label]
    KL = sum_v p_v (log p_v - log q_v)          Hinton et al., arXiv:1503.02531; scaled by T^2

When only some of the teacher's scores are known, with the exact mass of the others, these share one
bucket. That KL is a lower bound of the full one (data-processing inequality), and equal to it where
the student spreads its tail as the teacher does:

    KL_k = sum_{v in K} p_v (log p_v - log q_v) + p_rest (log p_rest - log q_rest)

A student that drafts for its teacher wants its tokens accepted. Two more divergences, of the whole
vocabulary, take the KL's place then (compared in DistillSpec, arXiv:2310.08461):

    reverse KL      = sum_v q_v (log q_v - log p_v)
    total variation = 1/2 sum_v |p_v - q_v|     1 - the acceptance rate of speculative sampling at
                                                temperature T (arXiv:2211.17192 sec. 3)

All three are scaled by T^2. That keeps the size of the gradients of both KLs whatever T is; those
of the total variation, which falls with the distance itself and not its square, grow by T.

`token_losses` goes from hidden states to the losses in chunks of tokens, so that no
(tokens, vocab) tensor lives at once, forward or backward: gradients are formed in the forward pass
(the loss is a sum over tokens, so the chain rule only scales them).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.losses.matmul import product

IGNORE = -100  # label of positions that carry no loss: padding and prompts
CPU_CHUNK_TOKENS = 128  # logits of this many tokens exist at once: 27 MB in float32 for Whisper
_SMALLEST = 1e-30  # probability: its inverse, times a temperature, is still a float32
GPU_CHUNK_TOKENS = 1024  # a GPU wants larger products: 212 MB


@dataclass
class TeacherScores:
    """The teacher's distribution at each token position, or some of it.

    Either `hidden` and `weight` (the teacher's own states; exact KL), or `indices`, `values`,
    `log_rest` (scores; `hidden` may come besides, for `hidden_mse`). See `distill.losses.targets`
    for how scores are chosen.

    Attributes:
        hidden: (tokens, width) last decoder state; logits are hidden @ weight.T.
        weight: (vocab, width) output layer.
        indices: (tokens, k) token ids, all different within a token.
        values: (tokens, k) their logits, relative to the token's largest.
        log_rest: (tokens,) log of the teacher's probability of all other ids, at the loss's
            temperature; -inf when there is none. The log-sum-exp of all logits follows:
            logsumexp(values / T) - log(1 - exp(log_rest)). This way round small tails are exact;
            as a difference of a sum from 1 they would drown in the rounding of float16 values.
        inner: (tokens, width) each, states between layers that the student's should equal.
    """

    hidden: Tensor | None = None
    weight: Tensor | None = None
    indices: Tensor | None = None
    values: Tensor | None = None
    log_rest: Tensor | None = None
    inner: tuple[Tensor, ...] = ()

    def chunk(self, rows: slice | Tensor) -> TeacherScores:
        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return TeacherScores(cut(self.hidden), self.weight, cut(self.indices), cut(self.values),
                             cut(self.log_rest))


def ce_and_full_kl(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor,
    *,
    ce_weight: float,
    kl_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, KL(teacher || student), and the gradient of both.

    One exponential serves both: softmax numerators at T = 1 are those at T to the power of T.

    Args:
        student, teacher: logits (tokens, vocab); both are overwritten. The KL and its gradient are
            exactly 0 when they are equal.

    Returns:
        CE (tokens,), KL (tokens,), and the gradient of ce_weight * CE + kl_weight * T^2 * KL for
        the student's logits, (tokens, vocab).
    """
    student_scaled, teacher_scaled = _scaled(student, temperature), _scaled(teacher, temperature)
    log_label = student_scaled.gather(-1, labels[:, None])[:, 0] * temperature
    log_ratio = teacher_scaled - student_scaled
    p, q = teacher_scaled.exp_(), student_scaled.exp_()  # both times their sums
    p_sum, q_sum = p.sum(-1), q.sum(-1)
    kl = log_ratio.mul_(p).sum(-1) / p_sum + (q_sum.log() - p_sum.log())
    q_1 = _power(q, temperature)
    scale = kl_weight * temperature
    gradient = q.mul_((scale / q_sum)[:, None]).sub_(p.mul_((scale / p_sum)[:, None]))
    return _add_ce(gradient, q_1, log_label, labels, ce_weight), kl, gradient


def ce_and_reverse_kl(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor,
    *,
    ce_weight: float,
    kl_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, KL(student || teacher), and the gradient of both; see `ce_and_full_kl`.

    With r = log q - log p, the gradient of T^2 * KL for the logits is T q (r - KL).
    """
    student_scaled, teacher_scaled = _scaled(student, temperature), _scaled(teacher, temperature)
    log_label = student_scaled.gather(-1, labels[:, None])[:, 0] * temperature
    p_sum = teacher_scaled.exp().sum(-1)
    log_ratio = teacher_scaled.neg_().add_(student_scaled)
    q = student_scaled.exp_()
    q_sum = q.sum(-1)
    q_1 = _power(q, temperature)
    q.div_(q_sum[:, None])
    log_ratio.add_((p_sum.log() - q_sum.log())[:, None])
    kl = (q * log_ratio).sum(-1)
    gradient = log_ratio.sub_(kl[:, None]).mul_(q).mul_(kl_weight * temperature)
    return _add_ce(gradient, q_1, log_label, labels, ce_weight), kl, gradient


def ce_and_total_variation(
    student: Tensor,
    labels: Tensor,
    teacher: Tensor,
    *,
    ce_weight: float,
    kl_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, total variation in [0, 1], and the gradient of both; see `ce_and_full_kl`.

    With s = sign(q - p), which is 0 where they are equal, the gradient of T^2 * TV for the logits
    is T/2 q (s - sum_v q_v s_v).
    """
    student_scaled, teacher_scaled = _scaled(student, temperature), _scaled(teacher, temperature)
    log_label = student_scaled.gather(-1, labels[:, None])[:, 0] * temperature
    p, q = teacher_scaled.exp_(), student_scaled.exp_()
    q_sum = q.sum(-1)
    q_1 = _power(q, temperature)
    q.div_(q_sum[:, None])
    difference = p.div_(p.sum(-1, keepdim=True)).neg_().add_(q)
    distance = 0.5 * difference.abs().sum(-1)
    sign = difference.sign_()
    mean = (q * sign).sum(-1)
    gradient = sign.sub_(mean[:, None]).mul_(q).mul_(0.5 * kl_weight * temperature)
    return _add_ce(gradient, q_1, log_label, labels, ce_weight), distance, gradient


def _add_ce(
    gradient: Tensor, q_1: Tensor, log_label: Tensor, labels: Tensor, ce_weight: float
) -> Tensor:
    """CE (tokens,); its gradient times `ce_weight` is added in place.

    Args:
        q_1: softmax numerators at T = 1, (tokens, vocab).
        log_label: the labels' logits, relative to the largest, (tokens,).
    """
    total_1 = q_1.sum(-1)
    gradient.addcmul_(q_1, (ce_weight / total_1)[:, None])
    gradient.scatter_add_(-1, labels[:, None], torch.full_like(total_1, -ce_weight)[:, None])
    return total_1.log() - log_label


def ce_and_top_k_kl(
    student: Tensor,
    labels: Tensor,
    teacher: TeacherScores,
    *,
    ce_weight: float,
    kl_weight: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, KL over the teacher's scores and one bucket for the rest, and the gradient of both.

    Args:
        student: logits (tokens, vocab); overwritten.
        teacher: `indices`, `values`, `log_rest`.

    Returns:
        CE (tokens,), KL (tokens,), and the gradient of ce_weight * CE + kl_weight * T^2 * KL for
        the logits, (tokens, vocab).
    """
    indices, values, log_rest = teacher.indices, teacher.values, teacher.log_rest
    assert indices is not None and values is not None and log_rest is not None
    scaled = _scaled(student, temperature)
    log_top = scaled.gather(-1, indices)
    log_label = scaled.gather(-1, labels[:, None])[:, 0] * temperature
    # From here on the teacher's ids are kept apart: their sum and that of the rest are both exact,
    # where 1 - sum(q) would be rounding noise for a confident student.
    rest = scaled.exp_().scatter_(-1, indices, 0.0)
    top, rest_sum = log_top.exp(), rest.sum(-1)
    total = rest_sum + top.sum(-1)
    rest_1, top_1 = _power(rest, temperature), _power(top, temperature)
    total_1 = rest_1.sum(-1) + top_1.sum(-1)
    ce = total_1.log() - log_label

    p_rest = log_rest.exp()
    log_p = (values.float() / temperature).log_softmax(-1) + torch.log1p(-p_rest)[:, None]
    p, q = log_p.exp(), top / total[:, None]
    q_rest = (rest_sum / total).clamp(min=_SMALLEST)
    log_q = log_top - total.log()[:, None]
    # an id the teacher never drew has no mass: 0 * (-inf) is 0 here
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    kl += torch.where(p_rest > 0, p_rest * (log_rest - q_rest.log()), 0.0)

    scale = kl_weight * temperature
    ce_factor = ce_weight / total_1
    kl_factor = scale * (1 - p_rest / q_rest) / total
    gradient = rest.mul_(kl_factor[:, None]).addcmul_(rest_1, ce_factor[:, None])
    gradient.scatter_(-1, indices, top_1 * ce_factor[:, None] + scale * (q - p))
    gradient.scatter_add_(-1, labels[:, None], torch.full_like(ce, -ce_weight)[:, None])
    return ce, kl, gradient


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """In place: logits / T, relative to the largest of each token."""
    logits /= temperature
    return logits.sub_(logits.amax(-1, keepdim=True))


def _power(numerators: Tensor, temperature: float) -> Tensor:
    """A new tensor, numerators ** temperature."""
    return numerators.square() if temperature == 2.0 else numerators.pow(temperature)


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
    divergence: str = "forward",
) -> tuple[Tensor, Tensor, Tensor]:
    """ce_weight * CE + kl_weight * T^2 * KL, summed over tokens (arXiv:2311.00430 sec. 4).

    Args:
        hidden: (tokens, width) student decoder states of the valid tokens only.
        weight: (vocab, width) student output layer; gets a gradient if it requires one.
        labels: (tokens,) ids, all valid.
        teacher: scores of the same tokens; None (with kl_weight 0) for CE alone.
        divergence: forward | reverse | total_variation: what stands for KL. All but forward need
            `hidden` and `weight` of the teacher.

    Returns:
        the weighted sum (differentiable), and the sums of CE and of KL (T^2 not included).
    """
    if teacher is None and kl_weight:
        raise ValueError("kl_weight > 0 needs teacher scores")
    if divergence != "forward" and teacher is not None and teacher.indices is not None:
        raise ValueError(f"divergence {divergence} needs all of the teacher's scores, got some")
    if not (ce_weight or kl_weight):  # states alone are matched: spare the largest product
        zero = hidden.new_zeros(())
        return zero, zero, zero
    return _TokenLosses.apply(
        hidden, weight, labels, teacher, ce_weight, kl_weight, temperature, divergence
    )


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, teacher: TeacherScores | None,
        ce_weight: float, kl_weight: float, temperature: float, divergence: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if need_hidden else None
        plain = weight.dtype == hidden.dtype and len(hidden) > 0
        make = torch.empty_like if plain else torch.zeros_like
        grad_weight = make(weight) if need_weight else None
        ce_sum = hidden.new_zeros((), dtype=torch.float32)
        kl_sum = torch.zeros_like(ce_sum)
        # Explicitly, because the gradients of a low-precision autocast would differ from autograd's
        output = weight.to(hidden.dtype)
        weights = {"ce_weight": ce_weight, "kl_weight": kl_weight, "temperature": temperature}
        for rows in chunks(hidden):
            part = teacher.chunk(rows) if teacher is not None and kl_weight else None
            logits = product(hidden[rows], output).float()
            ce, kl, gradient = _losses(logits, labels[rows], part, divergence, **weights)
            ce_sum += ce.sum()
            if kl is not None:
                kl_sum += kl.sum()
            gradient = gradient.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = product(gradient, output.T)
            if grad_weight is not None and plain:
                # beta 0 ignores what is there: the first product spares a pass of zeros
                grad_weight.addmm_(gradient.T, hidden[rows], beta=float(rows.start > 0))
            elif grad_weight is not None:
                grad_weight += (gradient.T @ hidden[rows]).to(weight.dtype)
        ctx.gradients = grad_hidden, grad_weight
        ctx.mark_non_differentiable(ce_sum, kl_sum)
        total = ce_weight * ce_sum + kl_weight * temperature**2 * kl_sum
        return total, ce_sum, kl_sum

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In place, and given away: one of them is as large as the output layer.
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "token_losses: a second backward pass through the same loss"
        return (*(g if g is None else g.mul_(grad_total) for g in gradients), *[None] * 6)


def chunks(hidden: Tensor) -> list[slice]:
    """Rows of (tokens, width) states whose logits may exist at the same time."""
    size = CPU_CHUNK_TOKENS if hidden.device.type == "cpu" else GPU_CHUNK_TOKENS
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _losses(
    logits: Tensor,
    labels: Tensor,
    teacher: TeacherScores | None,
    divergence: str,
    **weights: float,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """CE, divergence and the gradient of the weighted sum, by what is known of the teacher."""
    if teacher is None:
        ce, gradient = cross_entropy(logits, labels)
        return ce, None, gradient.mul_(weights["ce_weight"])
    if teacher.indices is not None:
        return ce_and_top_k_kl(logits, labels, teacher, **weights)
    assert teacher.hidden is not None and teacher.weight is not None
    reference = product(teacher.hidden, teacher.weight.to(teacher.hidden.dtype)).float()
    match divergence:
        case "forward":
            return ce_and_full_kl(logits, labels, reference, **weights)
        case "reverse":
            return ce_and_reverse_kl(logits, labels, reference, **weights)
        case "total_variation":
            return ce_and_total_variation(logits, labels, reference, **weights)
    raise AssertionError(divergence)


@torch.no_grad()
def agrees(teacher: TeacherScores, labels: Tensor) -> Tensor:
    """(tokens,) bool: whether the teacher finds the label (tokens,) likeliest."""
    if teacher.indices is not None and teacher.values is not None:
        best = teacher.indices.gather(-1, teacher.values.argmax(-1, keepdim=True))[:, 0]
        return best == labels
    assert teacher.hidden is not None and teacher.weight is not None
    output = teacher.weight.to(teacher.hidden.dtype)
    found = [product(teacher.hidden[rows], output).argmax(-1) == labels[rows]
             for rows in chunks(teacher.hidden)]
    return torch.cat(found) if found else torch.zeros_like(labels, dtype=torch.bool)


def hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error between decoder states (tokens, width): mean over width, sum over tokens.

    arXiv:2311.00430 sec. 4.2 and appendix D.5 try it as a third term.
    """
    return (student.float() - teacher.float()).square().mean(-1).sum()
