"""Student and teacher on the test split: transcripts, errors, speed and memory side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from distill.data.files import hash_of
from distill.data.formats.places import fingerprints
from distill.data.model_files import model_stamp
from distill.metrics.error_rates import error_rate, paired_bootstrap, total
from distill.metrics.normalize import check_words, error_unit, normalizer, normalizer_name
from distill.metrics.translation import translation_scores
from distill.progress import quiet_libraries
from distill.publish.facts import public_name
from distill.whisper.data.corpus import EvaluationUtterance, test_utterances
from distill.whisper.prompting.reader_files import attach
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.halves import loop_rule
from distill.whisper.teacher import load_teacher, locate
from eval.machine import this_machine
from eval.speech.asr import error_table, measure, summarise
from eval.speech.clips import measure_clips
from eval.speech.kept import Kept

_ON_LOOP = {"keep": "loops are kept", "end": "loops end a text",
            "break": "loops are broken, and long windows that looped decoded in halves"}


def measure_both(recipe: WhisperRecipe, run: Path, settings: str) -> tuple[dict, list[dict]]:
    """Everything in results.json but the settings, and the rows of predictions.jsonl.

    Args:
        settings: hash of what results depend on; what an earlier run kept for it is taken over.
    """
    quiet_libraries()
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    evaluation, language = recipe.evaluation, written_language(recipe)
    utterances, drops = test_utterances(recipe, whole=True)
    seconds = sum(utterance.duration for utterance in utterances)
    print(f"Evaluating on {len(utterances)} utterances, {seconds / 60:.1f} minutes of audio; left "
          f"out: {drops or 'nothing'}", flush=True)
    unit = error_unit(language, " ".join(each.reference for each in utterances))
    normalise = normalizer(evaluation.normalizer, language, unit)
    check_words([each.reference for each in utterances], normalise, "data.test")
    entries, tables, texts = {}, {}, {}
    windows = windows_hash(utterances)
    models = models_of(recipe, run)
    for role, (load, name, folder) in models.items():
        kept = Kept(run / "eval" / f".{role}.said.jsonl",
                    hash_of([settings, loop_rule(evaluation.on_loop), windows, folder.name,
                             model_stamp(folder)]))
        measured = measure(load, utterances, recipe, name, folder, kept, role == "teacher")
        texts[role] = measured.texts
        tables[role] = error_table(utterances, measured.texts, normalise)
        entries[role] = summarise(
            measured, tables[role], [normalise(t) for t in measured.texts], seconds,
            evaluation.num_bootstrap, recipe.seed)
        if recipe.task == "translate":
            entries[role] |= translation_scores(utterances, texts[role], language)
    against_teacher = error_table(_against(utterances, texts["teacher"]), texts["student"],
                                  normalise)
    paired = paired_bootstrap(tables["teacher"]["wer"], tables["student"]["wer"],
                              evaluation.num_bootstrap, recipe.seed)
    results = {
        "split": "test",
        "normalizer": normalizer_name(evaluation.normalizer, language),
        "error_unit": unit,
        "num_units": len(utterances),
        "num_words": total(tables["teacher"]["wer"]).num_reference,
        "hours": seconds / 3600,
        "drops": drops,
        "num_bootstrap": evaluation.num_bootstrap,
        "decoding": _decoding(recipe, utterances),
        "threads": torch.get_num_threads(),
        "machine": this_machine(),
        **{role: entries[role] for role in ("teacher", "student")},
        "student_against_teacher": {"wer": error_rate(against_teacher["wer"])},
        "paired": {
            "wer_difference": paired.difference,
            "wer_difference_ci": list(paired.interval) if paired.interval else None,
            "p_value": paired.p_value,
        },
    }
    if evaluation.clips:
        results["clips"] = measure_clips(recipe, models["student"][0], models["teacher"][0])
    return results, [_prediction(utterance, texts, i) for i, utterance in enumerate(utterances)]


def models_of(
    recipe: WhisperRecipe, run: Path
) -> dict[str, tuple[Callable[[], tuple], str, Path]]:
    """{role: (loads model and processor, its name, its folder)}. The student comes first: memory
    freed by the teacher would hide in the student's peak."""

    def teacher() -> tuple:
        found = load_teacher(recipe.teacher)
        return found.model.to(_device()), found.processor

    return {"student": (partial(load_folder, run / "student"), run.name, run / "student"),
            "teacher": (teacher, recipe.teacher.model, locate(recipe.teacher)[0])}


def load_folder(folder: Path) -> tuple:
    """(model, processor) of a folder, as float32; on the GPU if there is one."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    attach(model, folder)
    return model.to(_device()), WhisperProcessor.from_pretrained(folder)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _decoding(recipe: WhisperRecipe, utterances: Sequence[EvaluationUtterance]) -> str:
    """How both models were decoded, for readers."""
    evaluation = recipe.evaluation
    return (f"greedy, batch {evaluation.batch_size}, no timestamps, {_ON_LOOP[evaluation.on_loop]}"
            + _about_long(evaluation.long_audio, utterances) + _about_drafts(recipe))


def windows_hash(utterances: Sequence[EvaluationUtterance]) -> str:
    """Of everything that is transcribed: the windows, and the audio they are of."""
    windows = [window for utterance in utterances for window in utterance.windows]
    pieces = [[w.id, w.language, [[p.audio_filepath, p.offset, p.duration, p.start]
                                  for p in w.pieces]] for w in windows]
    return hash_of([pieces, fingerprints(p.audio_filepath for w in windows for p in w.pieces)])


def _about_long(way: str, utterances: Sequence[EvaluationUtterance]) -> str:
    """How clips longer than a window were decoded, if there were any."""
    if not any(utterance.seconds is not None for utterance in utterances):
        return ""
    return "; long clips: " + {
        "speech": "cut where nobody speaks", "quiet": "cut at quiet places",
        "sequential": "by timestamps, temperature fallback, no previous text"}[way]


def _about_drafts(recipe: WhisperRecipe) -> str:
    """The teacher's speed and memory are not those of a teacher alone where a student drafts."""
    drafts = recipe.decoding.assistant
    return f"; {public_name(drafts)} drafts for the teacher" if drafts else ""


def _against(
    utterances: Sequence[EvaluationUtterance], teacher_texts: Sequence[str]
) -> list[EvaluationUtterance]:
    """The utterances with the teacher's text as their reference: what distillation itself lost."""
    return [replace(utterance, reference=text)
            for utterance, text in zip(utterances, teacher_texts, strict=True)]


def _prediction(utterance: EvaluationUtterance, texts: dict[str, list[str]], index: int) -> dict:
    pieces, start = [], 0.0
    for window in utterance.windows:
        for piece in window.pieces:
            pieces.append(
                {"id": piece.id, "audio_filepath": piece.audio_filepath, "offset": piece.offset,
                 "duration": piece.duration, "start": round(start + piece.start, 6)}
            )
        start += window.duration
    return {
        "id": utterance.id,
        "reference": utterance.reference,
        "teacher": texts["teacher"][index],
        "student": texts["student"][index],
        "duration": round(utterance.duration, 6),
        "pieces": pieces,
    }
