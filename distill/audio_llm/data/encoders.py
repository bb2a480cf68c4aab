"""Frozen encoders: what an adapter reads of audio.

    encoder = load_encoder(recipe.encoder, recipe.adapter, device)
    encoder.encode([wave])              # float16 (frames, encoder.width of its own) of each clip
    encoder.frame_ms, encoder.layers    # a frame; how many layers stand side by side

| kind | model | a frame |
|---|---|---|
| whisper | a Whisper: Hub id, folder, data wheels | 20 ms; of all layers for TLTR, 400 ms |
| ced | a CED tagger's folder or Hub id (arXiv:2308.11957) | 160 ms |
| callable | `package.module:function` of your own | as it says |

`function(device)` returns an object with `frame_ms`, `revision` (a text that changes when its
states would), and `encode(waves)`: float (frames, width) of each wave, float32 (samples,) at 16
kHz. Ours load their weights when the first clip is encoded.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distill.audio_llm.recipe import CED_MS, ENCODER_MS, AdapterConfig, EncoderConfig
from distill.data.audio import SAMPLE_RATE
from distill.data.files import hash_files, read_json
from distill.whisper.encoder.audio import audio_features, encode_each
from distill.whisper.encoder.lengths import POSITIONS_PER_SECOND, margin_of
from distill.whisper.recipe_sections import TeacherConfig
from distill.whisper.teacher import Teacher, load_teacher, locate
from distill.whisper_at.model import WhisperTaggerExtractor, from_whisper
from distill.whisper_at.states import StatesAlone


class Encoder(Protocol):
    """
    Attributes:
        source: one sentence saying where it came from; revision: of its weights.
        depends_on: all else that its states depend on.
    """

    source: str
    revision: str
    frame_ms: int
    layers: int
    depends_on: list[Any]

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]: ...


def load_encoder(config: EncoderConfig, adapter: AdapterConfig, device: Any) -> Encoder:
    """
    Raises:
        ValueError: there is no such model, or it does not fit the adapter.
    """
    takes_layers = adapter.kind == "tltr"
    if config.kind == "whisper":
        return WhisperStates(config, takes_layers, device)
    if config.kind == "ced":
        return CedStates(config, device)
    return CallableStates(config, device)


class WhisperStates:
    """The encoder of a Whisper; where an adapter takes all layers, each one's means over 0.4 s."""

    frame_ms = ENCODER_MS

    def __init__(self, config: EncoderConfig, takes_layers: bool, device: Any):
        self.device, self.takes_layers, self.layers = device, takes_layers, 1
        self.settings = TeacherConfig(config.model, config.revision, list(config.fallback_wheels),
                                      short_audio_margin=config.short_audio_margin)
        found, self.revision, self.source = locate(self.settings)
        if takes_layers:
            self.layers = int(read_json(found / "config.json")["encoder_layers"])
        self._teacher: Teacher | None = None
        self._listen: StatesAlone | None = None

    @property
    def depends_on(self) -> list[Any]:
        found: list[Any] = [self.settings.short_audio_margin]
        return [*found, "layers"] if self.takes_layers else found

    @property
    def teacher(self) -> Teacher:
        """The whole Whisper, loaded when it is asked for."""
        if self._teacher is None:
            self._teacher = load_teacher(self.settings)
            self._teacher.model.to(self.device)
        return self._teacher

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float16 (frames, width) of audio of up to 30 s each, cut to its length; of all layers,
        (steps of 0.4 s, layers * width)."""
        model, processor = self.teacher.model, self.teacher.processor
        if self.takes_layers:
            return self._encode_layers(waves)
        features = audio_features(processor, waves, margin_of(model))
        found = encode_each(model.get_encoder(), features)
        return [each[: num_frames(len(wave))].cpu().numpy().astype(np.float16)
                for wave, each in zip(waves, found, strict=True)]

    def _encode_layers(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self._listen is None:
            extractor = WhisperTaggerExtractor(
                feature_size=self.teacher.processor.feature_extractor.feature_size)
            tagger = from_whisper(self.teacher.model, ["any"], head_size=1)
            self._listen = StatesAlone(tagger.to(self.device), extractor)
        return [each.transpose(0, 1).flatten(1).cpu().numpy().astype(np.float16)
                for each in self._listen(waves)]


class CedStates:
    """The encoder of a CED tagger: what its head averages, every 160 ms."""

    frame_ms, layers = CED_MS, 1
    depends_on: list[Any] = []

    def __init__(self, config: EncoderConfig, device: Any):
        self.config, self.device, self._model = config, device, None
        folder = Path(config.model)
        if folder.is_dir():
            weights = sorted(folder.glob("*.safetensors"))
            if not weights:
                raise ValueError(f"encoder.model: {folder} has no *.safetensors; published weights "
                                 "become a folder by python -m distill.ced.convert")
            self.revision, self.source = hash_files(weights), f"folder {folder}"
        else:
            from huggingface_hub import snapshot_download

            self.revision = Path(snapshot_download(config.model, revision=config.revision)).name
            self.source = f"{config.model}@{self.revision} from the Hub"

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float16 (steps, width) of each; a clip has at least one step."""
        import torch
        from transformers import AutoModelForAudioClassification

        if self._model is None:
            importlib.import_module("distill.ced.model.modeling")  # registers it
            extractor = importlib.import_module("distill.ced.model.extractor")
            name, options = self.config.model, {"revision": self.config.revision}
            model = AutoModelForAudioClassification.from_pretrained(
                name, dtype=torch.float32, **({} if Path(name).is_dir() else options))
            self._model = model.eval().requires_grad_(False).to(self.device)
            self._extractor = extractor.CedFeatureExtractor()
        inputs = self._extractor(list(waves), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.no_grad():
            found = self._model(**inputs.to(self.device))
        return [steps[mask].cpu().numpy().astype(np.float16)
                for steps, mask in zip(found.last_hidden_state, found.frame_mask, strict=True)]


class CallableStates:
    """What a function of the user's returns; see the head of this file."""

    layers = 1
    depends_on: list[Any] = []

    def __init__(self, config: EncoderConfig, device: Any):
        name, _, attribute = config.model.partition(":")
        try:
            self._own = getattr(importlib.import_module(name), attribute)(device)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"encoder.model: {config.model} cannot be imported ({error}); "
                             "expected package.module:function") from error
        if lacks := [key for key in ("frame_ms", "revision", "encode")
                     if not hasattr(self._own, key)]:
            raise ValueError(f"encoder.model: what {config.model} returns has no {lacks[0]}")
        self.frame_ms, self.revision = int(self._own.frame_ms), str(self._own.revision)
        self.source = config.model

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float16 (frames, width) of each.

        Raises:
            ValueError: the function gives something else.
        """
        found = [np.asarray(each) for each in self._own.encode(list(waves))]
        if len(found) != len(waves) or any(each.ndim != 2 or not len(each) for each in found):
            raise ValueError(f"{self.source}: encode must give (frames, width) for each of "
                             f"{len(waves)} waves, got {[each.shape for each in found][:3]}")
        return [each.astype(np.float16) for each in found]


def num_frames(samples: int) -> int:
    """Encoder frames of 20 ms that a clip has, at least one."""
    return max(1, min(round(samples / SAMPLE_RATE * POSITIONS_PER_SECOND), 1500))
