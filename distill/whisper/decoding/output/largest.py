"""The largest of many numbers, by the largest of each block of them: PyTorch's own `topk` on a CPU
looks at them one by one, which takes as long as a third of an output layer in int8."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128
_WORTH = 4096  # numbers of a row


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `values.topk(count)`: values and indices (rows, count), the largest first; of equal ones
    it may take another."""
    size = values.shape[1]
    if values.device.type != "cpu" or size < _WORTH:
        return tuple(values.topk(count))
    whole = size - size % _BLOCK
    maxima = values[:, :whole].unflatten(1, (-1, _BLOCK)).amax(-1)
    blocks = maxima.topk(min(count, maxima.shape[1])).indices  # none of the others is as large
    places = torch.cat([_places(blocks), torch.arange(whole, size).expand(len(values), -1)], 1)
    found, at = values.gather(1, places).topk(count)
    return found, places.gather(1, at)


def at_least(values: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and indices, (n,) each, of numbers that are not below that of their row.

    Args:
        values: (rows, size).
        least: (rows, 1).
    """
    size = values.shape[1]
    if values.device.type != "cpu" or size < _WORTH:
        return tuple((values >= least).nonzero(as_tuple=True))
    whole = size - size % _BLOCK
    maxima = values[:, :whole].unflatten(1, (-1, _BLOCK)).amax(-1)
    row, block = (maxima >= least).nonzero(as_tuple=True)
    places = _places(block[:, None])
    piece, at = (values[row[:, None], places] >= least[row]).nonzero(as_tuple=True)
    last, end = (values[:, whole:] >= least).nonzero(as_tuple=True)
    return torch.cat([row[piece], last]), torch.cat([places[piece, at], end + whole])


def _places(blocks: Tensor) -> Tensor:
    """Indices (rows, n * _BLOCK) of all that is in some blocks (rows, n)."""
    return (blocks[..., None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
