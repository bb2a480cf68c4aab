"""The encoder as a graph: log-mel -> cross-attention keys and values of every decoder layer.

    Encoder          pads every clip to 30 s
    ShortEncoder     finds out how long a clip is, and computes so many positions; the rest are
                     constants of the graph, what the model makes of silence (`whisper.encoder`)

Both put out all 1,500 positions, so that no runtime and no decoder needs to know which it is. With
a head that tags (`Sounds`) they have two more outputs, which runtimes that do not know of them
leave alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.whisper.encoder.layer_means import POOL
from distill.whisper.encoder.lengths import margin_of, positions_of
from distill.whisper.encoder.level import LEVEL, LOUDEST
from distill.whisper.encoder.short import EXTRA_FRAMES, FAINTEST
from distill.whisper.encoder.silence import first_behind, silence_of

_SILENT = 1e-4  # above the floor of the log-mel features, for rounding
_FRAMES_PER_SECOND = 100


def attend(attention, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None):
    """Output (batch, tokens, width) and weights (batch, heads, tokens, keys) of an attention."""
    batch, _, width = queries.shape

    def heads(x: Tensor) -> Tensor:
        return x.reshape(batch, -1, attention.num_heads, attention.head_dim).transpose(1, 2)

    scores = heads(queries * attention.scaling) @ heads(keys).transpose(-1, -2)
    weights = F.softmax(scores if mask is None else scores + mask, -1)
    mixed = (weights @ heads(values)).transpose(1, 2).reshape(batch, -1, width)
    return attention.out_proj(mixed), weights


def whole_window(mel: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """All frames of a window, and the value of silence in it (batch, 1, 1).

    What lacks is filled with silence, as in training; so are frames of zeros, which sherpa-onnx
    puts there. Silence is 8 below the maximum, 2 after scaling.
    """
    at, last = torch.arange(frames), mel.shape[2] - 1
    silence = mel.amax((1, 2), keepdim=True) - (LOUDEST - LEVEL)
    mel = mel[:, :, at.clamp(max=last)]
    is_silent = (mel == 0).all(1, keepdim=True) | (at > last)
    return torch.where(is_silent, silence, mel), silence


def heard_frames(mel: Tensor, silence: Tensor) -> Tensor:
    """(batch,) frames of each clip of a whole window, without the silence at its end."""
    is_heard = (mel > silence + _SILENT).any(1)
    frames = torch.where(is_heard, torch.arange(1, mel.shape[2] + 1), 0).amax(1)
    return (frames - EXTRA_FRAMES).clamp(min=0)  # so many behind the end still look at it


class Sounds(nn.Module):
    """A head that tags, on what the encoder's layers give.

    Args:
        head: (states (batch, layers, steps, width), mask (batch, steps)) -> logits of steps, and of
            the clip (`distill.whisper_at.heads`).
        layers: how many of the first ones it listens to.
        classes: their names, for the file.
    """

    def __init__(self, head: nn.Module, layers: int, classes: Sequence[str]):
        super().__init__()
        self.head, self.layers, self.classes = head, layers, list(classes)

    def forward(self, layers: Sequence[Tensor], frames: Tensor, most: int):
        """
        Args:
            layers: (batch, positions, width) of each.
            frames: (batch,) log-mel frames of each clip.
            most: positions of a window.

        Returns:
            probabilities (batch, classes), and (batch, steps of 0.4 s, classes), 0 behind the clip.
        """
        steps, count = torch.arange(most // POOL), layers[0].shape[1]
        # a product, for a number of positions that is not known to be of whole steps
        shares = (torch.arange(count) // POOL == steps[:, None]).float()
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1)
        means = [shares @ each for each in layers[: self.layers]]
        mask = steps < ((frames + POOL) // (2 * POOL)).clamp(min=1)[:, None]
        of_steps, of_clip = self.head(torch.stack(means, 1), mask)
        return of_clip.sigmoid(), of_steps.sigmoid() * mask[..., None]


class Encoder(nn.Module):
    """Log-mel (batch, bands, frames), up to 3000 frames -> keys and values of the audio for every
    decoder layer, twice (layers, batch, 1500, width), and what `sounds` gives."""

    def __init__(self, model, sounds: Sounds | None = None):
        super().__init__()
        self.sounds = sounds
        self.encoder, self.layers = model.model.encoder, model.model.decoder.layers
        self.frames = 2 * model.config.max_source_positions

    def forward(self, mel: Tensor) -> tuple[Tensor, ...]:
        mel, silence = whole_window(mel, self.frames)
        x = _stem(self.encoder, mel) + self.encoder.embed_positions.weight
        found = []
        for layer in self.encoder.layers:
            x = _run_layer(layer, x, lambda own: own, lambda own: own)
            found.append(x)
        cross = _cross(self.layers, self.encoder.layer_norm(x))
        if self.sounds is None:
            return cross
        return *cross, *self.sounds(found, heard_frames(mel, silence), self.frames // 2)


class ShortEncoder(nn.Module):
    """As `Encoder`, for one clip, of which only its own length and a margin is computed.

    Silence at the end of a clip is not counted to its length. Clips that fill the window, or are
    too faint, are padded. What is kept of silence is float16 in the file.
    """

    def __init__(self, model, sounds: Sounds | None = None):
        super().__init__()
        self.sounds = sounds
        self.encoder, self.layers = model.model.encoder, model.model.decoder.layers
        self.most, margin = model.config.max_source_positions, margin_of(model)
        lengths = [positions_of(frames / _FRAMES_PER_SECOND, margin, self.most)
                   for frames in range(2 * self.most + 1)]
        self.register_buffer("positions", torch.tensor(lengths))
        silence = silence_of(model.get_encoder())
        for name, every in (("keys", silence.keys), ("values", silence.values)):
            for index, each in enumerate(every):
                kept = each.transpose(0, 1).flatten(1)[None]
                self.register_buffer(f"{name}_{index}", kept.half())
        with torch.no_grad():
            cross = _cross(self.layers, silence.states[None])
        self.register_buffer("cross_keys", cross[0].half())
        self.register_buffer("cross_values", cross[1].half())

    def forward(self, mel: Tensor) -> tuple[Tensor, ...]:
        """(1, bands, frames) -> twice (layers, 1, 1500, width), and what `sounds` gives."""
        mel, silence = whole_window(mel, 2 * self.most)
        positions = self.length(mel, silence)
        moved = torch.where(positions == self.most, mel, mel - silence + LEVEL)
        count = positions.item()
        torch._check(count >= 0)
        torch._check(count <= self.most)
        # the padded encoder has zeros behind its last frame
        ahead = F.pad(moved, (0, EXTRA_FRAMES))[:, :, : 2 * count + EXTRA_FRAMES]
        x = _stem(self.encoder, ahead)[:, :count] + self.encoder.embed_positions.weight[:count]

        def behind(name: str, first: int):
            silent = getattr(self, name)
            return lambda own: torch.cat([own, silent[..., first:, :].float()], -2)

        first = first_behind(count)
        kept = self.keys_0.shape[1] - first
        # each kept position of silence stands for several; of none there is nothing to say
        weight = torch.log((self.most - positions) / max(kept, 1))
        mask = torch.cat([torch.zeros(count), weight.expand(kept)])
        found = []
        for index, layer in enumerate(self.encoder.layers):
            x = _run_layer(layer, x, behind(f"keys_{index}", first),
                           behind(f"values_{index}", first), mask)
            found.append(x)
        keys, values = _cross(self.layers, self.encoder.layer_norm(x))
        cross = behind("cross_keys", count)(keys), behind("cross_values", count)(values)
        if self.sounds is None:
            return cross
        return *cross, *self.sounds(found, heard_frames(mel, silence), self.most)

    def length(self, mel: Tensor, silence: Tensor) -> Tensor:
        """Positions () to compute."""
        frames = heard_frames(mel, silence)[0]
        is_faint = silence.reshape(()) + (LOUDEST - LEVEL) < FAINTEST
        return torch.where(is_faint, self.most, self.positions[frames])


def _stem(encoder, mel: Tensor) -> Tensor:
    """(batch, positions, width) of the two convolutions."""
    return F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)


def _run_layer(layer, x: Tensor, all_keys, all_values, mask: Tensor | None = None) -> Tensor:
    own, normed = layer.self_attn, layer.self_attn_layer_norm(x)
    keys, values = all_keys(own.k_proj(normed)), all_values(own.v_proj(normed))
    x = x + attend(own, own.q_proj(normed), keys, values, mask)[0]
    return x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))


def _cross(layers, states: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-attention keys and values (layers, batch, positions, width) of encoder states."""
    cross = [layer.encoder_attn for layer in layers]
    return (torch.stack([each.k_proj(states) for each in cross]),
            torch.stack([each.v_proj(states) for each in cross]))
