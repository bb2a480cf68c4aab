"""An audio language model as transformers loads it without this package.

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model.ask([wave], ["What is said?"])           # float32 (samples,) at 16 kHz, up to 30 s

`folder` has the adapter and LoRA alone. Encoder and language model come from the Hub, in the
revision that the model was trained with, or from `encoder=FOLDER` and `language_model=FOLDER`;
others than these are refused. Needs peft. Where the package that trained it encodes a short clip at
its own length with silence behind, this pads it to 30 s, as Whisper was: states differ a little.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.utils import cached_file

from distill.audio_llm.core import AudioLlmCore, inject_lora

RATE = 16_000
_POOL = 20  # encoder positions of 20 ms in a step of an adapter that takes all layers
_COMMIT = re.compile(r"[0-9a-f]{40}")


class AudioLlmConfig(PreTrainedConfig):
    """What audio_llm.json says is in that file; transformers finds the code by this one."""

    model_type = "audio_llm"


class AudioLlmForAnswers(PreTrainedModel):
    """Encoder, adapter, and a language model with LoRA, all frozen."""

    config_class = AudioLlmConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    _supports_sdpa = True

    def __init__(self, config: AudioLlmConfig, core: AudioLlmCore, whisper: WhisperModel,
                 extractor: WhisperFeatureExtractor):
        super().__init__(config)
        self.core, self.encoder, self.extractor = core, whisper.encoder, extractor

    @classmethod
    def from_pretrained(cls, name: str, *_unused: Any, encoder: str | None = None,
                        language_model: str | None = None, **options: Any) -> AudioLlmForAnswers:
        """Load a folder or Hub id.

        Args:
            encoder, language_model: folders of both; default: from the Hub.
            options: of transformers: revision, token, cache_dir.

        Raises:
            ValueError: encoder or language model is another one than it was trained with, or
                weights are missing or left over.
        """
        places = {key: options[key] for key in ("revision", "token", "cache_dir")
                  if options.get(key) is not None}
        with open(cached_file(name, "audio_llm.json", **places), encoding="utf-8") as file:
            values = json.load(file)
        parts = ("encoder", "language_model", "adapter", "lora")
        settings = SimpleNamespace(**values | {
            part: SimpleNamespace(**values[part]) for part in parts})
        if getattr(settings.encoder, "kind", "whisper") != "whisper":
            raise ValueError(f"{name}: its encoder is no Whisper, but {settings.encoder.kind}: "
                             "load it with the package that trained it")
        heard = _find(encoder or settings.encoder.model, settings.encoder_revision, "encoder", name)
        said = _find(language_model or settings.language_model.model,
                     settings.language_model_revision, "language_model", name)
        llm = AutoModelForCausalLM.from_pretrained(said, dtype=torch.float32)
        llm.requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True, **places)
        core = AudioLlmCore(inject_lora(llm, settings.lora), tokenizer, settings)
        core.load_trained(load_file(cached_file(name, "audio_llm.safetensors", **places)), name)
        whisper, info = WhisperModel.from_pretrained(heard, dtype=torch.float32,
                                                     output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"{heard}: not a complete Whisper: missing {missing[:3]}")
        extractor = WhisperFeatureExtractor.from_pretrained(heard)
        model = cls(AudioLlmConfig(), core, whisper, extractor)
        return model.eval().requires_grad_(False)

    def ask(self, waves: Sequence[np.ndarray], questions: Sequence[str],
            transcripts: Sequence[str | None] | None = None, **options: Any) -> list[str]:
        """Answers to a question about each clip.

        Args:
            waves: float32 (samples,) at 16 kHz, up to 30 s.
            transcripts: of each, told as text where the model was trained so.
            options: max_new_tokens, num_beams, end_bias.
        """
        return self.core.generate([self.states(each) for each in waves], list(questions),
                                  transcripts, **options)

    @property
    def prompts(self) -> dict[str, str]:
        """What the model was trained to be asked, by the task's name."""
        return self.core.settings.prompts

    @torch.no_grad()
    def states(self, wave: np.ndarray) -> np.ndarray:
        """float32 (frames, width) of the encoder, cut to the clip's length; of an adapter that
        takes all layers, (steps of 0.4 s, layers * width)."""
        if len(wave) > 30 * RATE:
            raise ValueError(f"{len(wave) / RATE:.1f} s of audio; the encoder hears 30 s")
        if self.core.settings.adapter.kind == "tltr":
            return self._layers(wave)
        features = self._features(wave, "max_length")
        found = self.encoder(features).last_hidden_state[0]
        frames = max(1, min(round(len(wave) / RATE * 50), 1500))
        return found[:frames].float().cpu().numpy()

    def _features(self, wave: np.ndarray, padding: str) -> Tensor:
        found = self.extractor(wave, sampling_rate=RATE, return_tensors="pt", padding=padding,
                               truncation=False)["input_features"]
        return found.to(next(self.encoder.parameters()).device)

    def _layers(self, wave: np.ndarray) -> np.ndarray:
        features = self._features(wave, "longest")
        steps = max(1, (features.shape[2] + _POOL) // (2 * _POOL))
        means = [each.unflatten(1, (-1, _POOL)).mean(2) for each in self._hidden(features)]
        found = torch.stack(means, 1)[0, :, :steps]
        return found.transpose(0, 1).flatten(1).float().cpu().numpy()

    def _hidden(self, features: Tensor) -> Iterator[Tensor]:
        """What each layer gives of a clip at its own length, filled up with silence to whole
        steps."""
        encoder = self.encoder
        silence = (features.amax((1, 2), keepdim=True) - 2.0).clamp(min=-1.5)
        rest = silence.expand(-1, features.shape[1], -features.shape[2] % (2 * _POOL))
        x = F.gelu(encoder.conv1(torch.cat([features, rest], 2)))
        x = F.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
            yield x


def _find(name: str, revision: str, part: str, model: str) -> str:
    """A folder with the weights of this revision: a commit of the Hub, or a hash of a file.

    Raises:
        ValueError: it has others, or the Hub cannot have them.
    """
    if not Path(name).is_dir():
        if not _COMMIT.fullmatch(revision):
            raise ValueError(f"{model}: its {part} was {name}, but not from the Hub (revision "
                             f"{revision}): give {part}=FOLDER with the same weights")
        from huggingface_hub import snapshot_download

        return snapshot_download(name, revision=revision)
    folder = Path(name).resolve()
    if revision in (folder.name, _hash_of(folder)):
        return str(folder)
    raise ValueError(f"{model}: trained with revision {revision} of its {part}; {folder} has "
                     "other weights")


def _hash_of(folder: Path) -> str:
    """16 hex digits of what the weights' files hold, one after the other."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
