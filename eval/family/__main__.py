"""Train several students from one store, measure all of them, and say which one to take.

    python -m eval.family RECIPE [key=value ...]
    python -m eval.family demo "family.decoder_layers=[1,2,4]" family.budget.milliseconds=150

Labels the audio and stores scores for all students of `family.decoder_layers` once, trains each of
them, and measures their errors clip by clip, their times and sizes, in float32 and, on CPUs, int8.
The one with the fewest errors on the validation clips within `family.budget` is chosen, and timed
again by itself. Students are in runs/NAME/family/LAYERS; one that is the recipe's own is that of
runs/NAME if it is trained already. Writes runs/NAME/family/{results.json,family.svg}, and the
report of the run shows both. Stopped, or with another student: what is done is not done again.

--num-processes N [--accelerate-config NAME] labels and trains in so many processes.
"""

from __future__ import annotations

import time
from pathlib import Path

from distill.data.files import write_json, write_text
from distill.endings import Stopped, run, writing_to
from distill.methods import check_data
from distill.progress import clock
from distill.whisper.recipe import WhisperRecipe, load_recipe

_OPTIONS = ("--num-processes", "--accelerate-config")


def main(arguments: list[str]) -> int:
    """0, or the exit code of the stage that failed."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    arguments, several = take_options(arguments)
    if not arguments:
        raise ValueError("expected a recipe; --help says more")
    recipe = load_recipe(arguments[0], arguments[1:])
    check_data(recipe, "eval")
    try:
        with writing_to(recipe.output_dir):
            return _family(recipe, arguments, several)
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise Stopped("Stopped. What is done is kept; the same command goes on from here."
                      ) from None


def take_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments without the options of processes; and these, each with its value.

    Raises:
        ValueError: a value is missing.
    """
    left, several, rest = [], [], iter(arguments)
    for argument in rest:
        key, equals, value = argument.partition("=")
        if key not in _OPTIONS:
            left.append(argument)
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise ValueError(f"{key} needs a value")
        several.append(f"{key}={value}")
    return left, several


def _family(recipe: WhisperRecipe, arguments: list[str], several: list[str]) -> int:
    from distill.whisper.data.layers import family_layers
    from eval.family.measure import measure
    from eval.family.members import check_family, find_members, label, train
    from eval.family.plan import estimate

    begun, name = time.monotonic(), arguments[0]
    total = check_family(recipe)
    print(f"Family of {len(family_layers(recipe, total))} students. {estimate(recipe, total)}",
          flush=True)
    print(f"== {name}: pseudo-labels", flush=True)
    if code := label(arguments, several):
        return code
    members = find_members(recipe, arguments, total)
    for number, member in enumerate(members, 1):
        print(f"== {name}: student {number} of {len(members)}, decoder layers "
              f"{' '.join(map(str, member.layers))}", flush=True)
        if member.is_done:
            print(f"Training is done already: {member.folder}", flush=True)
        elif code := train(member, arguments, several):
            return code
    print(f"== {name}: measuring the family", flush=True)
    show(Path(recipe.output_dir), measure(recipe, members))
    print(f"This took {clock(time.monotonic() - begun)}.", flush=True)
    return 0


def show(run_folder: Path, results: dict) -> None:
    """Write results, then print the table, then draw: what comes last cannot cost the others."""
    from eval.family.table import table
    from eval.plots import standalone
    from eval.report.family import picture
    from eval.report.write import write_report

    folder = run_folder / "family"
    write_json(folder / "results.json", results)
    print(table(results), flush=True)
    title, chart = picture(results)
    write_text(folder / "family.svg", standalone(title, chart))
    print(f"Picture: {folder / 'family.svg'}; report: {write_report(run_folder).resolve()}",
          flush=True)


if __name__ == "__main__":
    run(main)
