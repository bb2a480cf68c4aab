"""A trained model and a split of a recipe's data, as evaluation needs them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from distill.audio_llm.data.examples import Example, load_examples
from distill.audio_llm.data.states import EncoderStates
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import AudioLlmRecipe, states_folder
from distill.audio_llm.task import faults_of


@dataclass
class Split:
    """Examples that can be read, and the encoder's states of each."""

    examples: list[Example]
    states: list[np.ndarray]
    drops: Counter
    encoder: EncoderStates


def device_of() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_split(recipe: AudioLlmRecipe, split: str) -> Split:
    """
    Raises:
        ValueError: no clip of it can be read.
    """
    encoder = EncoderStates(recipe.encoder, recipe.adapter, states_folder(recipe), device_of(),
                            True)
    examples, drops = load_examples(recipe, getattr(recipe.data, split))
    rows = [example.row for example in examples]
    states = encoder(split, rows, faults_of(split, rows, 1.0), drops)
    kept = [each for each in examples if each.id in states]
    return Split(kept, [states[each.id] for each in kept], drops, encoder)


def spread(split: Split, most: int | None) -> Split:
    """At most so many examples of each task, evenly spread; None: all."""
    if most is None:
        return split
    by_task: dict[str, list[int]] = {}
    for number, example in enumerate(split.examples):
        by_task.setdefault(example.task.name, []).append(number)
    kept = sorted(mine[at * len(mine) // min(most, len(mine))] for mine in by_task.values()
                  for at in range(min(most, len(mine))))
    return replace(split, examples=[split.examples[n] for n in kept],
                   states=[split.states[n] for n in kept])


def load_model(folder: str | Path, encoder: EncoderStates) -> AudioLlm:
    """
    Raises:
        ValueError: it is not whole, or was trained with another encoder.
    """
    model = AudioLlm.from_pretrained(folder)
    check_encoder(model, encoder, str(folder))
    return model.to(device_of())


def check_encoder(model: AudioLlm, encoder: EncoderStates, where: str) -> None:
    """
    Raises:
        ValueError: its states are not those that the model was trained with.
    """
    wanted = model.settings.encoder_revision
    if encoder.revision != wanted:
        raise ValueError(f"{where}: trained with revision {wanted} of its encoder "
                         f"{model.settings.encoder.model}; {encoder.source} has {encoder.revision}")
