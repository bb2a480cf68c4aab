"""Export a student to another runtime, and prove there that it is still the same.

    python -m distill.export RECIPE to=ct2|onnx|ggml [key=value ...]

to=ct2   CTranslate2 in float16 and int8, for faster-whisper
to=onnx  for sherpa-onnx and onnxruntime, float32 and int8
to=ggml  for whisper.cpp, float16 and blocks of 8 and 5 bits

Every copy is run by its real runtime on the test split (pip install 'audio-distill[export]') and
measured against our own decoding. A copy that loses more than the recipe's section `export` allows
is refused, and the exit code is then 1. runs/NAME/export/KIND has the copies that passed, and
verification.json about all of them.
"""

from __future__ import annotations

from distill.config import ConfigError
from distill.endings import run, writing_to
from distill.methods import export_model, load_recipe

KINDS = ("ct2", "onnx", "ggml")


def main(arguments: list[str]) -> int:
    """0; 1 if a copy did not pass."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    kinds = [each.removeprefix("to=") for each in arguments if each.startswith("to=")]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        given = ", ".join(kinds) or "nothing"
        raise ConfigError(f"to must be one of: {', '.join(KINDS)}; got {given}")
    overrides = [each for each in arguments[1:] if not each.startswith("to=")]
    recipe = load_recipe(arguments[0], overrides)
    with writing_to(recipe.output_dir):
        return 0 if export_model(recipe, kinds[0]) else 1


if __name__ == "__main__":
    run(main)
