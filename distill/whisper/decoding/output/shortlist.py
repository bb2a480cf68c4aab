"""The largest logits exactly and the others nearly, for a quarter of the memory of an output layer.

    rough = Shortlist.of(weight)(hidden)     # (rows, width) -> logits off by at most `bound`
    rules(rough.logits, texts)               # in place; they may only forbid tokens
    rough.refine(rough.logits)               # the two largest of each row are exact
    rough.compute(rough.logits, row, token)  # others, too

One sequence at a time, a decoder on a CPU waits for memory, and whisper-base's output layer is half
of what it reads for each token. A copy in int8, with a scale for each token, is a quarter of that.
How far its logits may be off is known (Cauchy-Schwarz: the error of a token's row times the length
of the state). Whatever could be among the two largest is computed again with the layer itself, in
float32, and what is likely besides; of whisper-base's tokens four could be, in the mean. So a
choice is that of all logits. Of the others only the sum of their probabilities is used, in which
errors to both sides cancel: log-probabilities of whisper-base's tokens change in the fourth
decimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.whisper.decoding.output.largest import at_least, largest
from distill.whisper.decoding.output.rough_products import Product, best_product

_LIKELY = 16  # tokens that are computed again in any case: most of the probability
_SMALLEST_LAYER = 2**23  # numbers; smaller ones stay in the processor's cache
_FORBIDDEN = -1e30  # at most
_SLACK = 1.01  # sums in float32


class Shortlist:
    """An int8 copy of an output layer.

    Args:
        weight: (vocabulary, width) float32, of the layer; read again for the largest logits.
        product: the kernel.
    """

    def __init__(self, weight: Tensor, product: type[Product]):
        self.weight, self.made_of = weight, _stamp(weight)
        scale = (weight.abs().amax(1) / 127).clamp_(min=1e-12).bfloat16()
        steps = scale.float()[:, None]
        whole = (weight / steps).round_().clamp_(-127, 127)
        self.error = _SLACK * (weight - whole * steps).norm(dim=1)
        self.product = product(whole.to(torch.int8), scale, float(weight.norm(dim=1).max()))

    @classmethod
    def of(cls, weight: Tensor) -> Shortlist | None:
        """None where the layer itself is as fast."""
        is_served = weight.device.type == "cpu" and weight.dtype == torch.float32
        product = best_product()
        if not is_served or weight.numel() < _SMALLEST_LAYER or product is None:
            return None
        return cls(weight.detach(), product)

    def is_of(self, weight: Tensor) -> bool:
        """Whether it was made of this weight, which has not been trained or replaced since."""
        return self.made_of == _stamp(weight)

    def __call__(self, rows: Tensor) -> RoughLogits:
        """Of float32 states (rows, width)."""
        found, off = self.product(rows)
        bound = torch.addcmul(off[:, None], rows.norm(dim=1)[:, None], self.error)
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

    def split(self, count: int) -> tuple[RoughLogits, RoughLogits]:
        """The first `count` rows, and the others, in the same memory."""
        return tuple(RoughLogits(self.logits[at], self.rows[at], self.weight, self.bound[at])
                     for at in (slice(count), slice(count, None)))

    def settle(self, first: int, end: int | None = None) -> None:
        """Make those of the tokens from `first` on exact; before rules."""
        self.logits[:, first:end] = self.rows @ self.weight[first:end].T
        self.bound[:, first:end] = 0

    def refine(self, logits: Tensor) -> None:
        """Make the two largest of each row exact, and all that could be, in place.

        Args:
            logits: `self.logits` or the first tokens of it, some of them forbidden by now.
        """
        bound = self.bound[:, : logits.shape[1]]
        values, likely = largest(logits, min(_LIKELY, logits.shape[1]))
        exact = (self.weight[likely] * self.rows[:, None]).sum(-1)
        exact.masked_fill_(values <= _FORBIDDEN, -torch.inf)
        # two tokens reach it; where rules leave fewer, all others are forbidden
        reached = exact.topk(2).values[:, 1:].clamp_(min=_FORBIDDEN)
        row, token = at_least(logits + bound, reached)
        rows = torch.arange(len(logits)).repeat_interleave(likely.shape[1])
        self.compute(logits, torch.cat([rows, row]), torch.cat([likely.flatten(), token]))

    def compute(self, logits: Tensor, row: Tensor, token: Tensor) -> None:
        """Make some exact, in place: `row` and `token` (n,). By sums of products, not a matrix
        product: what a row gets does not depend on the others."""
        found = (self.weight[token] * self.rows[row]).sum(-1)
        before = logits[row, token]
        is_rough = (self.bound[row, token] > 0) & (before > _FORBIDDEN)
        logits[row, token] = torch.where(is_rough, found, before)
        self.bound[row, token] = 0


def most_rows() -> int:
    """Of a call: the product with the layer itself costs as much for more."""
    product = best_product()
    return 0 if product is None else product.most_rows


def _stamp(weight: Tensor) -> tuple:
    """Changes where the weight is replaced or written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
