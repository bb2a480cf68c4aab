"""Cross-attention of text into the last layers of a Whisper encoder (PromptASR, arXiv:2309.07414).

    reader = PromptReader(encoder_layers=6, layers=2, width=512, text_width=576)
    states = encode_about(encoder, features, reader, texts)   # texts: (tokens, text_width), or None

Behind each of the last layers frames look at the states of a text, and what they find is added to
them through a gate that begins at 0. No linear layer has a bias, and beside the text there is
always nothing to look at, whose value is zeros. So what a row without a text gets is exactly 0,
however the layers were trained.

Only the clip's own frames read; the silence behind a short clip is that of the encoder alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.losses.matmul import fast_linears
from distill.whisper.encoder.audio import (
    AudioFeatures,
    encode_each,
    encode_features,
    stack_states,
)
from distill.whisper.encoder.layer_means import Listener
from distill.whisper.encoder.layers import run_layer
from distill.whisper.encoder.silence import silence_of


class GatedCrossAttention(nn.Module):
    """Frames look at a text, with one head: what a frame finds is a word, and not parts of several.

    Args:
        width: of the encoder.
        text_width: of the text's states.
    """

    def __init__(self, width: int, text_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(text_width, width, bias=False)
        self.v_proj = nn.Linear(text_width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.nothing = nn.Parameter(torch.zeros(()))  # logit of what has a value of zeros
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """What is added to the frames, (clips, frames, width).

        Args:
            hidden: (clips, frames, width).
            text: (clips, tokens, text_width); mask: bool (clips, tokens), False at padding.
        """
        query, keys = self.q_proj(self.norm(hidden)), self.k_proj(text)
        logits = query @ keys.mT * query.shape[-1] ** -0.5
        logits = logits.masked_fill(~mask[:, None], -torch.inf)
        nothing = self.nothing.expand(*logits.shape[:2], 1)
        weights = torch.cat([logits, nothing], -1).softmax(-1)[..., :-1]
        return torch.tanh(self.gate) * self.out_proj(weights @ self.v_proj(text))


class PromptReader(nn.Module):
    """What is added behind the last layers of an encoder.

    Args:
        encoder_layers, width: of the encoder.
        layers: how many of them read.
        text_width: of the text's states.

    Attributes:
        first: index of the first layer behind which something is added.
    """

    def __init__(self, encoder_layers: int, layers: int, width: int, text_width: int):
        super().__init__()
        self.first, self.text_width = encoder_layers - layers, text_width
        self.layers = nn.ModuleList(
            GatedCrossAttention(width, text_width) for _ in range(layers))

    def finish(self, encoder: Any, hidden: Tensor, texts: Sequence[Tensor | None]) -> Tensor:
        """The last layers of an encoder, with what they read, and its last norm.

        Args:
            encoder: WhisperEncoder.
            hidden: (clips, positions, width) that layer `first` gave. Fewer positions than the
                encoder has: of short audio, silence behind them.
            texts: (tokens, text_width) of each clip; None without.

        Returns:
            states (clips, positions, width)
        """
        text, mask = padded_texts(texts, self.text_width, hidden)
        silent: Sequence[tuple[Tensor, Tensor] | None] = [None] * len(encoder.layers)
        log_weight, positions = 0.0, hidden.shape[1]
        if positions < len(encoder.embed_positions.weight):
            silent, log_weight = silence_of(encoder).behind(positions)
        for index, read in enumerate(self.layers, self.first):
            if index > self.first:
                hidden = run_layer(encoder.layers[index], hidden, silent[index], log_weight)[0]
            hidden = hidden + read(hidden, text, mask)
        return encoder.layer_norm(hidden)

    def finish_each(self, encoder: Any, entered: Sequence[Tensor], texts: Sequence[Tensor | None]
                    ) -> list[Tensor]:
        """As `finish`, of clips (positions, width) of any lengths."""
        found: list[Tensor] = [torch.empty(0)] * len(entered)
        for length in sorted({len(each) for each in entered}):
            clips = [clip for clip, each in enumerate(entered) if len(each) == length]
            hidden = torch.stack([entered[clip] for clip in clips])
            states = self.finish(encoder, hidden, [texts[clip] for clip in clips])
            for clip, each in zip(clips, states, strict=True):
                found[clip] = each
        return found


def has_reader(model: Any) -> bool:
    """Whether the encoder of a WhisperForConditionalGeneration reads prompts."""
    return getattr(model, "prompt_reader", None) is not None


def padded_texts(texts: Sequence[Tensor | None], width: int, like: Tensor
                 ) -> tuple[Tensor, Tensor]:
    """(clips, tokens, width) of zeros behind each text, and bool (clips, tokens): what is text."""
    lengths = [0 if text is None else len(text) for text in texts]
    padded = like.new_zeros(len(texts), max(1, *lengths), width)
    for row, text in zip(padded, texts, strict=True):
        if text is not None:
            row[: len(text)] = text
    places = torch.arange(padded.shape[1], device=like.device)
    return padded, places < torch.tensor(lengths, device=like.device)[:, None]


class _Entered:
    """Keeps what one layer gave each clip, for another listener all of them."""

    def __init__(self, layer: int, heard: Listener | None):
        self.layer, self.heard = layer, heard
        self.states: dict[int, Tensor] = {}

    def of_clips(self, clips: Sequence[int]) -> Callable[[Tensor], None]:
        tell = None if self.heard is None else self.heard.of_clips(clips)
        count = 0

        def take(hidden: Tensor) -> None:
            nonlocal count
            if count == self.layer:
                self.states.update(zip(clips, hidden, strict=True))
            count += 1
            if tell is not None:
                tell(hidden)

        return take


def entered_states(encoder: Any, features: AudioFeatures | Tensor, reader: PromptReader
                   ) -> list[Tensor]:
    """What `PromptReader.finish` goes on with, (positions, width) of each clip."""
    entered = _Entered(reader.first, None)
    encode_each(encoder, features, entered)
    return [entered.states[clip] for clip in sorted(entered.states)]


@torch.no_grad()
def encode_about(
    model: Any, features: AudioFeatures, texts: Sequence[Tensor | None] | None,
    heard: Listener | None = None,
) -> Tensor:
    """As `encode_features`: (clips, frames, width), each clip with what its text says of it. One
    without a text has the states that it would have had, bit for bit.

    Args:
        model: WhisperForConditionalGeneration; with a `prompt_reader`, where there is a text.
        texts: (tokens, text_width) of each clip, or None; None: no clip has one.
        heard: is told what each layer gives, before anything is read.
    """
    if texts is None or all(text is None for text in texts):
        return encode_features(model.get_encoder(), features, heard)
    encoder, reader = model.get_encoder(), model.prompt_reader
    entered = _Entered(reader.first, heard)
    states = encode_each(encoder, features, entered)
    asked = [clip for clip, text in enumerate(texts) if text is not None]
    with fast_linears():
        found = reader.finish_each(encoder, [entered.states[clip] for clip in asked],
                                   [texts[clip] for clip in asked])
    for clip, each in zip(asked, found, strict=True):
        states[clip] = each
    return stack_states(model, states)
