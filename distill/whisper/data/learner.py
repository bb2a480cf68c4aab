"""What has to be so where the encoder learns (`student.learns: encoder`); no torch."""

from __future__ import annotations

from typing import Any

from distill.config import check


def check_learner(recipe: Any) -> None:
    """
    Args:
        recipe: WhisperRecipe.

    Raises:
        ConfigError: there is no such part, or nothing that it could learn.
    """
    learns, views = recipe.student.learns, recipe.views
    check(learns in ("decoder", "encoder"), "student.learns", "decoder or encoder", learns)
    ok = learns == "decoder" or all((
        views.teacher_hears == "clean", views.augment.probability > 0,
        recipe.teacher.mode == "store", recipe.scores.encoder_states == "disk",
        not recipe.student.freeze_encoder, recipe.student.encoder_layers is None))
    what = ("decoder unless views.augment.probability > 0, views.teacher_hears=clean, teacher.mode="
            "store, scores.encoder_states=disk, student.freeze_encoder=false and "
            "student.encoder_layers=null")
    check(ok, "student.learns", what, learns)
