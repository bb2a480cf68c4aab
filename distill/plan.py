"""What a recipe would run: windows, parameters, disk, memory, steps and time.

    python -m distill.plan RECIPE [key=value ...]

Reads manifests and arithmetic only: no model is loaded, nothing is downloaded and nothing is
written. While a manifest of the training split is missing, `data.expected_hours` stands in for it.
"""

from __future__ import annotations

from distill.config import ConfigError
from distill.endings import run
from distill.methods import check_data, describe_plan, find_method, load_recipe


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    if "plan" not in find_method(recipe.method).stages:
        raise ConfigError(f"{arguments[0]}: there is no plan of method {recipe.method!r}, which "
                          "trains a teacher: `make NAME.teachers` does it")
    check_data(recipe, "plan")
    print(describe_plan(recipe))


if __name__ == "__main__":
    run(main)
