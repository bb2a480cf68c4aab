"""The encoder over the beginning of a window, whose rest is silence.

    features, usable = short_features(processor, audios, 150)
    states = encode_short(encoder, features)            # (clips, 150, width)

Same layers and weights as transformers' own encoder: only the positions of the clip (and a margin)
are computed, and their self-attention also looks at the kept keys and values of silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data.audio import SAMPLE_RATE
from distill.losses.matmul import fast_linears
from distill.whisper.encoder.layers import run_layer, stem
from distill.whisper.encoder.level import LOUDEST
from distill.whisper.encoder.silence import Silence, silence_of

_HOP = 160  # samples of a log-mel frame
_HALF_WINDOW = 200  # samples of the next frames that a frame looks at
EXTRA_FRAMES = 2  # that the two convolutions look at behind the last position
FAINTEST = 0.6  # of the loudest feature: 30 dB below LOUDEST; what is fainter is padded instead


def short_features(
    processor: Any, audios: Sequence[np.ndarray], positions: int
) -> tuple[Tensor, list[bool]]:
    """Log-mel features of the first positions of a window, for clips of at most that length.

    They are those of the padded window, frame by frame, moved so that silence has the value LEVEL.

    Returns:
        float32 (clips, bands, 2 * positions + 2); and whether each is loud enough: one that had to
        be raised by more than 30 dB would bring up noise that the padded model does not hear.
    """
    frames = 2 * positions + EXTRA_FRAMES
    samples = frames * _HOP + _HALF_WINDOW
    padded = [np.pad(audio[:samples], (0, max(samples - len(audio), 0))) for audio in audios]
    features = processor.feature_extractor(
        padded, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=False)["input_features"]
    features = features[..., :frames]
    loudest = features.amax((1, 2), keepdim=True)
    return features + (LOUDEST - loudest), (loudest.flatten() >= FAINTEST).tolist()


@torch.no_grad()
def encode_short(
    encoder: Any, features: Tensor, on_layer: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Encoder states (clips, positions, width) of `short_features`, silence behind them.

    Args:
        on_layer: called with what each layer gives, (clips, positions, width), in their order.
    """
    return run_short(encoder, features, silence_of(encoder), on_layer)


def run_short(
    encoder: Any, features: Tensor, silence: Silence,
    on_layer: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """As `encode_short`, also with gradients, and any silence behind the clips."""
    parameter = next(encoder.parameters())
    features = features.to(parameter.device, parameter.dtype)
    positions = (features.shape[-1] - EXTRA_FRAMES) // 2
    silent, log_weight = silence.behind(positions)
    with fast_linears():
        hidden = stem(encoder, features)[:, :positions]
        for layer, keys_and_values in zip(encoder.layers, silent, strict=True):
            hidden = run_layer(layer, hidden, keys_and_values, log_weight)[0]
            if on_layer is not None:
                on_layer(hidden)
        return encoder.layer_norm(hidden)
