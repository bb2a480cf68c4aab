"""The models of a family, loaded once: students that have the teacher's encoder share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data.audio import SAMPLE_RATE
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.int8 import with_int8_encoder
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.guard import decode_guarded
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.student import same_encoder
from distill.whisper.teacher import load_teacher
from eval.family.ct2 import Ct2Decoder, converted
from eval.speech.asr import synchronise

TEACHER = "teacher"
CT2 = "int8 CTranslate2"


@dataclass(frozen=True)
class System:
    """A model as it is run.

    Attributes:
        model: TEACHER, or the layers of a student as in `Member.name`.
        folder: of its weights.
        dtype: float32; int8, on CPUs: all linear layers; CT2: the decoder's in CTranslate2.
    """

    model: str
    folder: Path
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.model}.{self.dtype}".replace(" ", "_")


class Models:
    """Decoders of systems, made when they are asked for.

    Args:
        kept: folder of copies for CTranslate2.
    """

    def __init__(self, recipe: WhisperRecipe, kept: Path):
        self.recipe, self.kept = recipe, kept
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        teacher = load_teacher(recipe.teacher)
        self.processor = teacher.processor
        # students in float32 by their names, and systems by theirs
        self._models: dict[str, Any] = {TEACHER: teacher.model.to(self.device)}
        self._int8_encoders: dict[int, Any] = {}  # by the float encoder they are copies of
        self._decoders: dict[str, WhisperDecoder | Ct2Decoder] = {}

    def _float(self, system: System) -> Any:
        if system.model not in self._models:
            from transformers import WhisperForConditionalGeneration

            found = WhisperForConditionalGeneration.from_pretrained(
                system.folder, dtype=torch.float32).to(self.device).eval().requires_grad_(False)
            teacher = self._models[TEACHER]
            if same_encoder(teacher, found):
                found.model.encoder = teacher.model.encoder
            self._models[system.model] = found
        return self._models[system.model]

    def decoder(self, system: System) -> WhisperDecoder | Ct2Decoder:
        if system.name not in self._decoders:
            self._decoders[system.name] = self._decoder(system)
        return self._decoders[system.name]

    def model(self, system: System) -> Any:
        """WhisperForConditionalGeneration; in int8 its encoder is a copy in int8."""
        if system.name not in self._models:
            model = self._float(system)
            self._models[system.name] = model if system.dtype == "float32" else self._int8(model)
        return self._models[system.name]

    def _int8(self, model: Any) -> Any:
        twin, key = with_int8_encoder(model), id(model.model.encoder)
        twin.model.encoder = self._int8_encoders.setdefault(key, twin.model.encoder)
        return twin

    def _decoder(self, system: System) -> WhisperDecoder | Ct2Decoder:
        model, tokenizer, recipe = self.model(system), self.processor.tokenizer, self.recipe
        if system.dtype == CT2:
            folder = converted(system.folder, self.kept)
            return Ct2Decoder(model, tokenizer, folder, recipe.language, recipe.task)
        return WhisperDecoder(model, tokenizer, recipe.language, recipe.task,
                              on_loop=recipe.evaluation.on_loop, int8=system.dtype == "int8")

    def encoder_of(self, system: System) -> tuple[int, float | None]:
        """The same for systems that hear the same."""
        model = self.model(system)
        return id(model.model.encoder), margin_of(model)

    def way(self, system: System) -> Callable[[np.ndarray], str]:
        """From 16 kHz audio to text, one clip at a time, as `transcribe` does it."""
        decoder, model = self.decoder(system), self.model(system)
        limit, encoder = model.config.max_target_positions, model.get_encoder()

        def transcribe(audio: np.ndarray) -> str:
            features = audio_features(self.processor, [audio], margin_of(model))
            (found,) = decode_guarded(
                lambda states, rows: decoder(states, [limit] * len(rows)),
                encode_features(encoder, features), features.short,
                lambda rows: encode_features(encoder, features.padded(rows)), decoder.report)
            return to_text(self.processor.tokenizer, found.tokens)

        return transcribe

    def seconds(self, way: Callable[[np.ndarray], str], audio: np.ndarray) -> float:
        """That a way takes for a clip, by the clock."""
        started = time.perf_counter()
        way(audio)
        synchronise(torch.device(self.device))
        return time.perf_counter() - started


def cut(audios: list[np.ndarray], seconds: float, count: int) -> list[np.ndarray]:
    """Clips of a length from audio, one after the other, from its beginning again where it ends."""
    length = round(seconds * SAMPLE_RATE)
    return list(np.resize(np.concatenate(audios), count * length).reshape(count, length))
