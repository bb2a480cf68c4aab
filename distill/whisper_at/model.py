"""A tagger on the layers of a frozen Whisper encoder, as a transformers model.

    model = from_whisper(whisper, ["bark", "rain"])          # a WhisperForConditionalGeneration
    model = AutoModelForAudioClassification.from_pretrained(folder)   # after importing this module

Whisper's encoder hears sounds other than speech so that it can ignore them, and its middle layers
know them best (Whisper-AT, arXiv:2307.03183). As there, each layer's states are averaged over
0.4 s. What then follows is a small head (`head_type: layer_sum`) or that of the paper (`tltr`), see
`distill.whisper_at.heads`.

Audio is not padded to 30 s: positions are cut to its length, which costs a 4 s clip an eighth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from distill.whisper_at.heads import make_head

POOL = 20  # encoder frames of 20 ms that are averaged
FRAMES_PER_STEP = 2 * POOL  # features of 10 ms


@strict
class WhisperTaggerConfig(PreTrainedConfig):
    """Sizes of the encoder, as in WhisperConfig, and of the head."""

    model_type = "whisper_tagger"

    num_mel_bins: int = 80
    d_model: int = 512
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int = 2048
    max_source_positions: int = 1500
    head_type: str = "layer_sum"
    head_size: int | None = 256
    head_dropout: float | int = 0.3

    def __post_init__(self, **kwargs):
        if self.problem_type is None:
            self.problem_type = "multi_label_classification"
        super().__post_init__(**kwargs)


@dataclass
class WhisperTaggerOutput(ModelOutput):
    """loss; logits (batch, classes); frame_logits (batch, steps, classes), a step is 0.4 s, and
    frame_mask (batch, steps), which of them are the clip's."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    frame_logits: Tensor | None = None
    frame_mask: Tensor | None = None


class WhisperTagger(PreTrainedModel):
    config: WhisperTaggerConfig
    config_class = WhisperTaggerConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    step_seconds = 0.4  # of frame_logits
    _supports_sdpa = True

    def __init__(self, config: WhisperTaggerConfig):
        super().__init__(config)
        names = ("num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads",
                 "encoder_ffn_dim", "max_source_positions")
        self.encoder = WhisperEncoder(WhisperConfig(**{n: getattr(config, n) for n in names}))
        self.encoder.requires_grad_(False)
        self.head = make_head(config.head_type, config.encoder_layers, config.d_model,
                              config.head_size, config.num_labels, config.head_dropout)
        self.post_init()

    def train(self, mode: bool = True) -> WhisperTagger:
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def states(self, features: Tensor) -> Tensor:
        """Averages over 0.4 s of what every layer gives.

        Args:
            features: (batch, bands, frames) of any length; each 30 s are encoded by themselves.

        Returns:
            (batch, layers, steps, width).
        """
        window = 2 * self.config.max_source_positions
        return torch.cat([self._states(part) for part in features.split(window, dim=2)], 2)

    def _states(self, features: Tensor) -> Tensor:
        means = [x.unflatten(1, (-1, POOL)).mean(2) for x in self.layers_of(features)]
        return torch.stack(means, 1)

    def layers_of(self, features: Tensor) -> Iterator[Tensor]:
        """What each layer gives, (batch, positions of 20 ms, width), of up to 30 s; filled up with
        silence to whole steps."""
        encoder, frames = self.encoder, features.shape[2]
        padding = _silence(features).expand(-1, features.shape[1], -frames % FRAMES_PER_STEP)
        x = F.gelu(encoder.conv1(torch.cat([features, padding], 2)))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
            yield x

    @can_return_tuple
    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None,
        labels: Tensor | None = None, **kwargs,
    ) -> WhisperTaggerOutput:
        """Tag clips of any length; longer ones go through the encoder 30 s at a time.

        Args:
            input_features: (batch, bands, frames) of the feature extractor.
            attention_mask: (batch, frames), 1 for frames of the clip.
            labels: (batch, classes), 0 to 1.
        """
        if attention_mask is None:
            frames = [input_features.shape[2]] * len(input_features)
            states = self.states(input_features)
        else:
            frames = [int(each) for each in attention_mask.sum(1)]
            real = attention_mask[:, None].bool()
            masked = input_features.masked_fill(~real, -torch.inf)
            states = self._states_of_lengths(torch.where(real, masked, _silence(masked)), frames)
        counts = torch.tensor([num_steps(each) for each in frames], device=states.device)
        mask = torch.arange(states.shape[2], device=states.device) < counts[:, None]
        steps, logits = self.head(states, mask)
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return WhisperTaggerOutput(loss, logits, steps, mask)

    def _states_of_lengths(self, features: Tensor, frames: Sequence[int]) -> Tensor:
        """`states` of clips that are padded: each is encoded in its own length, since the encoder
        would see the padding too."""
        sizes = [-(-each // FRAMES_PER_STEP) for each in frames]
        config = self.config
        result = features.new_zeros(len(sizes), config.encoder_layers, max(sizes), config.d_model)
        for size in sorted(set(sizes)):
            alike = [number for number, each in enumerate(sizes) if each == size]
            cut = features[alike, :, : size * FRAMES_PER_STEP]
            result[alike, :, :size] = self.states(cut).to(result.dtype)
        return result


def num_steps(frames: int) -> int:
    """Steps of 0.4 s that a clip of so many features has: a last half one counts, less does not."""
    return max(1, (frames + FRAMES_PER_STEP // 2) // FRAMES_PER_STEP)


def _silence(features: Tensor) -> Tensor:
    """(batch, 1, 1) what Whisper's extractor makes of silence in each clip: 80 dB below its
    loudest, or the least there is. Nothing of the other clips."""
    return (features.amax((1, 2), keepdim=True) - 2.0).clamp(min=-1.5)


class WhisperTaggerExtractor(WhisperFeatureExtractor):
    """Whisper's features without its padding to 30 s; clips of a batch are padded to the longest
    and, where they differ, come with a mask."""

    model_input_names = ["input_features", "attention_mask"]

    def __call__(self, raw_speech: Any, **kwargs: Any) -> BatchFeature:
        settings = {"padding": "longest", "truncation": False, "return_attention_mask": True}
        return super().__call__(raw_speech, **{**settings, **kwargs})


def from_whisper(
    whisper: Any, classes: Sequence[str], layers: int | None = None, **head: Any
) -> WhisperTagger:
    """A tagger with a new head on the encoder of a WhisperForConditionalGeneration.

    Args:
        layers: first ones of the encoder; the last ones know words rather than sounds. None: all.
        head: head_type, head_size, head_dropout.
    """
    source = whisper.config
    layers = layers or source.encoder_layers
    if layers > source.encoder_layers:
        raise ValueError(f"whisper.layers must be at most {source.encoder_layers}, got {layers}")
    names = dict(enumerate(classes))
    config = WhisperTaggerConfig(
        num_mel_bins=source.num_mel_bins, d_model=source.d_model, encoder_layers=layers,
        encoder_attention_heads=source.encoder_attention_heads,
        encoder_ffn_dim=source.encoder_ffn_dim,
        max_source_positions=source.max_source_positions, id2label=names,
        label2id={name: index for index, name in names.items()}, **head)
    model = WhisperTagger(config)
    wanted, pretrained = model.encoder.state_dict(), whisper.model.encoder.state_dict()
    model.encoder.load_state_dict({name: pretrained[name] for name in wanted})
    return model.eval()


AutoConfig.register("whisper_tagger", WhisperTaggerConfig, exist_ok=True)
AutoFeatureExtractor.register(WhisperTaggerConfig, WhisperTaggerExtractor, exist_ok=True)
AutoModelForAudioClassification.register(WhisperTaggerConfig, WhisperTagger, exist_ok=True)
