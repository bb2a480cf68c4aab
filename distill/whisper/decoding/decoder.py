"""Whisper's decoder for inference: caches of fixed size, rows of different lengths in one batch.

    decoder = Decoder(model)                      # float, shares the model's weights
    decoder = Decoder(model, int8=True)           # an int8 copy, for CPUs
    cache = decoder.cache(states)                 # cross-attention keys and values, once a window
    hidden = decoder(tokens, starts, cache)       # (rows, T, width); any T, each row at its place
    scores = decoder.scores(hidden[:, -1])

Each row has its own length. A pass writes its keys and values at the rows' own places, and a row
sees what is before them: nothing is copied or moved when rows grow by different numbers of tokens,
and what is beyond a row's end is never seen, so going back costs nothing. When a row is done, the
last one takes its slot, and another may begin in the one that is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.whisper.decoding.attention import LENGTHS, FloatAttention, IntegerAttention
from distill.whisper.decoding.linear import fused_layer, make_layer


@dataclass
class Cache:
    """Keys and values of a batch; per layer what `distill.whisper.decoding.attention` keeps of
    them.

    Attributes:
        own: of the tokens read so far; tensors begin with (slots, heads, positions).
        cross: of the audio.
        num_rows: slots in use, the first ones.
    """

    own: list[tuple[Tensor, ...]]
    cross: list[tuple[Tensor, ...]]
    num_rows: int

    def remove(self, slot: int) -> None:
        """Free a slot; the row of the last slot moves there."""
        last = self.num_rows - 1
        if slot != last:
            for part in self._parts():
                part[slot] = part[last]
        self.num_rows = last

    def slots(self, first: int, count: int) -> Cache:
        """Some of the slots, in the same memory."""
        def cut(layers: list) -> list:
            return [tuple(part[first : first + count] for part in parts) for parts in layers]

        return Cache(cut(self.own), cut(self.cross), count)

    def row(self, slot: int) -> Cache:
        """A cache for one row alone: the same audio, nothing read yet."""
        own = [tuple(torch.zeros_like(part[:1]) for part in parts) for parts in self.own]
        cross = [tuple(part[slot : slot + 1] for part in parts) for parts in self.cross]
        return Cache(own, cross, 1)

    def holds(self, rows: int, frames: int) -> bool:
        """Whether there is room for a batch."""
        return self.cross[0][0].shape[2] == frames and len(self.cross[0][0]) >= rows

    @property
    def num_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self._parts())

    def _parts(self) -> list[Tensor]:
        return [part for parts in [*self.own, *self.cross] for part in parts]


class Decoder:
    """The decoder of a WhisperForConditionalGeneration, in evaluation mode.

    Args:
        model: in float, its weights are used as they are, not copied.
        int8: copy the linear layers and the output layer to int8 (CPU only).
        same_bits: with int8, attend so that results do not depend on the other tokens of a pass;
            drafts need not.

        beside: another decoder, whose embeddings, positions and output layer are used where they
            are equal: those of a student that was not to change them.

    Raises:
        ValueError: int8 is not possible here.
    """

    def __init__(self, model, int8: bool = False, same_bits: bool = True,
                 beside: Decoder | None = None):
        inner = model.model.decoder
        self.config, self.int8 = model.config, int8
        self.context = model.config.max_target_positions
        self.heads = model.config.decoder_attention_heads
        self.embeddings = _kept(inner.embed_tokens.weight, beside and beside.embeddings, int8)
        self.positions = _kept(inner.embed_positions.weight, beside and beside.positions, int8)
        self.norm = _Norm(inner.layer_norm, int8)
        same_bits = int8 and same_bits
        self.layers = [_Layer(layer, self.heads, int8, same_bits) for layer in inner.layers]
        shares = beside is not None and beside.int8 == int8
        if shares and _is_equal(model.proj_out.weight, beside.embeddings):
            self.output = beside.output
        else:
            self.output = make_layer(model.proj_out, int8)
        self._buffers: Cache | None = None

    def cache(self, states: Tensor) -> Cache:
        """A cache for a batch of encoder states (rows, frames, width), which it has heard."""
        cache = self.room(states, len(states))
        self.listen(cache, states)
        return cache

    @torch.inference_mode()
    def room(self, states: Tensor, rows: int) -> Cache:
        """A cache with room for so many rows of the length and type of `states`, none in it yet.

        A decoder has one cache at a time: the memory of the last one is used again.
        """
        _, frames, width = states.shape
        states = self._placed(states[:0])
        if self._buffers is None or not self._buffers.holds(rows, frames):
            def room(length: int) -> list[tuple[Tensor, ...]]:
                shape = (rows, self.heads, length, width // self.heads)
                return [layer.attention.room(shape, states) for layer in self.layers]

            self._buffers = None  # the old ones go before the new ones come
            self._buffers = Cache(room(self.context), room(frames), rows)
        cache = self._buffers.slots(0, rows)
        cache.num_rows = 0
        return cache

    @torch.inference_mode()
    def listen(self, cache: Cache, states: Tensor) -> None:
        """Give the next slots the cross-attention of encoder states (rows, frames, width)."""
        states, first = self._placed(states), cache.num_rows
        for layer, buffers in zip(self.layers, cache.cross, strict=True):
            for row, each in enumerate(states, first):
                # one at a time: what lies between stays in the processor
                for buffer, part in zip(buffers, layer.cross(each), strict=True):
                    buffer[row] = part
        cache.num_rows += len(states)

    def _placed(self, states: Tensor) -> Tensor:
        dtype = torch.float32 if self.int8 else self.embeddings.dtype
        return states.to(self.embeddings.device, dtype)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, starts: Sequence[int], cache: Cache) -> Tensor:
        """Last decoder states, after the final norm.

        Args:
            tokens: (rows, T) ids; what is beyond the context is computed at its last place, and
                means nothing.
            starts: the place of each row's first token here.

        Returns:
            (rows, T, width)
        """
        places = _Places(starts, tokens.shape[1], self.context, tokens.device)
        hidden = F.embedding(tokens, self.embeddings) + self.positions[places.positions]
        hidden = hidden.flatten(0, 1)  # linear layers and norms go by the row
        for layer, own, cross in zip(self.layers, cache.own, cache.cross, strict=True):
            hidden = layer(hidden, places, own, cross)
        return self.norm(hidden).view(*tokens.shape, -1)

    @torch.inference_mode()
    def scores(self, hidden: Tensor) -> Tensor:
        """float32 logits (rows, vocabulary) of states (rows, width)."""
        return self.output(hidden).float()


def _kept(weight: Tensor, other: Tensor | None, copied: bool) -> Tensor:
    """`other` where it is equal; a copy where the rest of the model is not kept: weights of a file
    share one piece of memory, of which a single tensor would keep all."""
    if other is not None and _is_equal(weight, other):
        return other
    return weight.detach().clone() if copied else weight


def _is_equal(weight: Tensor, other: Tensor) -> bool:
    return weight.dtype == other.dtype and torch.equal(weight, other)


class _Places:
    """Where the tokens of a pass are: `positions` (rows, T), and what each may see."""

    def __init__(self, starts: Sequence[int], count: int, context: int, device: torch.device):
        self.rows, self.count = len(starts), count
        end = -(-(max(starts) + count) // LENGTHS) * LENGTHS  # rounded up
        self.end = min(end, context)
        first = torch.tensor(starts, device=device)[:, None]
        self.positions = (first + torch.arange(count, device=device)).clamp_(max=context - 1)
        # all rows at the same place: a plain slice, which is faster
        even = min(starts) == max(starts) and max(starts) + count <= context
        self.slice = slice(starts[0], starts[0] + count) if even else None
        self.slots = torch.arange(self.rows, device=device)[:, None]
        seen = torch.arange(self.end, device=device)
        self.mask = (seen <= self.positions[..., None])[:, None]

    def write(self, buffer: Tensor, new: Tensor) -> Tensor:
        """Put (rows, heads, T, ...) at their places; what there is up to the end of all."""
        if self.slice is not None:
            buffer[: self.rows, :, self.slice] = new
        else:
            buffer[self.slots, :, self.positions] = new.transpose(1, 2)
        return buffer[: self.rows, :, : self.end]


class _Layer:
    def __init__(self, layer, heads: int, int8: bool, same_bits: bool):
        own, cross = layer.self_attn, layer.encoder_attn
        self.heads = heads
        self.attention = IntegerAttention if same_bits else FloatAttention
        self.qkv = fused_layer([own.q_proj, own.k_proj, own.v_proj], int8)
        self.out = make_layer(own.out_proj, int8)
        self.cross_query = make_layer(cross.q_proj, int8)
        self.cross_key, self.cross_value = (make_layer(m, int8)
                                            for m in (cross.k_proj, cross.v_proj))
        self.cross_out = make_layer(cross.out_proj, int8)
        self.fc1, self.fc2 = make_layer(layer.fc1, int8), make_layer(layer.fc2, int8)
        self.activation = layer.activation_fn
        self.norms = [_Norm(norm, int8) for norm in (
            layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)]

    def cross(self, states: Tensor) -> tuple[Tensor, ...]:
        """What is kept of a window's states (frames, width); tensors begin with (heads, frames)."""
        keys, values = (project(states).view(len(states), self.heads, -1).transpose(0, 1)
                        for project in (self.cross_key, self.cross_value))
        return self.attention.parts(keys, values)

    def __call__(self, hidden: Tensor, places: _Places, own: tuple, cross: tuple) -> Tensor:
        shape = (places.rows, places.count, self.heads, -1)
        query, key, value = (part.view(shape).transpose(1, 2)
                             for part in self.qkv(self.norms[0](hidden)).chunk(3, -1))
        parts = tuple(places.write(buffer, new) for buffer, new in
                      zip(own, self.attention.parts(key, value), strict=True))
        heard = self.attention.attend(query, parts, places.mask)
        hidden = hidden + self.out(heard.transpose(1, 2).flatten(2).flatten(0, 1))
        query = self.cross_query(self.norms[1](hidden)).view(shape).transpose(1, 2)
        parts = tuple(part[: places.rows] for part in cross)
        heard = self.attention.attend(query, parts, None)
        hidden = hidden + self.cross_out(heard.transpose(1, 2).flatten(2).flatten(0, 1))
        inner = self.activation(self.fc1(self.norms[2](hidden)))
        return hidden + self.fc2(inner)


class _Norm:
    def __init__(self, norm: nn.LayerNorm, copied: bool):
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = (_kept(part, None, copied) for part in (norm.weight, norm.bias))

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.shape, self.weight, self.bias, self.eps)
