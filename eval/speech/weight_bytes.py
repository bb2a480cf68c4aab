"""Bytes of a model's weights in a type of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import safe_open


def weight_bytes(shapes: Iterable[Sequence[int]], dtype: str) -> int:
    """In float32 a number has 4 bytes; in int8 it has 1 in a matrix, whose rows have 4 each for a
    scale, and 4 elsewhere.

    Args:
        shapes: of all tensors, tied ones once.
        dtype: float32, or one of int8.
    """
    return sum(math.prod(shape) + 4 * shape[0] if dtype != "float32" and len(shape) > 1
               else 4 * math.prod(shape) for shape in shapes)


def shapes_of(folder: Path) -> list[tuple[int, ...]]:
    """Of the tensors of a folder's safetensors."""
    found = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            found += [tuple(file.get_slice(name).get_shape()) for name in list(file.keys())]
    return found
