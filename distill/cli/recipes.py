"""What recipes there are: name, folder, and what its file begins with.

    audio-distill recipes

A recipe is called by its name, RECIPE, and any of its keys can be changed with key=value. To change
more, copy its folder to ./recipes/NAME. Recipes in ./recipes come before those of the same name
that came with the package.
"""

from __future__ import annotations

from distill.config import find_recipe, known_recipes
from distill.endings import run


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if arguments:
        raise ValueError(f"this takes no arguments, got {' '.join(arguments)}")
    for name in known_recipes():
        path = find_recipe(name)
        first = path.read_text(encoding="utf-8").splitlines()[0]
        about = first.removeprefix("#").strip() if first.startswith("#") else ""
        print(f"{name}\n    {path.parent}" + (f"\n    {about}" if about else ""))


if __name__ == "__main__":
    run(main)
