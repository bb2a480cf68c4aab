"""What an encoder makes of the silence behind speech, computed once: the rest of every short clip.

    silence = silence_of(model.get_encoder())       # kept beside the encoder
    silence.behind(150)     # keys and values of every layer that a clip of 150 positions sees

Whisper hears windows of 30 s, of which a clip fills the beginning and silence the rest. That rest
is nearly the same for every clip: what its positions learn from a clip is mostly that there was
speech. So its keys and values in every layer of the encoder, and its states, which the decoder
looks at, are constants: the mean of those behind a few recorded voices
(docs/guides/short-audio.md has a drawing and what that costs).

Of keys and values every EVERY-th is kept and counts as often, which is log(EVERY) more in the
logit. States, which the decoder looks at, are all kept; decoding takes every EVERY-th.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.packaged.wheels import cache_folder
from distill.losses.matmul import fast_linears
from distill.whisper.encoder.layers import run_layer, stem
from distill.whisper.encoder.lengths import POSITIONS_PER_SECOND
from distill.whisper.encoder.level import EVERY, LEVEL, LOUDEST
from distill.whisper.encoder.silence_cache import path_for, read, write

VOICES = Path(__file__).with_name("voices")  # some words each, in five languages
_MARGIN = 0.5  # seconds behind a voice that do not count: they hear its end


@dataclass(frozen=True)
class Silence:
    """Keys, values and states of silence.

    Attributes:
        keys, values: of each encoder layer, (heads, kept positions, head width); the n-th kept
            position is n * EVERY + EVERY // 2.
        states: (positions, width), after the last norm.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    states: Tensor

    def behind(self, positions: int) -> tuple[list[tuple[Tensor, Tensor]], float]:
        """Keys and values of each layer behind so many positions, and what is added to their
        logits, because each stands for several."""
        first = first_behind(positions)
        rest, kept = len(self.states) - positions, self.keys[0].shape[1] - first
        pairs = [(keys[:, first:], values[:, first:])
                 for keys, values in zip(self.keys, self.values, strict=True)]
        return pairs, math.log(rest / kept) if kept else 0.0

    @property
    def num_bytes(self) -> int:
        every = [*self.keys, *self.values, self.states]
        return sum(part.numel() * part.element_size() for part in every)


_State = tuple[tuple[int, torch.device, torch.dtype, int], ...]
_kept: weakref.WeakKeyDictionary[Module, tuple[_State, Silence]] = weakref.WeakKeyDictionary()


def silence_of(encoder: Any) -> Silence:
    """The silence of a WhisperEncoder, in its type and on its device.

    It is made at the first call (a pass of the encoder over six windows; read from the user's
    cache where it is known), and again when the weights have moved, or have been changed in place,
    as by an optimiser.
    """
    state = _state_of(encoder)
    known = _kept.get(encoder)
    if known is None or known[0] != state:
        known = state, _cached(encoder)
        _kept[encoder] = known
    return known[1]


def first_behind(positions: int) -> int:
    """Index of the first kept position that is behind so many positions."""
    return (positions - EVERY // 2 + EVERY - 1) // EVERY


def _state_of(encoder: Module) -> _State:
    """Changes when a weight is moved, replaced or written to."""
    return tuple((part.data_ptr(), part.device, part.dtype, part._version)
                 for part in encoder.parameters())


def _cached(encoder: Any) -> Silence:
    """`encode_silence`, from the disk if it is there."""
    path = path_for(encoder, _voices(VOICES), cache_folder() / "silence")
    found = None if path is None else read(path)
    if found is not None:
        layers = range(len(encoder.layers))
        return Silence(tuple(found[f"keys.{n}"] for n in layers),
                       tuple(found[f"values.{n}"] for n in layers), found["states"])
    silence = encode_silence(encoder)
    if path is not None:
        named = {f"{name}.{n}": part for name in ("keys", "values")
                 for n, part in enumerate(getattr(silence, name))}
        write(path, {**named, "states": silence.states})
    return silence


def _voices(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ogg"))


@torch.no_grad()
def encode_silence(encoder: Any) -> Silence:
    """One pass over windows of a few voices, the mean of what is silent in them."""
    parameter, bands = next(encoder.parameters()), encoder.conv1.in_channels
    positions = encoder.embed_positions.weight.shape[0]
    features, is_silent = _windows(VOICES, bands, positions)
    share = (is_silent / is_silent.sum(0))[:, None, :, None].to(parameter.device)
    keys, values = [], []
    # kept for all who ask: not in the type of the one who asked first
    with torch.autocast(parameter.device.type, enabled=False), fast_linears():
        hidden = stem(encoder, features.to(parameter.device, parameter.dtype))
        for layer in encoder.layers:
            hidden, key, value = run_layer(layer, hidden)
            keys.append(_mean(key, share)[:, EVERY // 2 :: EVERY].contiguous())
            values.append(_mean(value, share)[:, EVERY // 2 :: EVERY].contiguous())
        states = _mean(encoder.layer_norm(hidden)[:, None], share)[0]
    return Silence(tuple(keys), tuple(values), states)


def _mean(parts: Tensor, share: Tensor) -> Tensor:
    """(heads, positions, width) of (windows, heads, positions, width)."""
    return (parts * share).sum(0).to(parts.dtype)


@lru_cache(maxsize=1)
def _windows(folder: Path, bands: int, positions: int) -> tuple[Tensor, Tensor]:
    """Log-mel features of a few voices and of silence alone, (windows, bands, frames); and which of
    their positions count, bool (windows, positions). Silence alone counts where the first voices
    are still heard."""
    from transformers import WhisperFeatureExtractor

    audios = [load_audio(path) for path in _voices(folder)]
    found = WhisperFeatureExtractor(feature_size=bands)(
        audios, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
    found = (found + (LOUDEST - found.amax((1, 2), keepdim=True)))[..., : 2 * positions]
    ends = torch.tensor([len(audio) / SAMPLE_RATE + _MARGIN for audio in audios])
    is_silent = torch.arange(positions) >= POSITIONS_PER_SECOND * ends[:, None]
    alone = ~is_silent.any(0, keepdim=True)
    return torch.cat([torch.full_like(found[:1], LEVEL), found]), torch.cat([alone, is_silent])


def with_silence(
    states: Tensor | Sequence[Tensor], silence: Silence | None, frames: int | None = None
) -> Tensor:
    """(rows, frames, width): states of clips, each with those of the silence behind it.

    Args:
        states: (rows, frames, width), or (frames, width) of each row, of any lengths.
        silence: None where all rows are of one length, and stay so.
        frames: that every row has then; None: all positions.
    """
    is_even = isinstance(states, Tensor) or len({len(each) for each in states}) == 1
    wanted = frames or (0 if silence is None else len(silence.states))
    if is_even and len(states[0]) >= wanted:
        return states if isinstance(states, Tensor) else torch.stack(list(states))
    assert silence is not None, "rows of several lengths"
    rest = silence.states.to(states[0].device, states[0].dtype)
    if isinstance(states, Tensor):  # the batch is copied once
        behind = rest[states.shape[1] : wanted].expand(len(states), -1, -1)
        return torch.cat([states, behind], 1)
    return torch.stack([torch.cat([each, rest[len(each) : wanted]]) for each in states])
