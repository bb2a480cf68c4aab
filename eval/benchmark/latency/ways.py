"""What `eval.benchmark.latency` compares: from 16 kHz audio to texts, greedy, on one thread.

    ways = make_ways(models, "float32")
    texts = ways["teacher, short"](audios, batch=1)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from eval.benchmark.latency.sherpa import sherpa_ways

DTYPES = ("float32", "int8")
TRANSFORMERS, PADDED, SHORT = "transformers", "teacher, padded", "teacher, short"
STUDENT, FASTER_WHISPER = "student, short", "faster-whisper"
LAYERS = [0, 2, 3, 5]  # of whisper-base's decoder, in a student that is not trained
_RATE = 12.0  # most tokens a second, as in labelling
Way = Callable[[Sequence[np.ndarray]], list[str]]


@dataclass
class Models:
    """Loaded once.

    Attributes:
        student: WhisperForConditionalGeneration; one that `is_trained`, or copies of layers, which
            say nothing but cost as much.
        ct2_folder: of the teacher in CTranslate2's format; None without faster-whisper.
        margin: seconds of silence that `short` ways encode behind a clip.
        with_sherpa: whether sherpa-onnx takes part.
    """

    teacher: object
    student: object
    processor: object
    is_trained: bool
    ct2_folder: Path | None
    margin: float
    language: str | None
    with_sherpa: bool = False


def load_models(recipe, student: Path | None, margin: float) -> Models:
    """The recipe's teacher, and a student of it.

    Raises:
        ValueError: there is no such teacher or student.
    """
    from distill.whisper.recognition.ct2_backend import converted
    from distill.whisper.recognition.loading import load
    from distill.whisper.student import make_student
    from distill.whisper.teacher import load_teacher

    teacher = load_teacher(recipe.teacher)
    if student is None:
        layers = range(teacher.model.config.encoder_layers)
        made = make_student(teacher.model, LAYERS, list(layers)).eval().requires_grad_(False)
        made.model.encoder = teacher.model.model.encoder
    else:
        made = load(str(student))[0].float()
    installed = all(map(importlib.util.find_spec, ("ctranslate2", "faster_whisper")))
    exports = all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "sherpa_onnx")))
    return Models(teacher.model, made, teacher.processor, student is not None,
                  converted(recipe) if installed else None, margin, recipe.language, exports)


def make_ways(models: Models, dtype: str) -> dict[str, Way]:
    """All rows of a type; transformers computes in float32 only."""
    int8 = dtype == "int8"
    ways: dict[str, Way] = {} if int8 else {TRANSFORMERS: _transformers(models)}
    teacher = _Ours(models, models.teacher, None, int8)
    short = _Ours(models, models.teacher, models.margin, int8)
    limits = None if models.is_trained else short.num_tokens
    ways |= {PADDED: teacher, SHORT: short,
             STUDENT: _Ours(models, models.student, models.margin, int8, limits)}
    if models.ct2_folder is not None:
        ways[FASTER_WHISPER] = _faster_whisper(models, int8)
    return ways | (sherpa_ways(models, dtype) if models.with_sherpa else {})


class _Ours:
    """Our encoder and decoder.

    Args:
        margin: None pads to 30 s.
        lengths: of the teacher's last texts; a student that is not trained writes as many tokens.
    """

    def __init__(self, models: Models, model, margin: float | None, int8: bool,
                 lengths: list[int] | None = None):
        from distill.whisper.decoding.whisper_decoder import WhisperDecoder
        from distill.whisper.encoder.int8 import with_int8_encoder
        from distill.whisper.encoder.lengths import set_margin

        self.model, self.processor, self.margin = model, models.processor, margin
        self.lengths, self.num_tokens, self.num_padded = lengths, [], 0
        if int8:
            self.model = model = with_int8_encoder(model)
        rules = model.generation_config
        if lengths is not None:  # nothing ends before its limit
            model.generation_config = deepcopy(rules)
            end = self.processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
            model.generation_config.suppress_tokens = [*(rules.suppress_tokens or []), end]
        set_margin(model, margin)
        self.decoder = WhisperDecoder(model, self.processor.tokenizer, models.language, int8=int8,
                                      on_loop="keep" if lengths is not None else "end")
        model.generation_config = rules

    def __call__(self, audios: Sequence[np.ndarray]) -> list[str]:
        from distill.whisper.encoder.audio import audio_features, encode_features
        from distill.whisper.encoder.lengths import set_margin
        from distill.whisper.recognition.guard import decode_guarded
        from distill.whisper.recognition.transcribe import to_text, token_limit

        set_margin(self.model, self.margin)
        features = audio_features(self.processor, audios, self.margin)
        limits = self.lengths or [token_limit(len(a) / SAMPLE_RATE, _RATE) for a in audios]

        def encode(some):
            return encode_features(self.model.get_encoder(), some)

        found = decode_guarded(
            lambda states, rows: self.decoder(states, [limits[row] for row in rows]),
            encode(features), () if self.lengths else features.short,
            lambda rows: encode(features.padded(rows)), self.decoder.report)
        self.num_tokens[:] = [len(each.tokens) + 1 for each in found]
        return [to_text(self.processor.tokenizer, each.tokens) for each in found]


def _transformers(models: Models) -> Way:
    """As its documentation has it: 30 s of log-mel features, then `generate`."""
    import torch

    @torch.no_grad()
    def way(audios: Sequence[np.ndarray]) -> list[str]:
        features = models.processor(list(audios), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        task = {} if models.language is None else {"language": models.language,
                                                   "task": "transcribe"}
        ids = models.teacher.generate(features.input_features, num_beams=1, do_sample=False, **task)
        return [text.strip() for text in
                models.processor.batch_decode(ids, skip_special_tokens=True)]

    return way


def _faster_whisper(models: Models, int8: bool) -> Way:
    """Clips of a batch are its segments of one recording, as in `eval.benchmark.label`."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(models.ct2_folder), device="cpu", cpu_threads=1,
                         compute_type="int8_float32" if int8 else "float32")
    batched = BatchedInferencePipeline(model)
    options = {"language": models.language, "beam_size": 1, "without_timestamps": True,
               "vad_filter": False}

    def way(audios: Sequence[np.ndarray]) -> list[str]:
        if len(audios) == 1:
            segments, _ = model.transcribe(audios[0], temperature=0.0, **options)
            return [" ".join(segment.text.strip() for segment in segments)]
        ends = np.cumsum([len(audio) for audio in audios]) / SAMPLE_RATE
        starts = [0.0, *ends[:-1]]
        places = [{"start": a, "end": b} for a, b in zip(starts, ends, strict=True)]
        segments, _ = batched.transcribe(np.concatenate(list(audios)), batch_size=len(audios),
                                         clip_timestamps=places, **options)
        texts = [""] * len(audios)
        for segment in segments:
            texts[int(np.searchsorted(ends, (segment.start + segment.end) / 2))] += segment.text
        return [text.strip() for text in texts]

    return way
