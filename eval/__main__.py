"""Measure teacher and student on the test split and write the report.

    python -m eval RECIPE [key=value ...]

Writes runs/NAME/eval/{predictions.jsonl,results.json,plots/} and runs/NAME/report/index.html, and
prints teacher and student side by side. Done already: prints the table again.
"""

from __future__ import annotations

from pathlib import Path

from distill.config import read_method
from distill.data.files import fingerprints, hash_of, read_json, write_json, write_jsonl
from distill.data.model_files import model_stamp
from distill.endings import run as run_command
from distill.endings import writing_to
from distill.methods import check_data, evaluation_settings
from distill.publish.facts import public_name
from distill.whisper.recipe import WhisperRecipe, load_recipe, written_language
from eval.tagging import measure as tagging


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if read_method(arguments[0]) == "ced":
        tagging.main(arguments)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    run = Path(recipe.output_dir)
    with writing_to(run):
        show(run, evaluate(recipe, run))


def show(run: Path, results: dict) -> None:
    """Print the table, then write report and pictures: what comes last cannot cost the others.

    Raises:
        ValueError: the pictures cannot be drawn.
    """
    from eval.plots import write_plots
    from eval.report import write_report
    from eval.speech.table import text_table

    print(text_table(results), flush=True)
    print(f"\nReport with pictures: {write_report(run).resolve()}", flush=True)
    try:
        write_plots(run)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the pictures of the model card cannot be drawn ({error!r}); results "
                         "and report are complete") from error


def evaluate(recipe: WhisperRecipe, run: Path) -> dict:
    """results.json of a run, measured now unless nothing has changed since."""
    student = run / "student"
    if not student.is_dir():
        raise ValueError(f"no student in {student}: run `make NAME.train` first")
    trained = run / "student.json"
    check_data(recipe, "eval")
    settings = evaluation_settings(recipe, read_json(trained) if trained.is_file() else None)
    path = run / "eval" / "results.json"
    if path.is_file() and read_json(path).get("settings") == settings:
        print("Evaluation is done already.")
        return read_json(path)
    results, predictions = _measure_both(recipe, run, settings)
    write_jsonl(run / "eval" / "predictions.jsonl", predictions)
    write_json(path, {**results, "settings": settings})
    for kept in (run / "eval").glob(".*.said.jsonl"):
        kept.unlink()
    return results


def _measure_both(recipe: WhisperRecipe, run: Path, settings: str) -> tuple[dict, list[dict]]:
    import torch

    from distill.metrics.error_rates import error_rate, paired_bootstrap, total
    from distill.metrics.normalize import check_words, error_unit, normalizer, normalizer_name
    from distill.metrics.translation import translation_scores
    from distill.progress import quiet_libraries
    from distill.whisper.data.corpus import test_utterances
    from distill.whisper.teacher import load_teacher, locate
    from eval.machine import this_machine
    from eval.speech.asr import error_table, measure, summarise
    from eval.speech.kept import Kept

    quiet_libraries()
    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    utterances, drops = test_utterances(recipe, whole=True)
    seconds = sum(utterance.duration for utterance in utterances)
    print(f"Evaluating on {len(utterances)} utterances, {seconds / 60:.1f} minutes of audio; left "
          f"out: {drops or 'nothing'}", flush=True)

    def load_the_teacher():
        teacher = load_teacher(recipe.teacher)
        return teacher.model.to(device), teacher.processor

    def load_the_student():
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        model = WhisperForConditionalGeneration.from_pretrained(
            run / "student", dtype=torch.float32
        )
        return model.to(device), WhisperProcessor.from_pretrained(run / "student")

    evaluation = recipe.evaluation
    unit = error_unit(written_language(recipe), " ".join(each.reference for each in utterances))
    normalise = normalizer(evaluation.normalizer, written_language(recipe), unit)
    check_words([each.reference for each in utterances], normalise, "data.test")
    teacher_folder = locate(recipe.teacher)[0]
    # the student first: memory freed by the teacher would hide in the student's peak
    loaders = {
        "student": (load_the_student, run.name, run / "student"),
        "teacher": (load_the_teacher, recipe.teacher.model, teacher_folder),
    }
    entries, tables, texts = {}, {}, {}
    what = _windows_hash(utterances)
    for role, (load, name, folder) in loaders.items():
        kept = Kept(run / "eval" / f".{role}.said.jsonl", hash_of([settings, what, folder.name,
                                                                  model_stamp(folder)]))
        measured = measure(load, utterances, recipe, name, folder, kept, role == "teacher")
        texts[role] = measured.texts
        tables[role] = error_table(utterances, measured.texts, normalise)
        entries[role] = summarise(
            measured, tables[role], [normalise(t) for t in measured.texts], seconds,
            evaluation.num_bootstrap, recipe.seed,
        )
        if recipe.task == "translate":
            entries[role] |= translation_scores(utterances, texts[role], written_language(recipe))
    paired = paired_bootstrap(
        tables["teacher"]["wer"], tables["student"]["wer"], evaluation.num_bootstrap, recipe.seed
    )
    results = {
        "split": "test",
        "normalizer": normalizer_name(evaluation.normalizer, written_language(recipe)),
        "error_unit": unit,
        "num_units": len(utterances),
        "num_words": total(tables["teacher"]["wer"]).num_reference,
        "hours": seconds / 3600,
        "drops": drops,
        "num_bootstrap": evaluation.num_bootstrap,
        "decoding": f"greedy, batch {evaluation.batch_size}, no timestamps, "
        + {"keep": "nothing done about loops", "end": "loops end a text",
           "break": "loops broken"}[evaluation.on_loop]
        + _about_long(evaluation.long_audio, utterances) + _about_drafts(recipe),
        "threads": torch.get_num_threads(),
        "machine": this_machine(),
        "teacher": entries["teacher"],
        "student": entries["student"],
        "student_against_teacher": {
            "wer": error_rate(
                error_table(_against(utterances, texts["teacher"]), texts["student"],
                            normalise)["wer"]
            )
        },
        "paired": {
            "wer_difference": paired.difference,
            "wer_difference_ci": list(paired.interval) if paired.interval else None,
            "p_value": paired.p_value,
        },
    }
    return results, [_prediction(utterance, texts, i) for i, utterance in enumerate(utterances)]


def _windows_hash(utterances: list) -> str:
    """Of everything that is heard: the windows, and the audio they are of."""
    windows = [window for utterance in utterances for window in utterance.windows]
    pieces = [[w.id, w.language, [[p.audio_filepath, p.offset, p.duration, p.start]
                                  for p in w.pieces]] for w in windows]
    return hash_of([pieces, fingerprints(p.audio_filepath for w in windows for p in w.pieces)])


def _about_long(way: str, utterances: list) -> str:
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


def _against(utterances: list, teacher_texts: list[str]) -> list:
    """The utterances with the teacher's text as their reference: what distillation itself lost."""
    from dataclasses import replace

    return [replace(utterance, reference=text)
            for utterance, text in zip(utterances, teacher_texts, strict=True)]


def _prediction(utterance, texts: dict[str, list[str]], index: int) -> dict:
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


if __name__ == "__main__":
    run_command(main)
