"""Milliseconds from samples to text, of single clips and of batches.

All ways in turn on the same clips, so that a busy machine slows all of them.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import Window, load_window
from distill.progress import progress
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import encode_audio
from distill.whisper.encoder.int8 import with_int8_encoder
from distill.whisper.encoder.lengths import margin_of, set_margin
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.transcribe import to_text

_TIMED = 6  # clips, spread over all lengths
_ROUNDS = 2  # each clip is timed so often, and the faster time counts; batches once
_PADDED, _TRANSFORMERS = "teacher, padded, float32", "teacher, transformers, float32"
_STUDENT, _INT8 = "student, float32", "student, int8"

Way = Callable[[Sequence[np.ndarray]], list[str]]  # 16 kHz clips -> texts


def clip_times(recipe: WhisperRecipe, teacher, student, processor,
               windows: Sequence[Window]) -> dict:
    """Of each way: milliseconds a clip one at a time (the median clip) and in a batch, and how
    often faster the student is (one at a time: medians of the clips' ratios). A clip of silence,
    which is padded, may be one of the few.

    Args:
        windows: clips to choose from; each is loaded whole.
    """
    ordered = sorted(windows, key=lambda window: window.duration)
    step = max(len(ordered) / _TIMED, 1)
    chosen = [ordered[int(step * (n + 0.5))] for n in range(min(_TIMED, len(ordered)))]
    audios = [load_window(window) for window in chosen]
    ways = _ways(recipe, teacher, student, processor)
    for way in ways.values():
        way(audios[:1])  # untimed: the first pays for threads, kernels and caches
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for audio in progress(audios, len(audios), "timing, one clip at a time", "clips"):
        for name, way in ways.items():
            seconds[name].append(min(_seconds(way, [audio]) for _ in range(_ROUNDS)))
    batch = {name: _seconds(way, audios) for name, way in
             progress(ways.items(), len(ways), f"timing, {len(audios)} clips at once", "ways")}
    return {
        "timed_clips": {"count": len(audios), "mean_seconds": statistics.fmean(
            len(audio) / SAMPLE_RATE for audio in audios)},
        "milliseconds": {name: 1000 * statistics.median(each) for name, each in seconds.items()},
        "milliseconds_in_batch": {
            "batch_size": len(audios),
            **{name: 1000 * each / len(audios) for name, each in batch.items()}},
        "speedup_vs_padded_teacher_fp32": _ratio(seconds[_PADDED], seconds[_STUDENT]),
        "speedup_vs_transformers_fp32": _ratio(seconds[_TRANSFORMERS], seconds[_STUDENT]),
        "speedup_vs_transformers_int8": _ratio(seconds[_TRANSFORMERS], seconds.get(_INT8)),
    }


def _ways(recipe: WhisperRecipe, teacher, student, processor) -> dict[str, Way]:
    """What is timed, from 16 kHz audio to text."""
    def ours(model, margin: float | None, int8: bool = False) -> Way:
        return _our_way(recipe, model, processor, margin, int8)

    ways = {_TRANSFORMERS: _transformers(recipe, teacher, processor), _PADDED: ours(teacher, None),
            "teacher, float32": ours(teacher, margin_of(teacher)),
            _STUDENT: ours(student, margin_of(student))}
    if student.device.type == "cpu":
        ways[_INT8] = ours(with_int8_encoder(student), margin_of(student), int8=True)
    return ways


def _our_way(
    recipe: WhisperRecipe, model, processor, margin: float | None, int8: bool
) -> Way:
    kept = margin_of(model)
    set_margin(model, margin)
    decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task, int8=int8,
                             on_loop=recipe.evaluation.on_loop)
    set_margin(model, kept)

    def way(audios: Sequence[np.ndarray]) -> list[str]:
        set_margin(model, margin)
        states = encode_audio(model, processor, audios)
        set_margin(model, kept)
        found = decoder(states, [model.config.max_target_positions] * len(audios))
        return [to_text(processor.tokenizer, each.tokens) for each in found]

    return way


def _transformers(recipe: WhisperRecipe, model, processor) -> Way:
    """`generate`, as its documentation shows it."""
    # it warns at every call about how it passes its own settings to itself
    logging.getLogger("transformers.generation").setLevel(logging.ERROR)

    @torch.no_grad()
    def way(audios: Sequence[np.ndarray]) -> list[str]:
        features = processor(list(audios), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        ids = model.generate(features.input_features.to(model.device), num_beams=1,
                             do_sample=False, task=recipe.task,
                             language=recipe.language if recipe.task else None)
        return processor.batch_decode(ids, skip_special_tokens=True)

    return way


def _seconds(way: Way, audios: Sequence[np.ndarray]) -> float:
    started = time.perf_counter()
    way(audios)
    return time.perf_counter() - started


def _ratio(slow: Sequence[float], fast: Sequence[float] | None) -> float | None:
    if fast is None:
        return None
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
