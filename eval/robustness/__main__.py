"""Teacher and student in noise, through telephones and codecs, and where nobody speaks.

    python -m eval.robustness RECIPE [key=value ...]
    python -m eval.robustness demo robustness.kinds=[white,pub] robustness.snrs=[20,10,0]

The test split clip by clip, as it is, changed, and with noise at each SNR (`robustness` of the
recipe); then minutes of silence, noise, music, breathing and applause: words invented a minute,
with the guard of `transcribe` and without it. All models hear the same. Texts are kept by model and
condition: the same command goes on where it was stopped, and with more noises it does not decode
the others again. Writes runs/NAME/robustness/results.json and pictures, and the report.
"""

from __future__ import annotations

from pathlib import Path

from distill.config import read_method
from distill.data.files import write_json
from distill.endings import Stopped, run, writing_to
from distill.methods import check_data, find_method
from distill.whisper.recipe import load_recipe


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    method = find_method(read_method(arguments[0]))
    if method.output != "text":
        raise ValueError(f"there is no speech in what students of method {method.name!r} write")
    recipe = load_recipe(arguments[0], arguments[1:])
    folder = Path(recipe.output_dir)
    if not (folder / "student").is_dir():
        raise ValueError(f"no student in {folder / 'student'}: run `make NAME.train` first")
    check_data(recipe, "eval")
    with writing_to(folder):
        from eval.report.robustness import write_curves
        from eval.report.write import write_report
        from eval.robustness.measure import measure
        from eval.robustness.table import text_table

        try:
            results = measure(recipe, folder)
        except KeyboardInterrupt:
            raise Stopped("Stopped. The same command goes on from here.") from None
        write_json(folder / "robustness" / "results.json", results)
        print(text_table(results), flush=True)
        write_curves(folder / "robustness", results)
        print(f"\nReport with pictures: {write_report(folder).resolve()}")


if __name__ == "__main__":
    run(main)
