"""Does a student do what its prompts say? Styles, and lists of rare names among distractors.

    python -m eval.prompts RECIPE [key=value ...]

Teacher, student and, where there is one (`make NAME.prompts` trains it), the twin that never saw a
prompt. Writes runs/NAME/eval/prompts.json and runs/NAME/report/prompts.html.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.files import write_json
from distill.endings import run as run_command
from distill.endings import writing_to
from distill.whisper.recipe import load_recipe


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    run, split = Path(recipe.output_dir), recipe.evaluation.prompts.split
    from eval.prompts.measure import measure
    from eval.prompts.table import text_table
    from eval.report.prompts import write_page

    with writing_to(run):
        results = measure(recipe, run)
        name = "prompts" if split == "test" else f"prompts_{split}"
        write_json(run / "eval" / f"{name}.json", results)
        print(text_table(results), flush=True)
        print(f"\nPage: {write_page(run, results, name).resolve()}", flush=True)


if __name__ == "__main__":
    run_command(main)
