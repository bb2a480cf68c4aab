"""How near two ways to the same numbers must come.

Which kernel computes a product depends on the processor, on the shapes and on where the tensors lie
in memory (those of a mapped file begin at any multiple of 8 bytes, torch's own at one of 64), and
each kernel adds in an order of its own. So a batch and its rows alone, or two models of equal
weights, differ in the last bits; bit for bit is asked only of what the product promises so, and
computes element by element or with integers.
"""

import torch
from torch import Tensor

STEPS = 64  # units in the last place of the largest value: a few layers of sums of some hundred
# terms lose about ten; a weight, a token or a frame that is another one costs thousands


def assert_same_but_rounding(found: Tensor, wanted: Tensor, steps: int = STEPS) -> None:
    """Floats of one type and shape, all within `steps` roundings of the largest of `wanted`."""
    unit = torch.finfo(wanted.dtype).eps * wanted.detach().abs().max().item()
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=steps * unit)
