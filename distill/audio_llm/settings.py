"""What is needed to build a trained model again: audio_llm.json of its folder. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from distill.audio_llm.recipe import (
    AdapterConfig,
    AudioLlmRecipe,
    EncoderConfig,
    LanguageModelConfig,
    LoraSettings,
)
from distill.data.files import read_json

WEIGHTS, SETTINGS = "audio_llm.safetensors", "audio_llm.json"
VERSION = 1
_PARTS = {"encoder": EncoderConfig, "language_model": LanguageModelConfig,
          "adapter": AdapterConfig, "lora": LoraSettings}


@dataclass
class Settings:
    """All that is needed to build the model again; audio_llm.json of its folder."""

    encoder: EncoderConfig
    encoder_revision: str
    width: int  # of the encoder's states, of all its layers side by side
    layers: int  # how many these are: 1, or with adapter.kind tltr the encoder's
    language_model: LanguageModelConfig
    language_model_revision: str
    adapter: AdapterConfig
    lora: LoraSettings
    layout: str
    tell_transcript: bool = False
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)  # of each task, by its name
    tokens: list[int] = field(default_factory=list)  # ids that CTC may say; empty: there is none
    encoder_ms: int = 20  # of a frame of the encoder
    version: int = VERSION


def settings_of(
    recipe: AudioLlmRecipe, encoder_revision: str, width: int, layers: int, revision: str,
    tokens: list[int], encoder_ms: int = 20,
) -> Settings:
    """What a recipe's model is, given what its parts turned out to be."""
    return Settings(recipe.encoder, encoder_revision, width, layers,
                    recipe.language_model, revision, recipe.adapter, recipe.lora, recipe.layout,
                    recipe.tell_transcript, recipe.lower_case,
                    {task.name: task.prompt for task in recipe.tasks}, tokens, encoder_ms)


def read_settings(folder: str | Path) -> Settings:
    """audio_llm.json of a model's folder.

    Raises:
        ValueError: there is none, it cannot be read, or it is of another version.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise ValueError(f"{folder} is no audio language model: it has no {SETTINGS}")
    try:
        values = read_json(path)
        version = values.get("version")
        if version == VERSION:
            return Settings(**values | {
                part: kind(**values[part]) for part, kind in _PARTS.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read, or was written by a later release: {error}"
                         ) from None
    raise ValueError(f"{path}: version {version}, expected {VERSION}")
