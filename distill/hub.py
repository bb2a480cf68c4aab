"""Publish a student on the Hub, in one commit: weights, settings, model card, results.

    python -m distill.hub RECIPE hub.repo_id=OWNER/NAME [key=value ...]

Needs a student, its evaluation, and a login (`hf auth login`, or HF_TOKEN). The repository is
private unless `hub.private=false`. `hub.dry_run=true` writes the card and lists what would be sent.
What the Hub has already is not sent again, so a push that broke goes on, and one without a change
makes no commit. Every figure of the card is read from
runs/NAME/{eval/results.json,pseudo_labels/filter.json,student.json}; optimiser states and data
never leave the machine. Pseudo-labels have a command of their own, `python -m pseudo_label.push`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.endings import run
from distill.methods import evaluation_settings, find_method, load_recipe, write_code
from distill.publish.card import parts_of
from distill.publish.facts import Facts, check_recipe, read_facts
from distill.publish.files import FILES, write_student_files
from distill.publish.remote import Outcome, Target, describe, find_target, listing, publish


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    if "publish" not in find_method(recipe.method).stages:
        raise ValueError(f"students of method {recipe.method} cannot be published: its recipes "
                         "have no section `hub`")
    target = find_target(recipe.hub, "repo_id", "model", "push")
    files = prepare(recipe)
    if recipe.hub.dry_run:
        print(listing(target, files))
        print(f"Card: {files['README.md']}")
        return
    print(describe(target, files, push(recipe, target, files)))


def prepare(recipe: Any) -> dict[str, Path]:
    """Write the card and what goes with it; name in the repository -> file. Sends nothing.

    Raises:
        ValueError: the student or its evaluation is missing, or one of them is not of this
            recipe.
    """
    facts = read_facts(recipe)
    check_recipe(facts, recipe)
    _check_results(facts, recipe)
    write_code(recipe, facts.run / "student")
    return write_student_files(facts, recipe)


def _check_results(facts: Facts, recipe: Any) -> None:
    if facts.results["settings"] != evaluation_settings(recipe, facts.trained):
        raise ValueError(
            f"{facts.run / 'eval' / 'results.json'} is of another student or other settings: run "
            f"`make {facts.run.name}.eval` with the same overrides"
        )


def push(recipe: Any, target: Target, files: dict[str, Path]) -> Outcome:
    """Bring the repository to what `prepare` returned; see `publish` for what it raises."""
    return publish(target, files, f"Student of {parts_of(recipe).teachers(recipe)}", owned=FILES)


if __name__ == "__main__":
    run(main)
