"""Does an audio language model listen?

    python -m eval.audio_llm.doctor RECIPE [model=FOLDER] [split=validation] [key=value ...]

Asks the recipe's model (runs/NAME/student, or FOLDER) about the clips of a split with the right
audio, another clip's, silence, and none. A model that is deaf has the same loss with all of them.
Ends with code 1 where it is deaf, and says the likely cause.
"""

from __future__ import annotations

from pathlib import Path

from distill.audio_llm.recipe import load_recipe
from distill.data.files import write_json
from distill.endings import run


def main(arguments: list[str]) -> int:
    """0; 1 if the model is deaf."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    own = dict(each.split("=", 1) for each in arguments[1:]
               if each.startswith(("model=", "split=")))
    recipe = load_recipe(arguments[0], [each for each in arguments[1:]
                                        if not each.startswith(("model=", "split="))])
    split_name = own.get("split", "validation")
    if split_name not in ("train", "validation", "test"):
        raise ValueError(f"split must be train, validation or test, got {split_name!r}")
    import torch

    from eval.audio_llm.listening import describe, listen
    from eval.audio_llm.parts import load_model, load_split

    if recipe.num_threads:
        torch.set_num_threads(recipe.num_threads)
    folder = Path(own.get("model", f"{recipe.output_dir}/student"))
    split = load_split(recipe, split_name)
    model = load_model(folder, split.encoder)
    found = listen(model, split.examples, split.states, split.encoder.silence(),
                   recipe.evaluation, seed=recipe.seed)
    write_json(Path(recipe.output_dir) / "eval" / "doctor.json", {"model": str(folder), **found})
    print(describe(found), flush=True)
    return int(found["deaf"])


if __name__ == "__main__":
    run(main)
