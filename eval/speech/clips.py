"""The test split clip by clip, as somebody uses it who sends one short clip at a time.

Packed windows (`eval.speech.measure`) are what a long recording is like; here every clip is by
itself, and short audio is encoded at its own length if the model's config allows it. On CPUs the
student is heard in int8, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

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
from distill.whisper.encoder.int8 import with_int8_encoder
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.transcribe import by_length, to_text, transcribe
from eval.speech.asr import is_loop
from eval.speech.clip_times import clip_times
from eval.speech.weight_bytes import weight_bytes


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
    models = {"teacher": teacher, "student": student}
    if student.device.type == "cpu":
        models["student_int8"] = with_int8_encoder(student)
    counts, loops, padded = {}, {}, {}
    for role, model in models.items():
        found, padded[role] = _transcribe(recipe, model, processor, clips, role)
        loops[role] = sum(map(is_loop, found))
        counts[role] = [
            error_counts(normalise(clip.reference),
                         normalise(to_text(processor.tokenizer, each.tokens)))
            for clip, each in zip(clips, found, strict=True)]
    windows = [clip.windows[0] for clip in clips]
    return {
        "num_clips": len(clips),
        "mean_seconds": statistics.fmean(clip.duration for clip in clips),
        "short_audio_margin": {"teacher": margin_of(teacher), "student": margin_of(student)},
        **_errors(counts, recipe),
        "looping_clips": loops["student"],
        "teacher_looping_clips": loops["teacher"],
        "decoded_again_padded": padded,
        "megabytes": _megabytes(teacher, student, models.keys()),
        **clip_times(recipe, teacher, student, processor, windows),
    }


def _clips(recipe: WhisperRecipe) -> list[EvaluationUtterance]:
    """Test clips of up to 30 s that have a text."""
    utterances, _ = evaluation_utterances(load_clips(recipe.data.test)[0], "test", packed=False)
    return [each for each in utterances if len(each.windows) == 1 and each.seconds is None]


def _transcribe(recipe: WhisperRecipe, model, processor, clips: Sequence[EvaluationUtterance],
                role: str) -> tuple[list[Hypothesis], int]:
    """Texts of all clips, and how many of them were decoded again because they went wrong."""
    decoder = WhisperDecoder(model, processor.tokenizer, recipe.language, recipe.task,
                             int8=role.endswith("int8"), on_loop=recipe.evaluation.on_loop)
    size = recipe.evaluation.batch_size
    found: dict[str, Hypothesis] = {}
    batches = by_length([clip.windows[0] for clip in clips], size)
    for batch in progress(batches, len(batches), f"clip by clip, {role}", "batches"):
        found |= transcribe(decoder, processor, batch, size)
    return [found[clip.windows[0].id] for clip in clips], decoder.report.padded


def _megabytes(teacher, student, roles: Iterable[str]) -> dict[str, float]:
    """Of the weights; as they are used, so those of the student in int8 are its own."""
    shapes = {"teacher": [each.shape for each in teacher.parameters()],
              "student": [each.shape for each in student.parameters()]}
    return {role: weight_bytes(shapes[role.removesuffix("_int8")],
                               "int8" if role.endswith("_int8") else "float32") / 1e6
            for role in roles}


def _errors(counts: dict[str, list[ErrorCounts]], recipe: WhisperRecipe) -> dict:
    samples, seed = recipe.evaluation.num_bootstrap, recipe.seed
    result: dict = {"num_words": total(counts["teacher"]).num_reference}
    for role, each in counts.items():
        result[f"{role}_wer"] = total(each).rate
        result[f"{role}_wer_ci"] = bootstrap_interval(each, samples, seed)
        sums = asdict(total(each))
        result[f"{role}_errors"] = {key: sums[key] for key in
                                    ("substitutions", "deletions", "insertions")}
    for role in counts.keys() - {"teacher"}:
        paired = paired_bootstrap(counts["teacher"], counts[role], samples, seed)
        name = role.removeprefix("student").lstrip("_")
        prefix = f"{name}_" if name else ""
        result |= {f"{prefix}wer_difference": paired.difference,
                   f"{prefix}wer_difference_ci": paired.interval,
                   f"{prefix}p_value": paired.p_value}
    return result
