"""The test split clip by clip, as somebody uses it who sends one short clip at a time.

Packed windows (`eval.speech.measure`) are what a long recording is like; here every clip is by
itself, and short audio is encoded at its own length if the model's config allows it. Times are of
one clip at a time, all ways in turn on the same clips, so that a busy machine slows all of them.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch

from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import load_window
from distill.metrics.error_rates import (
    ErrorCounts,
    bootstrap_interval,
    error_counts,
    paired_bootstrap,
    total,
)
from distill.metrics.normalize import error_unit, normalizer
from distill.progress import progress
from distill.whisper.data.corpus import EvaluationUtterance, evaluation_utterances, load_clips
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import encode_audio
from distill.whisper.encoder.lengths import margin_of, set_margin
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.transcribe import by_length, to_text, transcribe
from eval.speech.asr import is_loop

_TIMED = 8  # clips, spread over all lengths
_ROUNDS = 2  # each is timed so often, and the faster time counts
_PADDED, _TRANSFORMERS = "teacher, padded, float32", "teacher, transformers, float32"
_STUDENT, _INT8 = "student, float32", "student, int8"


def measure_clips(
    recipe: WhisperRecipe, load_student: Callable[[], tuple], load_teacher: Callable[[], tuple]
) -> dict:
    """The entry `clips` of results.json; rates are fractions, times milliseconds.

    Args:
        load_student, load_teacher: return (model, processor).
    """
    clips = _clips(recipe)
    language = written_language(recipe)
    unit = error_unit(language, " ".join(clip.reference for clip in clips))
    normalise = normalizer(recipe.evaluation.normalizer, language, unit)
    student, processor = load_student()
    teacher, _ = load_teacher()
    student.eval()
    counts, loops, padded = {}, {}, {}
    for role, model in (("teacher", teacher), ("student", student)):
        found, padded[role] = _transcribe(recipe, model, processor, clips, role)
        loops[role] = sum(map(is_loop, found))
        counts[role] = [
            error_counts(normalise(clip.reference),
                         normalise(to_text(processor.tokenizer, each.tokens)))
            for clip, each in zip(clips, found, strict=True)]
    return {
        "num_clips": len(clips),
        "mean_seconds": statistics.fmean(clip.duration for clip in clips),
        "short_audio_margin": {"teacher": margin_of(teacher), "student": margin_of(student)},
        **_errors(counts, recipe),
        "looping_clips": loops["student"],
        "teacher_looping_clips": loops["teacher"],
        "decoded_again_padded": padded,
        **_times(recipe, teacher, student, processor, clips),
    }


def _clips(recipe: WhisperRecipe) -> list[EvaluationUtterance]:
    """Test clips of up to 30 s that have a text."""
    utterances, _ = evaluation_utterances(load_clips(recipe.data.test)[0], "test", packed=False)
    return [each for each in utterances if len(each.windows) == 1 and each.seconds is None]


def _transcribe(recipe: WhisperRecipe, model, processor, clips: Sequence[EvaluationUtterance],
                role: str) -> tuple[list[Hypothesis], int]:
    """Texts of all clips, and how many of them were decoded again because they went wrong."""
    decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task,
                             on_loop=recipe.evaluation.on_loop)
    size = recipe.evaluation.batch_size
    found: dict[str, Hypothesis] = {}
    batches = by_length([clip.windows[0] for clip in clips], size)
    for batch in progress(batches, len(batches), f"clip by clip, {role}", "batches"):
        found |= transcribe(decoder, processor, batch, size)
    return [found[clip.windows[0].id] for clip in clips], decoder.report.padded


def _errors(counts: dict[str, list[ErrorCounts]], recipe: WhisperRecipe) -> dict:
    samples, seed = recipe.evaluation.num_bootstrap, recipe.seed
    paired = paired_bootstrap(counts["teacher"], counts["student"], samples, seed)
    result: dict = {"num_words": total(counts["teacher"]).num_reference}
    for role, each in counts.items():
        result[f"{role}_wer"] = total(each).rate
        result[f"{role}_wer_ci"] = bootstrap_interval(each, samples, seed)
        sums = asdict(total(each))
        result[f"{role}_errors"] = {key: sums[key] for key in
                                    ("substitutions", "deletions", "insertions")}
    return result | {"wer_difference": paired.difference, "wer_difference_ci": paired.interval,
                     "p_value": paired.p_value}


def _times(recipe: WhisperRecipe, teacher, student, processor,
           clips: Sequence[EvaluationUtterance]) -> dict:
    """Milliseconds a clip of each way, and how often faster the student is: medians of the clips'
    ratios."""
    ordered = sorted((clip.windows[0] for clip in clips), key=lambda window: window.duration)
    step = max(len(ordered) / _TIMED, 1)
    chosen = [ordered[int(step * (n + 0.5))] for n in range(min(_TIMED, len(ordered)))]
    audios = [load_window(window) for window in chosen]
    ways = _ways(recipe, teacher, student, processor)
    for way in ways.values():
        way(audios[0])  # untimed: the first pays for threads, kernels and caches
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for audio in progress(audios, len(audios), "timing, one clip at a time", "clips"):
        for name, way in ways.items():
            seconds[name].append(min(_seconds(way, audio) for _ in range(_ROUNDS)))
    return {
        "timed_clips": {"count": len(audios), "mean_seconds": _mean_length(audios)},
        "milliseconds": {name: 1000 * statistics.fmean(each) for name, each in seconds.items()},
        "speedup_vs_padded_teacher_fp32": _ratio(seconds[_PADDED], seconds[_STUDENT]),
        "speedup_vs_transformers_fp32": _ratio(seconds[_TRANSFORMERS], seconds[_STUDENT]),
        "speedup_vs_transformers_int8": _ratio(seconds[_TRANSFORMERS], seconds.get(_INT8)),
    }


def _ways(recipe: WhisperRecipe, teacher, student, processor) -> dict[str, Callable]:
    """What is timed: from 16 kHz audio to text."""
    language, task = recipe.language, recipe.task

    def ours(model, margin: float | None, int8: bool = False) -> Callable[[np.ndarray], str]:
        kept = margin_of(model)
        set_margin(model, margin)
        decoder = WhisperDecoder(model, processor.tokenizer, language, task, int8=int8,
                                 on_loop=recipe.evaluation.on_loop)
        set_margin(model, kept)

        def way(audio: np.ndarray) -> str:
            set_margin(model, margin)
            states = encode_audio(model, processor, [audio])
            set_margin(model, kept)
            (found,) = decoder(states, [model.config.max_target_positions])
            return to_text(processor.tokenizer, found.tokens)

        return way

    # it warns at every call about how it passes its own settings to itself
    logging.getLogger("transformers.generation").setLevel(logging.ERROR)

    @torch.no_grad()
    def transformers(audio: np.ndarray) -> str:
        features = processor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        ids = teacher.generate(features.input_features.to(teacher.device), num_beams=1,
                               do_sample=False, language=language if task else None, task=task)
        return processor.batch_decode(ids, skip_special_tokens=True)[0]

    ways = {_TRANSFORMERS: transformers, _PADDED: ours(teacher, None),
            "teacher, float32": ours(teacher, margin_of(teacher)),
            _STUDENT: ours(student, margin_of(student))}
    if student.device.type == "cpu":
        ways[_INT8] = ours(student, margin_of(student), int8=True)
    return ways


def _seconds(way: Callable, audio: np.ndarray) -> float:
    started = time.perf_counter()
    way(audio)
    return time.perf_counter() - started


def _ratio(slow: Sequence[float], fast: Sequence[float] | None) -> float | None:
    if fast is None:
        return None
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _mean_length(audios: Sequence[np.ndarray]) -> float:
    return statistics.fmean(len(audio) / SAMPLE_RATE for audio in audios)
