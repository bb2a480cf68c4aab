"""Clips -> encoder states, each clip at its own length where the model allows it.

    states = encode_audio(model, processor, audios)      # (clips, frames, width)

A model allows it if its config has `short_audio: {margin_seconds: 1.0}`. Then `frames` is that of
the longest clip, and what follows is silence, which everything that reads states puts behind them:
`decoding.Decoder` by itself, the decoder of transformers after `complete`. Without that entry every
clip is padded to 30 s, and `frames` is 1,500.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.audio import SAMPLE_RATE
from distill.whisper.encoder.layer_means import Listener
from distill.whisper.encoder.lengths import margin_of, positions_of
from distill.whisper.encoder.level import LEVEL
from distill.whisper.encoder.padded import encode_padded, log_mel
from distill.whisper.encoder.short import encode_short, short_features
from distill.whisper.encoder.silence import Silence, silence_of, with_silence


@dataclass(frozen=True)
class AudioFeatures:
    """Log-mel features of clips, those of one length together.

    Attributes:
        groups: (clips, by their index; positions, None if padded; float32 (clips, bands, frames)).
        num_clips: in all groups.
    """

    groups: list[tuple[list[int], int | None, Tensor]]
    num_clips: int

    @property
    def positions(self) -> list[int | None]:
        """Of each clip; None if it is padded."""
        found: list[int | None] = [None] * self.num_clips
        for clips, positions, _ in self.groups:
            for clip in clips:
                found[clip] = positions
        return found

    def to(self, *arguments: Any, **options: Any) -> AudioFeatures:
        """As `Tensor.to`: batches of training are moved by it."""
        return AudioFeatures([(clips, positions, each.to(*arguments, **options))
                              for clips, positions, each in self.groups], self.num_clips)

    def split(self, size: int) -> list[AudioFeatures]:
        """Parts of up to `size` clips, in order of their index."""
        parts = []
        for first in range(0, self.num_clips, size):
            wanted = range(first, min(first + size, self.num_clips))
            groups = []
            for clips, positions, features in self.groups:
                at = [n for n, clip in enumerate(clips) if clip in wanted]
                if at:
                    groups.append(([clips[n] - first for n in at], positions, features[at]))
            parts.append(AudioFeatures(groups, len(wanted)))
        return parts

    def padded(self, clips: Sequence[int]) -> AudioFeatures:
        """Some of the clips, padded to 30 s."""
        found = [torch.empty(0)] * len(clips)
        for group, positions, features in self.groups:
            rest = 0 if positions is None else 2 * positions_of(0.0, None) - features.shape[-1]
            for clip, each in zip(group, features, strict=True):
                if clip in clips:
                    found[clips.index(clip)] = F.pad(each, (0, rest), value=LEVEL)
        return all_padded(torch.stack(found))

    @property
    def short(self) -> set[int]:
        """Clips that are not padded."""
        return {clip for clips, positions, _ in self.groups if positions is not None
                for clip in clips}


def audio_features(
    processor: Any, audios: Sequence[np.ndarray], margin: float | None
) -> AudioFeatures:
    """Features of 16 kHz mono audio of up to 30 s each.

    Args:
        margin: see `margin_of`. Clips that are too faint for it are padded.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for clip, audio in enumerate(audios):
        by_length[positions_of(len(audio) / SAMPLE_RATE, margin)].append(clip)
    padded = by_length.pop(positions_of(0.0, None), [])
    groups: list[tuple[list[int], int | None, Tensor]] = []
    for positions, clips in sorted(by_length.items()):
        features, is_loud = short_features(processor, [audios[c] for c in clips], positions)
        padded += [clip for clip, loud in zip(clips, is_loud, strict=True) if not loud]
        loud = [n for n, each in enumerate(is_loud) if each]
        if loud:
            groups.append(([clips[n] for n in loud], positions, features[loud]))
    if padded:
        groups.append((padded, None, log_mel(processor, [audios[clip] for clip in padded])))
    return AudioFeatures(groups, len(audios))


def all_padded(features: Tensor) -> AudioFeatures:
    """Of features (clips, bands, 3000) that are padded to 30 s."""
    return AudioFeatures([(list(range(len(features))), None, features)], len(features))


@torch.no_grad()
def encode_each(
    encoder: Any, features: AudioFeatures | Tensor, heard: Listener | None = None
) -> list[Tensor]:
    """States (frames, width) of each clip, at its own length.

    Args:
        encoder: WhisperEncoder.
        features: as a tensor they are padded, (clips, bands, 3000).
        heard: is told what each layer gives.
    """
    if isinstance(features, Tensor):
        features = all_padded(features)
    found: list[Tensor] = [torch.empty(0)] * features.num_clips
    for clips, positions, each in features.groups:
        run = encode_padded if positions is None else encode_short
        on_layer = None if heard is None else heard.of_clips(clips)
        for clip, states in zip(clips, run(encoder, each, on_layer), strict=True):
            found[clip] = states
    return found


def encode_features(
    encoder: Any, features: AudioFeatures, heard: Listener | None = None
) -> Tensor:
    """(clips, frames, width): states up to the length of the longest clip.

    Args:
        encoder: WhisperEncoder.
        heard: is told what each layer gives.
    """
    if len(features.groups) == 1:  # all of one length: nothing is copied
        clips, positions, each = features.groups[0]
        if clips == list(range(features.num_clips)):
            run = encode_padded if positions is None else encode_short
            return run(encoder, each, None if heard is None else heard.of_clips(clips))
    return _stack(encode_each(encoder, features, heard), encoder)


def stack_states(model: Any, states: Sequence[Tensor]) -> Tensor:
    """(clips, frames, width) of the longest one's frames, from states (frames, width) of a model's
    clips; the others go on with silence."""
    return _stack(states, model.get_encoder())


def _stack(states: Sequence[Tensor], encoder: Any) -> Tensor:
    lengths = {len(each) for each in states}
    silence = silence_of(encoder) if len(lengths) > 1 else None
    return with_silence(states, silence, max(lengths))


def encode_audio(model: Any, processor: Any, audios: Sequence[np.ndarray]) -> Tensor:
    """(clips, frames, width) of 16 kHz mono audio of up to 30 s each."""
    features = audio_features(processor, audios, margin_of(model))
    return encode_features(model.get_encoder(), features)


def silence_behind(model: Any) -> Silence | None:
    """What stands behind the states of a model's short clips; None if it pads them all."""
    return None if margin_of(model) is None else silence_of(model.get_encoder())


def complete(model: Any, states: Tensor) -> Tensor:
    """(clips, 1500, width): states for those who want all of them, silence included."""
    if margin_of(model) is None or states.shape[1] >= model.config.max_source_positions:
        return states
    return with_silence(states, silence_of(model.get_encoder()))
