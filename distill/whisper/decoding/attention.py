"""Attention over caches, in float or with integers, whose sums do not depend on their order.

A pass over five tokens and five passes over one token use different kernels, which add in different
orders: in float32 the results differ in the last bits. `IntegerAttention` rounds queries, keys and
values to 8 bits, with a scale for each head and position, and attention weights to 16 bits. Then
every sum is of whole numbers and below 2^24, and float32 holds it exactly in any order. So results
are equal bit for bit in any batch and for any number of tokens in a pass.

Short clips have a **rest**: keys and values of the silence behind them, which all slots share
(`distill.whisper.encoder.silence`). They are read once for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.whisper.linear import largest

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
    def attend(query: Tensor, parts: tuple[Tensor, ...], mask: Tensor | None,
               rest: tuple[Tensor, ...] | None = None, others: Sequence[int] = ()) -> Tensor:
        """Attention of each row's queries over the shared rest, and then over its own positions.

        Args:
            query: (rows, heads, T, head width).
            parts: of as many rows; or of fewer, and the last queries look at those of `others`.
            mask: (rows, 1, T, positions), True where a query may look, or what is added to logits,
                those of the rest included.
            rest: `parts` without rows, (heads, positions, head width).

        Returns:
            as `query`.
        """
        if rest is None and not others:
            return F.scaled_dot_product_attention(query, *parts, mask)
        if rest is None:
            return torch.cat([
                F.scaled_dot_product_attention(query[at], *(part[row] for part in parts), mask)
                for at, row in _pairs(len(query), others)])
        (keys, values), (rest_keys, rest_values) = parts, rest
        logits = _products(query * query.shape[-1] ** -0.5, keys, rest_keys, others)
        if mask is not None:
            logits += mask
        return _weighted(logits.softmax(-1), values, rest_values, others)


class IntegerAttention:
    """See the top of the file; a cache holds keys, their scales, values, their scales."""

    @staticmethod
    def allocate(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, ...]:
        return tuple(like.new_zeros(size) for size in (shape, shape[:-1], shape, shape[:-1]))

    @staticmethod
    def parts(keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        return (*_rounded(keys), *_rounded(values))

    @staticmethod
    def attend(query: Tensor, parts: tuple[Tensor, ...], mask: Tensor | None,
               rest: tuple[Tensor, ...] | None = None, others: Sequence[int] = ()) -> Tensor:
        """As `FloatAttention.attend`."""
        keys, key_scale, values, value_scale = parts
        if others:
            key_scale, value_scale = (torch.cat([scales, scales[list(others)]])
                                      for scales in (key_scale, value_scale))
        rest_keys, rest_key_scale, rest_values, rest_value_scale = rest or (None,) * 4
        query, scale = _rounded(query)
        logits = _products(query, keys, rest_keys, others)
        logits *= (scale * query.shape[-1] ** -0.5)[..., None]
        logits *= _behind(key_scale, rest_key_scale)[:, :, None]
        if mask is not None:
            logits = (logits.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool
                      else logits.add_(mask))
        weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
        total = weights.sum(-1, keepdim=True)
        weights *= _behind(value_scale, rest_value_scale)[:, :, None]
        size = weights.sum(-1, keepdim=True).clamp_(min=_SMALLEST)
        found = _weighted(weights.mul_(_WEIGHTS / size).round_(), values, rest_values,
                          others)
        return found.mul_(size / (_WEIGHTS * total))


def _pairs(rows: int, others: Sequence[int]) -> list[tuple[slice, slice]]:
    """Rows of queries, and those of the cache that they look at."""
    first = rows - len(others)
    return [(slice(first), slice(first)),
            *((slice(at, at + 1), slice(row, row + 1)) for at, row in enumerate(others, first))]


def _matmul(rows: Tensor, cached: Tensor, others: Sequence[int]) -> Tensor:
    """The product of each row with its own, or with that of one of the others."""
    if not others:
        return torch.matmul(rows, cached)
    return torch.cat([torch.matmul(rows[at], cached[row])
                      for at, row in _pairs(len(rows), others)])


def _products(query: Tensor, keys: Tensor, rest_keys: Tensor | None, others: Sequence[int]
              ) -> Tensor:
    """(rows, heads, T, positions) of queries and keys; those of the rest come first."""
    found = _matmul(query, keys.transpose(-1, -2), others)
    if rest_keys is None:
        return found
    shared = torch.matmul(query.transpose(0, 1).flatten(1, 2), rest_keys.transpose(-1, -2))
    return torch.cat([shared.unflatten(1, query.shape[::2]).transpose(0, 1), found], -1)


def _weighted(weights: Tensor, values: Tensor, rest_values: Tensor | None, others: Sequence[int]
              ) -> Tensor:
    """Sums of values (rows, heads, T, head width) by weights (rows, heads, T, positions)."""
    if rest_values is None:
        return _matmul(weights, values, others)
    of_rest, own = weights.split([rest_values.shape[1], values.shape[2]], -1)
    shared = torch.matmul(of_rest.transpose(0, 1).flatten(1, 2), rest_values)
    return _matmul(own, values, others) + shared.unflatten(1, weights.shape[::2]).transpose(0, 1)


def _behind(scales: Tensor, rest: Tensor | None) -> Tensor:
    """Scales (rows, heads, positions) behind those of the rest (heads, positions)."""
    return scales if rest is None else torch.cat([rest.expand(len(scales), -1, -1), scales], -1)


def _rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers up to 127 as floats, and the scale of each vector."""
    size = largest(vectors)
    return (vectors * (_LARGEST / size)).round_(), (size / _LARGEST)[..., 0]
