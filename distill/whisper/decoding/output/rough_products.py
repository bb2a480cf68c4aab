"""Products of states with an int8 copy of an output layer, and how far off these may be.

    product = product_of(whole, scale, length)
    logits, off = product(rows)

Two kernels. With VNNI instructions oneDNN multiplies whole numbers: a state becomes two of 8 bits,
one for what the other leaves, and the copy is read once for both. Elsewhere PyTorch multiplies
states in bfloat16; it is as fast for a row, and for several it soon is not.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from distill.whisper.linear import int8_product, largest, sums_are_exact

_SLACK = 1.01  # sums in float32
_HALF = 2.0**-8  # of a number: twice what rounding to bfloat16 may change
_ROUNDING = 2.0**-20  # of the largest that a logit can be: rounding in float32, of a few numbers
_KERNELS = ("AVX2", "AVX512")  # elsewhere the product of bfloat16 is slow


class WholeProduct:
    """Of whole numbers, by oneDNN; exact but for the rounding of a state to 15 bits.

    Args:
        whole: (vocabulary, width) int8, scale: (vocabulary,): the copy.
        length: of the longest row of the layer.
    """

    most_rows = 48

    def __init__(self, whole: Tensor, scale: Tensor, length: float):
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.scale, self.length = scale.float(), length
        self.zero = torch.zeros(len(scale), dtype=torch.int32)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """float32 logits (rows, vocabulary), and by how much rounding a state may change them,
        (rows,)."""
        coarse = largest(rows) / 127
        first = (rows / coarse).round_()
        left, fine = rows - first * coarse, coarse / 254  # of `left` at most half of a step
        second = (left / fine).round_().clamp_(-127, 127)
        both = torch.cat([first, second]).add_(128).to(torch.uint8)
        found = int8_product(both, 128, self.weight, self.scale, self.zero)
        large, small = found.split(len(rows))
        off = ((left - second * fine).norm(dim=1) + _ROUNDING * rows.norm(dim=1)) * self.length
        return torch.addcmul(small.mul_(fine), large, coarse), off * _SLACK


class HalfProduct:
    """Of bfloat16 and int8, by PyTorch. Arguments as of `WholeProduct`; `scale` in bfloat16."""

    most_rows = 4

    def __init__(self, whole: Tensor, scale: Tensor, length: float):
        self.whole, self.scale, self.length = whole, scale, length

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As of `WholeProduct`."""
        half = rows.bfloat16()
        found = torch._weight_int8pack_mm(half, self.whole, self.scale).float()
        off = (rows - half.float()).norm(dim=1) * self.length + found.abs().amax(1) * _HALF
        return found, off * _SLACK


Product = WholeProduct | HalfProduct


@cache
def best_product() -> type[Product] | None:
    """The fastest kernel that is here and keeps its promise; None where the layer is as fast."""
    kinds: list[type[Product]] = []
    if torch.backends.mkldnn.is_available() and sums_are_exact():
        kinds.append(WholeProduct)
    if torch.backends.cpu.get_cpu_capability() in _KERNELS:
        kinds.append(HalfProduct)
    return next((kind for kind in kinds if _keeps_promise(kind)), None)


def _keeps_promise(kind: type[Product]) -> bool:
    drawn = torch.Generator().manual_seed(0)
    whole = torch.randint(-127, 128, (256, 64), dtype=torch.int8, generator=drawn)
    scale = (torch.rand(256, generator=drawn) + 0.1).bfloat16()
    rows = torch.randn((3, 64), generator=drawn)
    weight = whole.double() * scale.double()[:, None]
    try:
        found, off = kind(whole, scale, float(weight.norm(dim=1).max()))(rows)
    except (AttributeError, RuntimeError):  # not part of PyTorch's stable interface
        return False
    return bool(((rows.double() @ weight.T - found).abs() <= off[:, None]).all())
