"""Train the twin that never sees a prompt: the same student, from the same windows and labels.

    python -m eval.prompts.twin RECIPE [key=value ...]      # make NAME.prompts does it first

What a student that follows prompts loses without one is measured against it. It is a run of its
own, in `<output_dir>/twin`; the teacher is asked about its views where it was not before. With
`train.batch_tokens` an update of the twin holds more windows, for they are shorter. A student whose
encoder reads prompts, and that learns nothing else, is without one what it was before: it has no
twin.
"""

from __future__ import annotations

import subprocess
import sys

from distill.endings import run
from distill.whisper.recipe import load_recipe


def overrides(recipe_name: str, given: list[str]) -> list[str]:
    """Of the twin's recipe."""
    recipe = load_recipe(recipe_name, given)
    return [*given, "views.prompts.probability=0", "student.prompt_reader.layers=0",
            f"labels_dir={recipe.labels_dir}", f"scores.dir={recipe.scores.dir}",
            f"output_dir={recipe.output_dir}/twin"]


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    reader = load_recipe(arguments[0], arguments[1:]).student.prompt_reader
    if reader.layers and not reader.train_decoder:
        print("No twin: without a prompt this student is what it was before it learned to read")
        return
    settings = overrides(arguments[0], arguments[1:])
    for module in ("pseudo_label.scores", "distill.train"):
        done = subprocess.run([sys.executable, "-m", module, arguments[0], *settings])
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    run(main)
