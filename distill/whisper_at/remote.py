"""A Whisper with a head that tags, as transformers loads it without this package.

    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
    pipeline("audio-classification", folder, trust_remote_code=True)

Clips are padded to 30 s, as Whisper's own extractor does, and longer ones are cut there. The same
folder is a WhisperForConditionalGeneration, whose weights these are.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import cached_file

from distill.whisper_at.heads import make_head

_POOL = 20  # encoder positions of 20 ms in a step
_EXTRA_FRAMES = 2  # behind the end of a clip, that still hear it


class WhisperSounds(PreTrainedModel):
    """Log-mel of windows of 30 s -> logits of the classes in tagger.json."""

    config_class = WhisperConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    step_seconds = 0.4
    _supports_sdpa = _supports_flash_attn = True  # the encoder does

    def __init__(self, whisper: WhisperForConditionalGeneration, settings: dict[str, Any]):
        super().__init__(whisper.config)
        self.encoder, self.layers = whisper.model.encoder, settings["layers"]
        self.head = make_head(settings["head_type"], settings["layers"], settings["width"],
                              settings["head_size"], len(settings["classes"]), 0.0)
        self.config.id2label = dict(enumerate(settings["classes"]))
        self.config.label2id = {name: index for index, name in enumerate(settings["classes"])}
        self.config.problem_type = "multi_label_classification"

    @classmethod
    def from_pretrained(cls, name: str, *_unused: Any, **options: Any) -> WhisperSounds:
        """Load a folder or Hub id.

        Args:
            options: of transformers; `revision` and `token` are also those of the head.
        """
        places = {key: options[key] for key in ("revision", "token", "cache_dir")
                  if options.get(key) is not None}
        options = {key: value for key, value in options.items()
                   if key not in ("trust_remote_code", "adapter_kwargs")}
        whisper = WhisperForConditionalGeneration.from_pretrained(
            name, **{"dtype": torch.float32, **options})
        with open(cached_file(name, "tagger.json", **places), encoding="utf-8") as file:
            model = cls(whisper, json.load(file))
        model.head.load_state_dict(load_file(cached_file(name, "tagger.safetensors", **places)))
        return model.eval().requires_grad_(False)

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None,
        labels: Tensor | None = None, **_unused: Any,
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_features: (batch, bands, 3000) of WhisperFeatureExtractor.
            attention_mask: (batch, 3000), 1 for frames of the clip; None: up to the last one that
                is no silence.
            labels: (batch, classes), 0 to 1.
        """
        if attention_mask is None:
            loudest = input_features.amax((1, 2), keepdim=True)
            is_heard = (input_features > loudest - 2.0 + 1e-4).any(1)  # silence is 8 below, scaled
            at = torch.arange(1, is_heard.shape[1] + 1, device=is_heard.device)
            frames = (torch.where(is_heard, at, 0).amax(1) - _EXTRA_FRAMES).clamp(min=0)
        else:
            frames = attention_mask.sum(1)
        means: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda _layer, _given, found: means.append(
            (found[0] if isinstance(found, tuple) else found).unflatten(1, (-1, _POOL)).mean(2)))
            for layer in self.encoder.layers[: self.layers]]
        try:
            self.encoder(input_features)
        finally:
            for hook in hooks:
                hook.remove()
        states = torch.stack(means, 1).float()
        steps = ((frames + _POOL) // (2 * _POOL)).clamp(min=1)
        mask = torch.arange(states.shape[2], device=states.device) < steps[:, None]
        logits = self.head(states, mask)[1]
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return SequenceClassifierOutput(loss=loss, logits=logits)
