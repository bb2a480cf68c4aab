"""What labels of another system take (`pseudo_label.backend` table or http), of a plan."""

from __future__ import annotations

from distill.whisper.outside import is_outside, price_of
from distill.whisper.recipe import WhisperRecipe


def plan_outside(recipe: WhisperRecipe, data: dict) -> dict | None:
    """Requests, seconds of audio that are sent, and their price; None where the teacher labels.

    Args:
        data: of the training split, as `distill.whisper.plan.plan` has it. Every window is asked
            for once; what is answered already is not taken off.
    """
    config = recipe.pseudo_label
    if not is_outside(config):
        return None
    if config.backend == "table":
        return {"backend": "table", "table": config.table.path}
    seconds = data["windows"] * data["seconds_per_window"]
    minutes = config.http.requests_per_minute
    return {"backend": "http", "url": config.http.url, "model": config.http.model,
            "requests": data["windows"], "seconds": seconds,
            "price_per_minute": config.http.price_per_minute,
            "price": price_of(config.http, seconds),
            "least_seconds": 60 * data["windows"] / minutes if minutes else None}
