"""CED audio taggers as transformers models (arXiv:2308.11957).

    model = new_model("tiny", ["bark", "rain"])                      # or any list of classes
    model = AutoModelForAudioClassification.from_pretrained(folder)  # after importing this module
    output = model(**CedFeatureExtractor()(waves, sampling_rate=16_000, return_tensors="pt"))
    output.logits.sigmoid(), output.frame_logits.sigmoid()           # clips; every 160 ms

Log-mel features (64 bands, 10 ms frames) are normalised for each band and cut into patches of 16
bands and 16 frames. A column of 4 patches is a step of 160 ms. A ViT with separate positions for
time and frequency reads up to 63 steps; the mean of its tokens goes through a linear head. What is
left over after the last whole step is not used, as published.

Longer clips go in pieces of 63 steps. The last piece is moved back to be whole, and only its new
steps count. A clip's probability is the mean of its pieces' probabilities, weighted by the steps
that count: for one piece that is the published model, and for several what it means to do. (Mean
tokens of an hour through the head would hide a short sound, which the head has only ever seen in a
mean over 10 s.) Embeddings are means over all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from distill.ced.model.blocks import Block, PatchEmbedding
from distill.ced.model.configuration import SIZES, CedConfig
from distill.ced.model.frontend import NUM_BANDS, PATCH

_ROWS = NUM_BANDS // PATCH  # patches of a step
_PIECES_AT_ONCE = 32  # without gradients: an hour has 357


@dataclass
class CedEncoderOutput(ModelOutput):
    """last_hidden_state (batch, steps, width), the mean over a step's patches; step_mask (batch,
    steps) bool; pooler_output (batch, width), the mean over the steps of a clip."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    step_mask: Tensor | None = None


@dataclass
class CedOutput(ModelOutput):
    """loss; logits (batch, classes); frame_logits (batch, steps, classes), a step is 160 ms, and
    frame_mask (batch, steps), which of them are the clip's; pooler_output (batch, width) and
    last_hidden_state (batch, steps, width), see CedEncoderOutput."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    frame_logits: Tensor | None = None
    frame_mask: Tensor | None = None
    pooler_output: Tensor | None = None
    last_hidden_state: Tensor | None = None


class CedPreTrainedModel(PreTrainedModel):
    config: CedConfig
    config_class = CedConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=5**0.5)  # as published: torch's own
            init.uniform_(module.bias, -1 / PATCH, 1 / PATCH)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, CedModel):
            init.normal_(module.time_pos_embed, std=std)
            init.normal_(module.freq_pos_embed, std=std)
        else:
            super()._init_weights(module)


class CedModel(CedPreTrainedModel):
    """The encoder: embeddings of clips, and of every 160 ms of them."""

    def __init__(self, config: CedConfig):
        super().__init__(config)
        width = config.hidden_size
        self.max_steps = config.target_length // PATCH
        self.init_bn = nn.BatchNorm1d(NUM_BANDS, momentum=0.01)
        self.patch_embed = PatchEmbedding(config)
        self.time_pos_embed = nn.Parameter(torch.empty(1, width, 1, self.max_steps))
        self.freq_pos_embed = nn.Parameter(torch.empty(1, width, _ROWS, 1))
        depth = config.num_hidden_layers
        drops = [config.drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList([Block(config, drop) for drop in drops])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> CedEncoderOutput:
        """Embed clips of any length.

        Args:
            input_values: (batch, 64, frames), features in dB of `log_mel`.
            attention_mask: (batch, frames), 1 for frames of the clip, which come first, and 0 for
                what pads it.

        Raises:
            ValueError: other shapes.
        """
        _check(input_values, attention_mask)
        features = self.normalise(input_values.to(self.init_bn.weight.dtype), attention_mask)
        if features.shape[2] < PATCH:
            features = F.pad(features, (0, PATCH - features.shape[2]))
        longest = features.shape[2] // PATCH
        mask = _step_mask(attention_mask, longest)
        if longest <= self.max_steps:
            if mask is not None and mask.device.type == "cpu":  # elsewhere it would wait
                longest = int(mask.sum(1).max())
                mask = None if mask[:, :longest].all() else mask[:, :longest]
            steps = self.encode(features[:, :, : longest * PATCH], mask)
        else:
            steps = self._encode_long(features, mask, longest)
            longest = steps.shape[1]
        if mask is None:
            return CedEncoderOutput(steps, steps.mean(1), steps.new_ones(steps.shape[:2]).bool())
        mask = mask[:, :longest]
        return CedEncoderOutput(steps, masked_mean(steps, mask), mask)

    def normalise(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Batch-norm of each band; padding neither counts in training nor comes out as a sound."""
        if mask is None:
            return self.init_bn(features)
        valid = mask.bool()
        if not self.init_bn.training:
            return self.init_bn(features) * valid[:, None]
        rows = features.transpose(1, 2)
        out = torch.zeros_like(rows)
        out[valid] = self.init_bn(rows[valid])
        return out.transpose(1, 2)

    def encode(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """One piece of each clip.

        Args:
            features: (pieces, 64, 16 * steps), normalised; at most 63 steps.
            mask: (pieces, steps) bool, True for steps of the clip.

        Returns:
            (pieces, steps, width).
        """
        x = self.patch_embed(features[:, None])
        pieces, width, rows, steps = x.shape
        x = x + self.time_pos_embed[..., :steps] + self.freq_pos_embed
        x = x.flatten(2).transpose(1, 2)  # tokens: frequency by frequency
        seen = None if mask is None else mask.repeat(1, rows)
        kept = self._draw_kept(x, seen)
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, width))
            seen = None if seen is None else seen.gather(1, kept)
        for block in self.blocks:
            x = block(x, None if seen is None else seen[:, None, None])
        x = self.norm(x)
        if kept is not None:
            return _spread(x, kept, mask, steps)
        return x.view(pieces, rows, steps, width).mean(1)

    def _draw_kept(self, x: Tensor, seen: Tensor | None) -> Tensor | None:
        """(pieces, tokens that are kept) in training; None: all are."""
        if not self.training or not self.config.patch_drop_rate:
            return None
        tokens = x.shape[1]
        rank = torch.rand(x.shape[:2], device=x.device)
        if seen is not None:
            rank = rank + (~seen).to(rank)  # padding only where nothing else is left
        return rank.argsort(1)[:, : max(1, round((1 - self.config.patch_drop_rate) * tokens))]

    def _encode_long(self, features: Tensor, mask: Tensor | None, longest: int) -> Tensor:
        """Steps (batch, steps, width) of clips of which at least one has several pieces."""
        counts = [longest] * len(features) if mask is None else mask.sum(1).tolist()
        size = self.max_steps
        parts = []  # clip, first step of the piece, first step that counts, steps of the clip
        for clip, count in enumerate(counts):
            for first in range(0, count, size):
                parts.append((clip, max(0, min(first, count - size)), first, count))
        steps = [features.new_zeros(0)] * len(parts)
        at_once = len(parts) if torch.is_grad_enabled() else _PIECES_AT_ONCE
        for begin in range(0, len(parts), at_once):
            group = parts[begin : begin + at_once]
            pieces = torch.stack([
                features[clip, :, PATCH * start : PATCH * (start + size)]
                for clip, start, _, _ in group
            ])
            ends = torch.tensor([min(size, count - start) for _, start, _, count in group])
            seen = torch.arange(size) < ends[:, None]
            out = self.encode(pieces, None if seen.all() else seen.to(pieces.device))
            for number, (_, start, first, count) in enumerate(group):
                kept = slice(first - start, min(first + size, count) - start)
                steps[begin + number] = out[number, kept]
        whole = [
            torch.cat([s for s, part in zip(steps, parts, strict=True) if part[0] == clip])
            for clip in range(len(counts))
        ]
        return nn.utils.rnn.pad_sequence(whole, batch_first=True)


class CedForAudioClassification(CedPreTrainedModel):
    """Logits of a clip's classes, and of every 160 ms of it."""

    step_seconds = 0.16  # of frame_logits

    def __init__(self, config: CedConfig):
        super().__init__(config)
        self.encoder = CedModel(config)
        self.outputlayer = nn.Sequential(
            nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.num_labels)
        )
        self.post_init()

    @property
    def init_bn(self) -> nn.BatchNorm1d:
        """The normalisation of the features."""
        return self.encoder.init_bn

    @can_return_tuple
    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None,
        labels: Tensor | None = None, **kwargs,
    ) -> CedOutput:
        """Tag clips of any length; see `CedModel.forward`.

        Args:
            labels: (batch, classes), 0 to 1, or class numbers (batch,) if the configuration's
                problem_type is single_label_classification.
        """
        encoded = self.encoder(input_values, attention_mask)
        steps, mask = encoded.last_hidden_state, encoded.step_mask
        if steps.shape[1] <= self.encoder.max_steps:
            logits = self.outputlayer(encoded.pooler_output)
        else:
            logits = self._logits_of_pieces(steps, mask)
        loss = None if labels is None else self._loss(logits, labels)
        frames = self.outputlayer(steps)
        return CedOutput(loss, logits, frames, mask, encoded.pooler_output, steps)

    def _logits_of_pieces(self, steps: Tensor, mask: Tensor) -> Tensor:
        """Log-odds of the mean probability, in a form that keeps small and large ones."""
        size = self.encoder.max_steps
        room = -steps.shape[1] % size
        mask = F.pad(mask, (0, room)).unflatten(1, (-1, size))  # (batch, pieces, 63)
        pieces = F.pad(steps, (0, 0, 0, room)).unflatten(1, (-1, size))
        logits = self.outputlayer(masked_mean(pieces, mask))  # (batch, pieces, classes)
        counts = mask.sum(2)
        if self.config.problem_type == "single_label_classification":
            weights = (counts / counts.sum(1, keepdim=True)).log()[..., None]
            mean = (logits.log_softmax(-1) + weights).logsumexp(1)
        else:
            weights = counts.to(logits.dtype).log()[..., None]  # -inf where there is no piece
            yes, no = F.logsigmoid(logits) + weights, F.logsigmoid(-logits) + weights
            mean = yes.logsumexp(1) - no.logsumexp(1)
        return torch.where((counts > 0).sum(1, keepdim=True) == 1, logits[:, 0], mean)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "single_label_classification":
            return F.cross_entropy(logits, labels)
        if labels.shape != logits.shape:
            raise ValueError(f"labels must be 0 to 1 for each clip and class, "
                             f"{tuple(logits.shape)}, got {tuple(labels.shape)}")
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def _spread(x: Tensor, kept: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """Tokens that were kept (pieces, tokens, width) -> steps, whose mean over a clip is that of its
    tokens.

    Args:
        kept: (pieces, tokens) the place of each among all.
        mask: (pieces, steps) bool, True for steps of the clip.
    """
    step_of = kept % steps
    if mask is None:
        scale = x.new_full((1, 1, 1), steps / x.shape[1])
    else:
        seen = mask.gather(1, step_of)
        x = x * seen[..., None]
        scale = (mask.sum(1) / seen.sum(1)).to(x.dtype)[:, None, None]
    sums = x.new_zeros(len(x), steps, x.shape[2])
    return scale * sums.scatter_add(1, step_of[..., None].expand_as(x), x)


def masked_mean(steps: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension but one of steps (..., steps, width) where mask (..., steps)."""
    weights = mask.to(steps.dtype)[..., None]
    return (steps * weights).sum(-2) / weights.sum(-2).clamp(min=1)


def _step_mask(mask: Tensor | None, longest: int) -> Tensor | None:
    """(batch, frames) -> (batch, steps) bool; a clip has at least one step."""
    if mask is None:
        return None
    counts = (mask.bool().sum(1) // PATCH).clamp(min=1)
    return torch.arange(longest, device=mask.device) < counts[:, None]


def _check(input_values: Tensor, mask: Tensor | None) -> None:
    shape = tuple(input_values.shape)
    if len(shape) != 3 or shape[1] != NUM_BANDS or 0 in shape:
        raise ValueError(f"input_values must be features (batch, {NUM_BANDS}, frames), got {shape}")
    if mask is not None and tuple(mask.shape) != (shape[0], shape[2]):
        raise ValueError(f"attention_mask must be (batch, frames) = {(shape[0], shape[2])}, got "
                         f"{tuple(mask.shape)}")


def new_model(size: str, labels: Sequence[str], **overrides) -> CedForAudioClassification:
    """A random model of a published size.

    Args:
        size: tiny, mini, small or base.
        labels: names of the classes, in the order of the logits.
        overrides: of `CedConfig`.

    Raises:
        ValueError: unknown size or key; no labels, or one twice.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of: {', '.join(SIZES)}; got {size!r}")
    if unknown := set(overrides) - set(CedConfig.__dataclass_fields__):
        raise ValueError(f"unknown keys of the model: {', '.join(sorted(unknown))}")
    names = dict(enumerate(labels))
    if not names or len(set(names.values())) < len(names):
        raise ValueError(f"labels must be one or more different names, got {list(labels)}")
    width, heads = SIZES[size]
    shape = {"hidden_size": width, "num_attention_heads": heads} | overrides
    return CedForAudioClassification(CedConfig(
        **shape, id2label=names, label2id={name: index for index, name in names.items()}
    ))


AutoConfig.register("ced", CedConfig, exist_ok=True)
AutoModel.register(CedConfig, CedModel, exist_ok=True)
AutoModelForAudioClassification.register(CedConfig, CedForAudioClassification, exist_ok=True)
