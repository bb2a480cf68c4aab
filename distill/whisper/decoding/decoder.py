"""Whisper's decoder for inference: caches of fixed size, sequences of different lengths in a batch.

    decoder = Decoder(model)                      # float, shares the model's weights
    decoder = Decoder(model, int8=True)           # an int8 copy, for CPUs
    cache = decoder.cache(states)                 # cross-attention keys and values, once a window
    hidden = decoder(tokens, starts, cache)       # (slots, T, width), any T
    logits = decoder.logits(hidden[:, -1])

Each sequence has its own length. A pass writes its keys and values at each sequence's own
positions, and attention sees only what is at and before a token. So nothing is copied or moved when
sequences grow by different numbers of tokens, and going back costs nothing: what is beyond a
sequence's end is never seen. When a sequence is done, the one of the last slot moves to its slot,
and another sequence may begin in the free slot.

Encoder states of short clips are fewer than the encoder has positions. Given `silence`, what those
positions hold in a window of silence, all slots see it behind their own frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.whisper.decoding.attention import LENGTHS, FloatAttention, IntegerAttention
from distill.whisper.decoding.cache import Cache
from distill.whisper.decoding.output.shortlist import RoughLogits, Shortlist, most_rows
from distill.whisper.encoder.level import EVERY
from distill.whisper.encoder.silence import first_behind
from distill.whisper.linear import fused_layer, make_layer

_FEW = 1  # slots: so many hold the silence behind them themselves, which one kernel reads faster


class Decoder:
    """The decoder of a WhisperForConditionalGeneration, in evaluation mode.

    Args:
        model: in float, its weights are used as they are, not copied.
        int8: copy the linear layers and the output layer to int8 (CPU only).
        same_bits: with int8, results do not depend on the other tokens of a pass, bit for bit
            (`IntegerAttention`); drafts do not need this.
        share_weights_with: another decoder; its embeddings, positions and output layer are used
            where they are equal, as in a student that was trained without changing them.
        silence: (positions, width) encoder states of silence; those of short clips go on with
            them. None takes the states as they are.

    Raises:
        ValueError: int8 is not possible here.
    """

    def __init__(self, model, int8: bool = False, same_bits: bool = True,
                 share_weights_with: Decoder | None = None, silence: Tensor | None = None):
        inner, other = model.model.decoder, share_weights_with
        self.config, self.int8 = model.config, int8
        self.context = model.config.max_target_positions
        self.heads = model.config.decoder_attention_heads
        self.embeddings = _kept(inner.embed_tokens.weight, other and other.embeddings, int8)
        self.positions = _kept(inner.embed_positions.weight, other and other.positions, int8)
        self.norm = _Norm(inner.layer_norm, int8)
        same_bits = int8 and same_bits
        self.layers = [_Layer(layer, self.heads, int8, same_bits) for layer in inner.layers]
        shares = other is not None and other.int8 == int8
        if shares and _is_equal(model.proj_out.weight, other.embeddings):
            self.output, self._output_of = other.output, other
        else:
            self.output, self._output_of = make_layer(model.proj_out, int8), None
        self._output_weight = None if int8 else model.proj_out.weight
        self._shortlist: Shortlist | None = None
        self.silence = silence
        self._buffers: Cache | None = None

    def cache(self, states: Tensor) -> Cache:
        """A cache for a batch of encoder states (slots, frames, width), filled with these."""
        cache = self.allocate_cache(states, len(states))
        self.fill_cross_attention(cache, states)
        return cache

    @torch.inference_mode()
    def allocate_cache(self, states: Tensor, slots: int, beside: int = 0) -> Cache:
        """An empty cache of so many slots, for encoder states of the length and type of `states`,
        with room for `beside` other texts of their audio.

        A decoder has one cache at a time: the memory of the last one is used again.
        """
        _, frames, width = states.shape
        kept = self._num_kept(frames)
        every = len(self._silent_states) if kept and slots <= _FEW else 0
        held = every + frames
        cache = self._buffers and self._buffers.part(slots, held, beside)
        if cache is None:
            self._buffers = None  # frees the old memory before the new one is allocated
            self._buffers = self._allocate(states, slots, held, width, beside)
            cache = self._buffers.part(slots, held, beside)
        cache.frames = frames
        if kept:
            cache.silent_weight = self._converted(torch.zeros(1, 1, 1, kept + frames))
            cache.silent_weight[..., :kept] = math.log((len(self.silence) - frames) / kept)
        if every:
            self._hold_silence(cache, kept)
        elif kept:
            cache.rest = [tuple(part[:, -kept:] for part in parts) for parts in self._silent_parts]
        self._buffers.is_silent = every > 0
        return cache

    def _num_kept(self, frames: int) -> int:
        """Positions of silence that are kept behind so many frames."""
        behind = 0 if self.silence is None else len(self.silence) - frames
        return len(self._silent_states) - first_behind(frames) if behind > 0 else 0

    def _hold_silence(self, cache: Cache, kept: int) -> None:
        """Each slot begins with all of the silence; of it, the last positions are seen. So it is
        written once, however long the clips are that follow it."""
        every = len(self._silent_states)
        if not self._buffers.is_silent:
            for buffers, parts in zip(cache.cross_attention, self._silent_parts, strict=True):
                for buffer, part in zip(buffers, parts, strict=True):
                    buffer[:, :, :every] = part
        cache.cross_attention = [tuple(buffer[:, :, every - kept :] for buffer in buffers)
                                 for buffers in cache.cross_attention]

    def _allocate(self, states: Tensor, slots: int, frames: int, width: int, beside: int) -> Cache:
        like = self._converted(states[:0])

        def allocate(rows: int, length: int) -> list[tuple[Tensor, ...]]:
            shape = (rows, self.heads, length, width // self.heads)
            return [layer.attention.allocate(shape, like) for layer in self.layers]

        return Cache(allocate(slots + beside, self.context), allocate(slots, frames), 0, frames)

    def free_cache(self) -> None:
        """Free the memory that the next cache would use again."""
        self._buffers = None

    @property
    def _silent_states(self) -> Tensor:
        """(kept positions, width), every EVERY-th as in the encoder. The mean of neighbours is
        further from all of them."""
        return self.silence[EVERY // 2 :: EVERY]

    @cached_property
    def _silent_parts(self) -> list[tuple[Tensor, ...]]:
        """Of each layer, what a cache holds of silence: (heads, kept positions)."""
        states = self._converted(self._silent_states)
        return [layer.cross_parts(states) for layer in self.layers]

    @torch.inference_mode()
    def fill_cross_attention(self, cache: Cache, states: Tensor) -> None:
        """Write keys and values of encoder states (slots, frames, width) to the next slots."""
        states, first = self._converted(states), cache.num_used
        for layer, buffers in zip(self.layers, cache.cross_attention, strict=True):
            for slot, each in enumerate(states, first):
                # one slot at a time: intermediate results stay in the processor's cache
                for buffer, part in zip(buffers, layer.cross_parts(each), strict=True):
                    buffer[slot, :, -cache.frames :] = part
        cache.add(len(states))

    def _converted(self, states: Tensor) -> Tensor:
        dtype = torch.float32 if self.int8 else self.embeddings.dtype
        return states.to(self.embeddings.device, dtype)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, starts: Sequence[int], cache: Cache) -> Tensor:
        """Last decoder states, after the final norm.

        Args:
            tokens: (slots, T) ids; tokens beyond the context are computed at its last position,
                and their states mean nothing. Behind the slots are the cache's other texts.
            starts: position of each slot's first token here.

        Returns:
            (slots, T, width)
        """
        at = _Pass(starts, tokens, cache, self.context)
        cache.num_read[0] = max(cache.num_read[0], at.end)
        hidden = F.embedding(tokens, self.embeddings) + self.positions[at.positions]
        hidden = hidden.flatten(0, 1)  # linear layers and norms take (rows, width)
        rests = cache.rest or [None] * len(self.layers)
        for layer, tokens_cache, audio_cache, rest in zip(
                self.layers, cache.self_attention, cache.cross_attention, rests, strict=True):
            hidden = layer(hidden, at, tokens_cache, audio_cache, rest, cache.silent_weight)
        return self.norm(hidden).view(*tokens.shape, -1)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits (rows, vocabulary) of states (rows, width)."""
        return self.output(hidden).float()

    @torch.inference_mode()
    def rough_logits(self, hidden: Tensor) -> RoughLogits | None:
        """The same for a choice of the largest (`decoding.output.shortlist`); None where that would
        not be faster."""
        if len(hidden) > most_rows() or (shortlist := self.shortlist()) is None:
            return None
        return shortlist(hidden)

    def shortlist(self) -> Shortlist | None:
        """Of the output layer as it is now; made when it is first asked for."""
        if self._output_of is not None:
            return self._output_of.shortlist()
        if self._output_weight is None:
            return None
        if self._shortlist is None or not self._shortlist.is_of(self._output_weight):
            self._shortlist = Shortlist.of(self._output_weight)
        return self._shortlist


def synchronise(device: torch.device) -> None:
    """Wait for a GPU, whose pass has only been queued when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _kept(weight: Tensor, other: Tensor | None, copied: bool) -> Tensor:
    """`other` if it is equal; else the weight or, if `copied`, a copy of it.

    A copy is needed if the rest of the model is not kept: the weights of a file share one piece of
    memory, and a single tensor would keep all of it.
    """
    if other is not None and _is_equal(weight, other):
        return other
    return weight.detach().clone() if copied else weight


def _is_equal(weight: Tensor, other: Tensor) -> bool:
    return weight.dtype == other.dtype and torch.equal(weight, other)


class _Pass:
    """Where the tokens of a pass are: `positions` (slots, T), a mask of what each may see of its
    text, and whose audio the other texts beside the slots hear."""

    def __init__(self, starts: Sequence[int], tokens: Tensor, cache: Cache, context: int):
        (self.num_rows, count), device = tokens.shape, tokens.device
        self.num_slots, self.beside = len(starts) - len(cache.beside), cache.beside
        end = -(-(max(starts) + count) // LENGTHS) * LENGTHS  # rounded up
        self.end = min(end, context)
        first = torch.tensor(starts, device=device)[:, None]
        self.positions = (first + torch.arange(count, device=device)).clamp_(max=context - 1)
        # all slots at the same position: a plain slice, which is faster
        even = min(starts) == max(starts) and max(starts) + count <= context
        self.slice = slice(starts[0], starts[0] + count) if even else None
        self.slots = torch.arange(self.num_rows, device=device)[:, None]
        seen = torch.arange(self.end, device=device)
        self.mask = (seen <= self.positions[..., None])[:, None]

    def write(self, buffer: Tensor, new: Tensor) -> Tensor:
        """Write (slots, heads, T, ...) at their positions.

        Returns:
            the buffer's slots in use, up to the end of the longest sequence.
        """
        if self.slice is not None:
            buffer[: self.num_rows, :, self.slice] = new
        else:
            buffer[self.slots, :, self.positions] = new.transpose(1, 2)
        return buffer[: self.num_rows, :, : self.end]


class _Layer:
    """One decoder layer: self-attention, cross-attention, and the two linear layers."""

    def __init__(self, layer, heads: int, int8: bool, same_bits: bool):
        to_tokens, to_audio = layer.self_attn, layer.encoder_attn
        self.heads = heads
        self.attention = IntegerAttention if same_bits else FloatAttention
        self.qkv = fused_layer([to_tokens.q_proj, to_tokens.k_proj, to_tokens.v_proj], int8)
        self.out = make_layer(to_tokens.out_proj, int8)
        self.cross_query = make_layer(to_audio.q_proj, int8)
        self.cross_key, self.cross_value = (make_layer(m, int8)
                                            for m in (to_audio.k_proj, to_audio.v_proj))
        self.cross_out = make_layer(to_audio.out_proj, int8)
        self.fc1, self.fc2 = make_layer(layer.fc1, int8), make_layer(layer.fc2, int8)
        self.activation = layer.activation_fn
        self.norms = [_Norm(norm, int8) for norm in (
            layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)]

    def cross_parts(self, states: Tensor) -> tuple[Tensor, ...]:
        """Cross-attention cache of a window's states (frames, width); shapes begin with
        (heads, frames)."""
        keys, values = (project(states).view(len(states), self.heads, -1).transpose(0, 1)
                        for project in (self.cross_key, self.cross_value))
        return self.attention.parts(keys, values)

    def __call__(self, hidden: Tensor, at: _Pass, tokens_cache: tuple, audio_cache: tuple,
                 rest: tuple | None, silent_weight: Tensor | None) -> Tensor:
        """States (slots * T, width) after the layer, of states before it; writes to the first of
        the two caches."""
        query, key, value = (_by_head(part, at.num_rows, self.heads)
                             for part in self.qkv(self.norms[0](hidden)).chunk(3, -1))
        parts = tuple(at.write(buffer, new) for buffer, new in
                      zip(tokens_cache, self.attention.parts(key, value), strict=True))
        hidden = hidden + self.out(_by_row(self.attention.attend(query, parts, at.mask)))
        query = self.cross_query(self.norms[1](hidden))
        parts = tuple(part[: at.num_slots] for part in audio_cache)
        is_shared = at.num_slots == 1  # all rows hear the same, which is read once
        query = _by_head(query, 1 if is_shared else at.num_rows, self.heads)
        found = self.attention.attend(query, parts, silent_weight, rest,
                                      () if is_shared else at.beside)
        hidden = hidden + self.cross_out(_by_row(found))
        inner = self.activation(self.fc1(self.norms[2](hidden)))
        return hidden + self.fc2(inner)


def _by_head(found: Tensor, num_rows: int, heads: int) -> Tensor:
    """(slots, heads, T, head width) of (slots * T, width)."""
    return found.view(num_rows, -1, heads, found.shape[-1] // heads).transpose(1, 2)


def _by_row(found: Tensor) -> Tensor:
    """(slots * T, width) of (slots, heads, T, head width)."""
    return found.transpose(1, 2).flatten(2).flatten(0, 1)


class _Norm:
    def __init__(self, norm: nn.LayerNorm, copied: bool):
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = (_kept(part, None, copied) for part in (norm.weight, norm.bias))

    def __call__(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, self.shape, self.weight, self.bias, self.eps)
