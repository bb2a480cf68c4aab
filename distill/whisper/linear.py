"""Linear layers for decoding: in float, or in int8 with a scale for each row of inputs.

Int8 (CPUs): weights have a scale for each output channel, inputs have one for each row. Sums of
integers are exact, so the result of a row does not depend on the rest of the batch, and a pass over
eight tokens gives bit for bit what eight passes over one token give. PyTorch's dynamic quantisation
has one scale for a whole batch, and there this is not so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from distill.losses.matmul import linear

Layer = Callable[[Tensor], Tensor]  # (rows, inputs) -> (rows, outputs)

_SMALLEST = 1e-12  # of a row's largest value: rows of zeros stay zeros


def float_layer(weight: Tensor, bias: Tensor | None) -> Layer:
    """x @ weight.T + bias, by oneDNN where that is faster (`distill.losses.matmul`)."""
    return lambda rows: linear(rows, weight, bias)


class Int8Layer:
    """An int8 copy of a linear layer.

    Args:
        weight: (outputs, inputs) float.
        bias: (outputs,) or None.

    Raises:
        ValueError: PyTorch has no int8 products on this machine.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        if not (torch.backends.mkldnn.is_available() and weight.device.type == "cpu"):
            raise ValueError("int8 decoding needs a CPU and a PyTorch with oneDNN")
        self.largest = 127 if sums_are_exact() else 63
        weight = weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=_SMALLEST)
        whole = (weight / scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.scale = scale / self.largest  # times a row's largest value: one step of its sums
        self.bias = None if bias is None else bias.detach().float().clone()
        self.zero = torch.zeros(len(scale), dtype=torch.int32)
        self.middle = self.largest + 1.5  # 0.5 to round: the conversion cuts off

    def __call__(self, rows: Tensor) -> Tensor:
        """float32 (rows, inputs) -> float32 (rows, outputs)."""
        size = largest(rows)
        # by way of int32: PyTorch converts floats to uint8 one by one
        whole = (rows * (self.largest / size)).add_(self.middle).to(torch.int32).to(torch.uint8)
        found = int8_product(whole, self.largest + 1, self.weight, self.scale, self.zero)
        return found.mul_(size) if self.bias is None else torch.addcmul(self.bias, found, size)


def largest(rows: Tensor) -> Tensor:
    """(..., 1): the largest magnitude in each row (..., numbers), never 0.

    PyTorch's norm of that order takes fifteen times as long: it reads one number after the other.
    """
    return rows.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST)


def int8_product(whole: Tensor, middle: int, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(whole - middle) @ weight.T * scale, float32, of uint8 rows and a packed int8 weight."""
    return torch.ops.onednn.qlinear_pointwise(
        whole, 1.0, middle, weight, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")


@cache
def sums_are_exact() -> bool:
    """Whether products of 8-bit numbers are summed in 32 bits.

    Without VNNI instructions, pairs of products are summed in 16 bits, which only inputs of 7 bits
    never overflow. The kernel itself is tried: the processor may have the instructions, but oneDNN
    may be told not to use them (ONEDNN_MAX_CPU_ISA).
    """
    width = 64
    weight = torch.ops.onednn.qlinear_prepack(
        torch.full((width, width), 127, dtype=torch.int8), None)
    scale, zero = torch.ones(width), torch.zeros(width, dtype=torch.int32)
    for rows in (1, width):  # a single row may have another kernel
        whole = torch.full((rows, width), 255, dtype=torch.uint8)
        if not (int8_product(whole, 128, weight, scale, zero) == width * 127 * 127).all():
            return False
    return torch.cpu._is_vnni_supported()


def make_layer(module: nn.Linear, int8: bool) -> Layer:
    """A function that computes what a module does; `int8` makes a copy of its weights."""
    if int8:
        return Int8Layer(module.weight, module.bias)
    return float_layer(module.weight, module.bias)


def fused_layer(modules: list[nn.Linear], int8: bool) -> Layer:
    """Several layers of the same input as one.

    In float the modules' weights become views of one tensor, so that nothing is held twice. The
    modules compute the same as before. The weights of a model in training are not changed.
    """
    if not int8 and any(module.weight.requires_grad for module in modules):
        parts = [float_layer(module.weight, module.bias) for module in modules]
        return lambda rows: torch.cat([part(rows) for part in parts], -1)
    weights = [module.weight.detach() for module in modules]
    biases = [torch.zeros_like(weight[:, 0]) if module.bias is None else module.bias.detach()
              for module, weight in zip(modules, weights, strict=True)]
    if int8:
        return Int8Layer(torch.cat(weights), torch.cat(biases))
    weight, bias = _one_tensor(weights), torch.cat(biases)
    at = 0
    for module in modules:
        end = at + len(module.weight)
        module.weight.data = weight[at:end]
        if module.bias is not None:
            module.bias.data = bias[at:end]
        at = end
    return float_layer(weight, bias)


def _one_tensor(weights: list[Tensor]) -> Tensor:
    """All rows in one tensor; no copy where they already follow each other in memory, because the
    model has another decoder."""
    first, at = weights[0], weights[0].data_ptr()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and weight.is_contiguous() and weight.data_ptr() == at):
            return torch.cat(weights)
        at += weight.numel() * weight.element_size()
    return first.as_strided((sum(map(len, weights)), first.shape[1]), first.stride())
