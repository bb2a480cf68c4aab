"""The largest logits exactly and the others nearly, for a quarter of the memory of an output layer.

    rough = Shortlist.of(weight)(hidden)     # (rows, width) -> logits off by at most `bound`
    rules(rough.logits, texts)               # in place; they may only forbid tokens
    rough.refine(rough.logits)               # the two largest of each row are exact
    rough.refine_raised(rough.logits, ...)   # also once something is added to some of them

One sequence at a time, a decoder on a CPU waits for memory, and whisper-base's output layer is half
of what it reads for each token. A copy in int8, with a scale for each token, is a quarter of that.
How far its logits may be off is known (Cauchy-Schwarz: the error of a token's row times the length
of the state). The largest are computed again with the layer itself, in float32, and whatever could
be among the two largest besides; of whisper-base's tokens four could be, in the mean. So a choice
is that of all logits. Of the others only the sum of their probabilities is used, in which errors to
both sides cancel: log-probabilities of whisper-base's tokens change in the fourth decimal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

MOST_ROWS = 4  # of a call; of more, the product with the layer itself costs about as much
_SMALLEST_LAYER = 2**23  # numbers; smaller ones stay in the processor's cache
_TRIED = 16  # tokens that are computed again in any case
_HALF = 2.0**-8  # of a number: twice what rounding to bfloat16 may change
_FORBIDDEN = -1e30  # at most
_SLACK = 1.01  # sums in float32
_KERNELS = ("AVX2", "AVX512")  # elsewhere the product with an int8 copy is slow


class Shortlist:
    """An int8 copy of an output layer.

    Args:
        weight: (vocabulary, width) float32, of the layer; read again for the largest logits.
    """

    def __init__(self, weight: Tensor):
        self.weight, self.made_of = weight, _stamp(weight)
        self.scale = (weight.abs().amax(1) / 127).clamp_(min=1e-12).bfloat16()
        steps = self.scale.float()[:, None]
        whole = (weight / steps).round_().clamp_(-127, 127)
        self.error = _SLACK * (weight - whole * steps).norm(dim=1)
        self.length = float(weight.norm(dim=1).max())
        self.whole = whole.to(torch.int8)

    @classmethod
    def of(cls, weight: Tensor) -> Shortlist | None:
        """None where the layer itself is as fast."""
        is_served = weight.device.type == "cpu" and weight.dtype == torch.float32
        if not is_served or weight.numel() < _SMALLEST_LAYER or not _has_kernel():
            return None
        return cls(weight.detach())

    def is_of(self, weight: Tensor) -> bool:
        """Whether it was made of this weight, which has not been trained or replaced since."""
        return self.made_of == _stamp(weight)

    def __call__(self, rows: Tensor) -> RoughLogits:
        """Of float32 states (rows, width)."""
        half = rows.bfloat16()
        found = torch._weight_int8pack_mm(half, self.whole, self.scale).float()
        of_rows = ((rows - half.float()).norm(dim=1) * self.length
                   + found.abs().amax(1) * _HALF) * _SLACK
        bound = torch.addcmul(of_rows[:, None], rows.norm(dim=1)[:, None], self.error)
        return RoughLogits(found, rows, self.weight, bound)


@dataclass
class RoughLogits:
    """Logits of which some are exact.

    Attributes:
        logits: (rows, vocabulary) float32.
        rows: the states.
        weight: of the output layer.
        bound: (rows, vocabulary): how far each may be off; 0 for those that are exact.
    """

    logits: Tensor
    rows: Tensor
    weight: Tensor
    bound: Tensor

    def settle(self, first: int, end: int | None = None) -> None:
        """Make those of the tokens from `first` on exact; before rules."""
        self.logits[:, first:end] = self.rows @ self.weight[first:end].T
        self.bound[:, first:end] = 0

    def refine(self, logits: Tensor) -> None:
        """Make the two largest of each row exact, and all that could be, in place.

        Args:
            logits: `self.logits` or the first tokens of it, some of them forbidden by now.
        """
        bound, count = self.bound[:, : logits.shape[1]], len(logits)
        best = logits.topk(min(_TRIED, logits.shape[1])).indices
        self._compute(logits, torch.arange(count).repeat_interleave(best.shape[1]), best.flatten())
        # two tokens reach it; where rules leave fewer, all others are forbidden
        reached = logits.gather(1, best).topk(2).values[:, 1:].clamp_(min=_FORBIDDEN)
        row, token = ((logits + bound >= reached) & (bound > 0)).nonzero(as_tuple=True)
        if len(token):
            self._compute(logits, row, token)

    def refine_raised(self, logits: Tensor, rows: Tensor, tokens: Tensor, bonus: Tensor,
                      least: Tensor) -> None:
        """Make exact, in place, what could be among the two largest of each row once something is
        added to some of its tokens; after `refine`.

        Args:
            logits: `self.logits`.
            rows: (n, 1).
            tokens, bonus: (1, m): what is added to each.
            least: (n, 1): two tokens of a row reach this much.
        """
        bound = self.bound[rows, tokens]
        raised = logits[rows, tokens] + bonus
        if tokens.shape[1] > 1:
            least = torch.maximum(least, (raised - bound).topk(2).values[:, 1:])
        row, at = ((raised + bound >= least.clamp(min=_FORBIDDEN)) & (bound > 0)).nonzero(
            as_tuple=True)
        if len(at):
            self._compute(logits, rows[row, 0], tokens[0, at])

    def _compute(self, logits: Tensor, row: Tensor, token: Tensor) -> None:
        """Sums of products, not a matrix product: what a row gets does not depend on the others."""
        found = (self.weight[token] * self.rows[row]).sum(-1)
        before = logits[row, token]
        is_rough = (self.bound[row, token] > 0) & (before > _FORBIDDEN)
        logits[row, token] = torch.where(is_rough, found, before)
        self.bound[row, token] = 0


def _stamp(weight: Tensor) -> tuple:
    """Changes where the weight is replaced or written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


@cache
def _has_kernel() -> bool:
    """Whether PyTorch's product of bfloat16 with int8 is here, and keeps its promise."""
    if torch.backends.cpu.get_cpu_capability() not in _KERNELS:
        return False
    drawn = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(shape, generator=drawn) for shape in ((256, 64), (3, 64)))
    try:
        rough = Shortlist(weight)(rows)
    except (AttributeError, RuntimeError):  # not part of PyTorch's stable interface
        return False
    return bool(((rows @ weight.T - rough.logits).abs() <= rough.bound).all())
