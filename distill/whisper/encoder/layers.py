"""The layers of transformers' WhisperEncoder, over a part of its positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def stem(encoder: Any, features: Tensor) -> Tensor:
    """(clips, positions, width): two convolutions, and where each position is."""
    hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
    return (hidden + encoder.embed_positions.weight[: hidden.shape[1]]).contiguous()


def run_layer(
    layer: Any, hidden: Tensor,
    silent: tuple[Tensor, Tensor] | None = None, log_weight: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's output, and its keys and values (clips, heads, positions, head width).

    Args:
        silent, log_weight: of silence behind the positions, see `attend_with_silence`.
    """
    attention = layer.self_attn
    shape = (*hidden.shape[:2], attention.num_heads, attention.head_dim)
    normed = layer.self_attn_layer_norm(hidden)
    query, keys, values = (project(normed).view(shape).transpose(1, 2) for project in
                           (attention.q_proj, attention.k_proj, attention.v_proj))
    if silent is None:
        found = F.scaled_dot_product_attention(query, keys, values)
    else:
        found = attend_with_silence(query, keys, values, *silent, log_weight)
    hidden = hidden + attention.out_proj(found.transpose(1, 2).flatten(2))
    inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
    return hidden + layer.fc2(inner), keys, values


def attend_with_silence(
    query: Tensor, keys: Tensor, values: Tensor, silent_keys: Tensor, silent_values: Tensor,
    log_weight: float = 0.0,
) -> Tensor:
    """Attention over a clip's own keys and then those of silence, which all clips share.

    Args:
        query, keys, values: (clips, heads, positions, head width).
        silent_keys, silent_values: (heads, rest, head width).
        log_weight: added to the logits of silence: each of its keys stands for exp(log_weight).

    Returns:
        (clips, heads, positions, head width)
    """
    learns = torch.is_grad_enabled() and query.requires_grad  # below, half of a gradient is lost
    if query.device.type != "cpu" or learns:
        clips = len(query)
        every_key, every_value = (
            torch.cat([own, silent.expand(clips, *silent.shape)], 2)
            for own, silent in ((keys, silent_keys), (values, silent_values)))
        weights = query.new_zeros(every_key.shape[2])
        weights[keys.shape[2] :] = log_weight
        return F.scaled_dot_product_attention(query, every_key, every_value, weights[None])
    clips, heads, positions, size = query.shape
    found, log_sums = _attend(query, keys, values)
    folded = query.transpose(0, 1).reshape(1, heads, clips * positions, size)
    silent = (each[None].to(query.dtype) for each in (silent_keys, silent_values))  # autocast
    rest, rest_log_sums = _attend(folded, *silent)
    rest = rest.view(heads, clips, positions, size).transpose(0, 1)
    rest_log_sums = rest_log_sums.view(heads, clips, positions).transpose(0, 1) + log_weight
    share = torch.sigmoid(log_sums.view(clips, heads, positions) - rest_log_sums)
    return rest.lerp(found, share[..., None].to(found.dtype))


def _attend(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention on CPUs, and the logarithm of each query's sum of weights, by which two parts can
    be joined: twice as fast as one attention over copies of the shared part."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values)
