"""Attention over caches, in float or with integers, whose sums do not depend on their order.

A pass over five tokens and five passes over one token use different kernels, which add in different
orders: in float32 the results differ in the last bits. `IntegerAttention` rounds queries, keys and
values to 8 bits, with a scale for each head and position, and attention weights to 16 bits. Then
every sum is of whole numbers and below 2^24, and float32 holds it exactly in any order. So results
are equal bit for bit in any batch and for any number of tokens in a pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST = 127.0
_WEIGHTS = 65536.0  # sum of the weights of a query; 65,536 * 127 < 2^24
_SMALLEST = 1e-12
LENGTHS = 64  # caches are read in multiples of it, so that vectorised sums group alike


class FloatAttention:
    """Scaled dot-product attention in the type of the model; a cache holds keys and values."""

    @staticmethod
    def allocate(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, ...]:
        """Tensors of an empty cache for keys of shape (slots, heads, positions, head width)."""
        return like.new_zeros(shape), like.new_zeros(shape)

    @staticmethod
    def parts(keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """What a cache holds of keys and values (rows, heads, positions, head width)."""
        return keys, values

    @staticmethod
    def attend(query: Tensor, parts: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """(rows, heads, T, head width) of queries of that shape; mask (rows, 1, T, positions),
        True where a query may look."""
        return F.scaled_dot_product_attention(query, *parts, mask)


class IntegerAttention:
    """See the top of the file; a cache holds keys, their scales, values, their scales."""

    @staticmethod
    def allocate(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, ...]:
        return tuple(like.new_zeros(size) for size in (shape, shape[:-1], shape, shape[:-1]))

    @staticmethod
    def parts(keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        return (*_rounded(keys), *_rounded(values))

    @staticmethod
    def attend(query: Tensor, parts: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        keys, key_scale, values, value_scale = parts
        query, scale = _rounded(query)
        scores = torch.matmul(query, keys.transpose(-1, -2))
        scores *= (scale * query.shape[-1] ** -0.5)[..., None]
        scores *= key_scale[:, :, None]
        if mask is not None:
            scores.masked_fill_(~mask, -torch.inf)
        weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        total = weights.sum(-1, keepdim=True)
        weights *= value_scale[:, :, None]
        size = weights.sum(-1, keepdim=True).clamp_(min=_SMALLEST)
        found = torch.matmul(weights.mul_(_WEIGHTS / size).round_(), values)
        return found.mul_(size / (_WEIGHTS * total))


def _rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers up to 127 as floats, and the scale of each vector."""
    size = torch.linalg.vector_norm(vectors, torch.inf, -1, keepdim=True).clamp_(min=_SMALLEST)
    return (vectors * (_LARGEST / size)).round_(), (size / _LARGEST)[..., 0]
