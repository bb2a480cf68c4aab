"""The encoder over the beginning of a window, whose rest is silence.

    features, usable = short_features(processor, audios, 150)
    states = encode_short(model, features)              # (clips, 150, width)

Same layers and weights as transformers' own encoder: only the positions of the clip (and a margin)
are computed, and their self-attention also looks at the kept keys and values of silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.audio import SAMPLE_RATE
from distill.losses.matmul import fast_linears
from distill.whisper.encoder.silence import LEVEL, LOUDEST, Silence, silence_of

_HOP = 160  # samples of a log-mel frame
_HALF_WINDOW = 200  # samples of the next frames that a frame looks at
_EXTRA_FRAMES = 2  # that the two convolutions look at behind the last position
_FAINTEST = 0.35  # of the loudest feature: 30 dB below LOUDEST; what is fainter is padded instead


def short_features(
    processor, audios: Sequence[np.ndarray], positions: int
) -> tuple[Tensor, list[bool]]:
    """Log-mel features of the first positions of a window, for clips of at most that length.

    They are those of the padded window, frame by frame, moved so that silence has the value LEVEL.

    Returns:
        float32 (clips, bands, 2 * positions + 2); and whether each is loud enough: one that had to
        be raised by more than 30 dB would bring up noise that the padded model does not hear.
    """
    frames = 2 * positions + _EXTRA_FRAMES
    samples = frames * _HOP + _HALF_WINDOW
    padded = [np.pad(audio[:samples], (0, max(samples - len(audio), 0))) for audio in audios]
    features = processor.feature_extractor(
        padded, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=False)["input_features"]
    features = features[..., :frames]
    loudest = features.amax((1, 2), keepdim=True)
    return features + (LOUDEST - loudest), (loudest.flatten() >= _FAINTEST).tolist()


@torch.no_grad()
def encode_short(model, features: Tensor) -> Tensor:
    """Encoder states (clips, positions, width) of `short_features`, silence behind them."""
    encoder = model.get_encoder()
    parameter = next(encoder.parameters())
    features = features.to(parameter.device, parameter.dtype)
    positions = (features.shape[-1] - _EXTRA_FRAMES) // 2
    silence = silence_of(model)
    with fast_linears():
        hidden = _stem(encoder, features)[:, :positions]
        for layer, keys, values in zip(encoder.layers, silence.keys, silence.values, strict=True):
            hidden = _layer(layer, hidden, keys[:, positions:], values[:, positions:])[0]
        return encoder.layer_norm(hidden)


@torch.no_grad()
def encode_silence(encoder) -> Silence:
    """One pass over a window of nothing but silence."""
    parameter, bands = next(encoder.parameters()), encoder.conv1.in_channels
    positions = encoder.embed_positions.weight.shape[0]
    features = torch.full((1, bands, 2 * positions), LEVEL).to(parameter.device, parameter.dtype)
    keys, values = [], []
    with fast_linears():
        hidden = _stem(encoder, features)
        for layer in encoder.layers:
            hidden, key, value = _layer(layer, hidden)
            keys.append(key[0].contiguous())
            values.append(value[0].contiguous())
        states = encoder.layer_norm(hidden)[0]
    return Silence(tuple(keys), tuple(values), states)


def _stem(encoder, features: Tensor) -> Tensor:
    """(clips, positions, width): two convolutions, and where each position is."""
    hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
    return hidden + encoder.embed_positions.weight[: hidden.shape[1]]


def _layer(
    layer, hidden: Tensor, silent_keys: Tensor | None = None, silent_values: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's output, and its keys and values (clips, heads, positions, head width)."""
    attention = layer.self_attn
    shape = (*hidden.shape[:2], attention.num_heads, attention.head_dim)
    normed = layer.self_attn_layer_norm(hidden)
    query, keys, values = (project(normed).view(shape).transpose(1, 2) for project in
                           (attention.q_proj, attention.k_proj, attention.v_proj))
    if silent_keys is None:
        found = F.scaled_dot_product_attention(query, keys, values)
    else:
        found = attend_with_silence(query, keys, values, silent_keys, silent_values)
    hidden = hidden + attention.out_proj(found.transpose(1, 2).flatten(2))
    inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
    return hidden + layer.fc2(inner), keys, values


def attend_with_silence(
    query: Tensor, keys: Tensor, values: Tensor, silent_keys: Tensor, silent_values: Tensor
) -> Tensor:
    """Attention over a clip's own keys and then those of silence, which all clips share.

    Args:
        query, keys, values: (clips, heads, positions, head width).
        silent_keys, silent_values: (heads, rest, head width).

    Returns:
        (clips, heads, positions, head width)
    """
    clips = len(query)
    every_key, every_value = (
        torch.cat([own, silent.expand(clips, *silent.shape)], 2)
        for own, silent in ((keys, silent_keys), (values, silent_values)))
    return F.scaled_dot_product_attention(query, every_key, every_value)
