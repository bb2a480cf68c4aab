"""The only list of methods."""

from __future__ import annotations

from typing import Any

from distill.config import ConfigError, read_method

_KNOWN = "whisper"


def load_recipe(recipe: str, overrides: list[str]) -> Any:
    """Load a recipe of any method; imports no torch.

    Raises:
        ConfigError: unknown method, or what the method's recipe says.
    """
    match read_method(recipe):
        case "whisper":
            from distill.whisper import recipe as whisper

            return whisper.load_recipe(recipe, overrides)
        case other:
            raise ConfigError(f"method must be one of: {_KNOWN}; got {other!r}")


def build_task(recipe: Any, accelerator: Any) -> Any:
    """The `distill.task.Task` of a recipe."""
    match recipe.method:
        case "whisper":
            from distill.whisper.task import WhisperTask

            return WhisperTask(recipe, accelerator)
        case other:
            raise ConfigError(f"method must be one of: {_KNOWN}; got {other!r}")
