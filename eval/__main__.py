"""Measure teacher and student on the test split and write the report.

    python -m eval RECIPE [key=value ...]

Writes runs/NAME/eval/{predictions.jsonl,results.json,plots/} and runs/NAME/report/index.html, and
prints teacher and student side by side. Done already: prints the table again.
"""

from __future__ import annotations

from pathlib import Path

from distill.config import read_method
from distill.data.files import read_json, write_json, write_jsonl
from distill.endings import run as run_command
from distill.endings import writing_to
from distill.methods import check_data, evaluation_settings, find_method
from distill.whisper.recipe import WhisperRecipe, load_recipe
from eval.tagging import measure as tagging


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    method = find_method(read_method(arguments[0]))
    if "evaluate" not in method.stages:
        raise ValueError(f"there is no evaluation of method {method.name!r}")
    if method.output == "tags":
        tagging.main(arguments)
        return
    if method.output == "answers":
        from eval.audio_llm.measure import main as measure_answers

        measure_answers(arguments)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    run = Path(recipe.output_dir)
    with writing_to(run):
        results = evaluate(recipe, run)
        sounds = evaluate_sounds(recipe, run)
        show(run, results)
        if sounds:
            print(sounds)


def evaluate_sounds(recipe: WhisperRecipe, run: Path) -> str:
    """Add to results.json what the student's head hears, if it has one; returns a few lines."""
    if not recipe.tagger.data.test:
        return ""
    from eval.tagging.joint import evaluate_joint, text_of

    path, found = run / "eval" / "results.json", evaluate_joint(recipe, run)
    write_json(path, {**read_json(path), **found})
    return text_of(found)


def show(run: Path, results: dict) -> None:
    """Print the table, then write report and pictures: what comes last cannot cost the others.

    Raises:
        ValueError: the pictures cannot be drawn.
    """
    from eval.plots import write_plots
    from eval.report.write import write_report
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
    from eval.speech.measure import measure_both

    results, predictions = measure_both(recipe, run, settings)
    write_jsonl(run / "eval" / "predictions.jsonl", predictions)
    write_json(path, {**results, "settings": settings})
    for kept in (run / "eval").glob(".*.said.jsonl"):
        kept.unlink()
    return results


if __name__ == "__main__":
    run_command(main)
