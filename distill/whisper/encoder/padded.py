"""The encoder as Whisper was trained: every clip is padded to 30 s.

    states = encode(model, log_mel(processor, audios))      # (clips, 1500, width)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data.audio import SAMPLE_RATE
from distill.losses.matmul import fast_linears


def log_mel(processor: Any, audios: Sequence[np.ndarray]) -> Tensor:
    """float32 (batch, mel, 3000) from 16 kHz mono audio of up to 30 s each."""
    features = processor.feature_extractor(
        list(audios), sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="max_length"
    )
    return features["input_features"]


def encode(model: Any, features: Tensor) -> Tensor:
    """Encoder states (batch, 1500, width) of log-mel features (batch, mel, 3000)."""
    return encode_padded(model.get_encoder(), features)


@torch.no_grad()
def encode_padded(
    encoder: Any, features: Tensor, on_layer: Callable[[Tensor], None] | None = None
) -> Tensor:
    """As `encode`, by a WhisperEncoder.

    Args:
        on_layer: called with what each layer gives, (batch, 1500, width), in their order.
    """
    parameter = next(encoder.parameters())
    # transformers' first layer gets a transposed view, and then every sum of the residual is one:
    # 4 to 8 % of the time of an encoder on a CPU, for the same numbers
    hooks = [encoder.layers[0].register_forward_pre_hook(
        lambda _layer, given: (given[0].contiguous(), *given[1:]))]
    hooks += [] if on_layer is None else [
        layer.register_forward_hook(
            lambda _layer, _given, found: on_layer(found[0] if isinstance(found, tuple) else found))
        for layer in encoder.layers]
    try:
        with fast_linears():
            return encoder(features.to(parameter.device, parameter.dtype)).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
