"""What the teacher store of a recipe would take, and what it would with other choices."""

from __future__ import annotations

from dataclasses import replace

from distill.whisper.data.layers import states_to_store
from distill.whisper.plan import cost
from distill.whisper.plan.sizes import WhisperSize
from distill.whisper.recipe import WhisperRecipe

_KS = (8, 16, 32, 64, 128)


def plan_store(
    recipe: WhisperRecipe, size: WhisperSize, training: dict, data: dict, tokens: float,
) -> dict:
    """Bytes of every choice; none is chosen where the teacher runs at every step.

    Args:
        training: `windows`, `views`, `distinct_views`, `scored_views` of `plan.plan`.
        data: `seconds_per_window` and `positions` of the training split.
        tokens: of a window.
    """
    seconds = data["seconds_per_window"]
    used = recipe.teacher.mode == "store"
    views, scored = training["distinct_views"], training["scored_views"]
    matching = replace(recipe, loss=replace(recipe.loss, hidden_weight=1.0))
    num_states = len(states_to_store(matching, size.decoder_layers))
    augmented = recipe.views.augment.probability > 0
    encoded = views if augmented else min(training["windows"], training["views"])
    choices = [
        {"name": name, "bytes_per_hour": round(each / (seconds / 3600)),
         "total": round(each * count), "chosen": used and chosen}
        for name, each, count, chosen in [
            *((*score, scored, chosen) for *score, chosen in _scores(recipe, size, tokens)),
            ("all matched decoder states", tokens * cost.score_bytes(size, 0, num_states), scored,
             recipe.loss.hidden_weight > 0),
            ("last decoder state (exact KL)", tokens * cost.score_bytes(size, 0, 1), scored,
             recipe.loss.kl_weight > 0 and recipe.scores.method == "decoder_state"
             and not recipe.loss.hidden_weight),
            *((*states, encoded, chosen) for *states, chosen in _states(recipe, size,
                                                                              data["positions"])),
        ]
    ]
    return {"used": used, "views": views, "choices": choices,
            "total": sum(each["total"] for each in choices if each["chosen"])}


def _scores(recipe: WhisperRecipe, size: WhisperSize, tokens: float) -> list[tuple]:
    chosen = recipe.scores.k
    return [
        (f"scores, k = {k}", tokens * cost.score_bytes(size, k, 0),
         k == chosen and recipe.loss.kl_weight > 0 and recipe.scores.method != "decoder_state")
        for k in sorted({*_KS, chosen})
    ]


def _states(recipe: WhisperRecipe, size: WhisperSize, positions: float) -> list[tuple]:
    scores = recipe.scores
    kinds = {"float16 or bfloat16": ("float16", "bfloat16"), "int8": ("int8",)}
    return [
        (f"encoder states, {name}", cost.states_bytes(size, dtypes[0], positions),
         scores.encoder_states == "disk" and scores.encoder_states_dtype in dtypes)
        for name, dtypes in kinds.items()
    ]
