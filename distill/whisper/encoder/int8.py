"""An encoder whose linear layers compute in int8, on CPUs.

    model = with_int8_encoder(model)        # a twin; the encoder that was given stays as it is

Weights have a scale for each output channel, inputs one for each position (`whisper.linear`).
Convolutions, norms and attention stay in float: their work is small.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from distill.whisper.linear import Int8Layer


class Int8Linear(nn.Module):
    """An int8 copy of a linear layer; its weight is no parameter."""

    def __init__(self, module: nn.Linear):
        super().__init__()
        self.layer = Int8Layer(module.weight, module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.layer(inputs.flatten(0, -2).float())
        return found.unflatten(0, inputs.shape[:-1]).to(inputs.dtype)


def with_int8_encoder(model: Any) -> Any:
    """A twin of a model that shares all weights with it, but for an int8 copy of its encoder.

    Args:
        model: WhisperForConditionalGeneration, on a CPU.

    Raises:
        ValueError: int8 is not possible here.
    """
    inner = _twin(model.model, encoder=_quantised(model.model.encoder))
    return _twin(model, model=inner)


def _quantised(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear):
        return Int8Linear(module)
    return _twin(module, **{name: _quantised(child) for name, child in module.named_children()})


def _twin(module: nn.Module, **children: nn.Module) -> nn.Module:
    """The module with other children; everything else is shared."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = {**module._modules, **children}
    return twin
