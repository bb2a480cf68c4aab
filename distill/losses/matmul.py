"""Matrix products of float32 on CPUs by oneDNN, as in code that PyTorch compiles.

Eager PyTorch calls MKL, which uses AVX-512 on Intel's processors only; oneDNN uses it on all that
have it: 2 to 3 times faster on AMD's. Elsewhere (GPUs, other types, autocast) nothing changes.

One or two rows, as a decoder has them, wait for the weights. There MKL is as fast or faster with
any instructions, and reads two rows as fast as one where it uses AVX-512; oneDNN takes twice as
long for two.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_HAS_ONEDNN = torch.backends.mkldnn.is_available()
_HAS_MKL = torch.backends.mkl.is_available()
_FEW = 2  # rows


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows @ weight.T, without a gradient."""
    return _linear(rows, weight, None) if _is_ours(rows) else rows @ weight.T


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows @ weight.T + bias, without a gradient."""
    is_few = _HAS_MKL and rows.ndim == 2 and rows.shape[0] <= _FEW
    return (_linear if not is_few and _is_ours(rows) else F.linear)(rows, weight, bias)


def fast_linears() -> AbstractContextManager[object]:
    """Linear layers called inside `with fast_linears():` use `product`, forward and backward.

    Not for modules with gradient checkpointing: what is computed again, is so outside.
    """
    return _FastLinears() if _HAS_ONEDNN else nullcontext()


def _is_ours(rows: Tensor) -> bool:
    plain = rows.device.type == "cpu" and rows.dtype == torch.float32
    return plain and _HAS_ONEDNN and not torch.is_autocast_enabled("cpu")


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        need_rows, need_weight, need_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        return (
            product(gradient, weight.T) if need_rows else None,
            product(flat.T, rows.flatten(0, -2).T) if need_weight else None,
            flat.sum(0) if need_bias else None,
        )


class _FastLinears(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is F.linear and not kwargs and _is_ours(args[0]):
            rows, weight, bias = (*args, None)[:3]
            return _Linear.apply(rows, weight, bias)
        return function(*args, **(kwargs or {}))
