"""Cross-attention of a batch of short clips, with gradients: the silence behind them is there once.

    with silence_shared(model.model.decoder, silence.states[frames:]):
        model.model.decoder(input_ids=..., encoder_hidden_states=states)   # (rows, frames, width)

Putting 26 s of silence behind every row, and its keys and values too, costs more than all the rest
of a step. Here keys and values of silence are projected once for the batch, and all rows' queries
look at the one copy.

A clip's own states need not become keys and values either: (W_k s) q = s (W_k' q), so with few
tokens it is cheaper to bring the queries to the states than the states to the queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@contextmanager
def silence_shared(decoder: Any, rest: Tensor) -> Iterator[None]:
    """Inside, each row's cross-attention sees its own encoder states, and then the rest.

    Args:
        decoder: transformers' WhisperDecoder. It may not compute its layers again while going
            backward (gradient checkpointing), which would happen outside.
        rest: (positions, width), states without a gradient.
    """
    modules = [layer.encoder_attn for layer in decoder.layers]
    for module in modules:
        module.forward = partial(_forward, module, rest)
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # that of its class is there again


def _forward(
    module: Any, rest: Tensor, hidden_states: Tensor, key_value_states: Tensor, **_unused: Any
) -> tuple[Tensor, None]:
    """As WhisperAttention.forward without a cache."""
    query = _heads(module, module.q_proj(hidden_states) * module.scaling)
    is_cpu = query.device.type == "cpu"
    if is_cpu and _is_cheaper_unprojected(module, query, key_value_states):
        rest_keys, rest_values = (_heads(module, project(rest[None]))
                                  for project in (module.k_proj, module.v_proj))
        found = _attend_states(module, query, key_value_states, rest_keys[0], rest_values[0])
    else:
        keys, rest_keys = _project(module, module.k_proj, key_value_states, rest)
        values, rest_values = _project(module, module.v_proj, key_value_states, rest)
        attend = _attend_apart if is_cpu else _attend_joined
        found = attend(query, keys, values, rest_keys, rest_values)
    return module.out_proj(found.transpose(1, 2).flatten(2)), None


def _project(module: Any, project: Any, states: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Of the rows, (rows, heads, frames, head width), and of the rest, (1, heads, ...).

    In one call: ranks of ZeRO-3 have to call the same modules in the same order, and on another
    one there may be no rest.
    """
    sizes = [states.shape[0] * states.shape[1], len(rest)]
    own, behind = project(torch.cat([states.flatten(0, 1), rest])).split(sizes)
    return _heads(module, own.unflatten(0, states.shape[:2])), _heads(module, behind[None])


def _attend_joined(
    query: Tensor, keys: Tensor, values: Tensor, rest_keys: Tensor, rest_values: Tensor
) -> Tensor:
    """(rows, heads, T, head width) by one fused attention, the fastest on GPUs."""
    keys, values = (torch.cat([own, rest.expand(len(query), -1, -1, -1)], 2)
                    for own, rest in ((keys, rest_keys), (values, rest_values)))
    return F.scaled_dot_product_attention(query, keys, values, scale=1.0)


def _attend_apart(
    query: Tensor, keys: Tensor, values: Tensor, rest_keys: Tensor, rest_values: Tensor
) -> Tensor:
    """The same, without a copy of the rest for every row."""
    weights = _weights(query @ keys.mT, query, rest_keys[0])
    own, behind = weights.split([keys.shape[2], rest_keys.shape[2]], -1)
    return own @ values + _shared(behind, rest_values[0])


def _attend_states(
    module: Any, query: Tensor, states: Tensor, rest_keys: Tensor, rest_values: Tensor
) -> Tensor:
    """(rows, heads, T, head width), without keys and values of the rows' own states."""
    rows, heads, length, _ = query.shape
    width = states.shape[-1]
    by_head = (heads, module.head_dim, width)
    # of each head, what its queries look for among the states: (heads, rows * T, width)
    wanted = query.transpose(0, 1).flatten(1, 2) @ module.k_proj.weight.view(by_head)
    wanted = wanted.view(heads, rows, length, width).transpose(0, 1).flatten(1, 2)
    logits = (wanted @ states.mT).view(rows, heads, length, -1)
    weights = _weights(logits, query, rest_keys)
    own, behind = weights.split([states.shape[1], rest_keys.shape[1]], -1)
    seen = (own.flatten(1, 2) @ states).view(rows, heads, length, width)
    seen = seen.transpose(0, 1).flatten(1, 2) @ module.v_proj.weight.view(by_head).mT
    # the projection adds its bias to every value: as much of it as there is weight here
    bias = module.v_proj.bias.view(heads, 1, -1) * own.sum(-1, keepdim=True)
    return seen.view(heads, rows, length, -1).transpose(0, 1) + bias + _shared(behind, rest_values)


def _weights(logits: Tensor, query: Tensor, rest_keys: Tensor) -> Tensor:
    """(rows, heads, T, positions and the rest), from the logits of the rows' own positions."""
    return torch.cat([logits, _shared(query, rest_keys.mT)], -1).softmax(-1)


def _shared(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (rows, heads, T, n) @ matrix (heads, n, m), as one product a head."""
    found = rows.transpose(0, 1).flatten(1, 2) @ matrix
    return found.unflatten(1, rows.shape[::2]).transpose(0, 1)


def _is_cheaper_unprojected(module: Any, query: Tensor, states: Tensor) -> bool:
    """Fewer multiplications; never with states that learn, or weights that ZeRO-3 has cut, which
    come at a call of their module."""
    _, heads, length, head_width = query.shape
    _, frames, width = states.shape
    is_cut = any(hasattr(weight, "ds_id") for weight in module.k_proj.parameters())
    return (not is_cut and not states.requires_grad
            and heads * length * (head_width + frames) < frames * width)


def _heads(module: Any, projected: Tensor) -> Tensor:
    """(rows, positions, width) -> (rows, heads, positions, head width)."""
    return projected.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
