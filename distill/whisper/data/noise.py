"""The noises of a recipe: those that its student learns in, and those that it is measured in."""

from __future__ import annotations

from collections.abc import Callable

from distill.config import recipe_folders
from distill.data.manifest import Row, load_rows
from distill.data.noise.kinds import Noises
from distill.data.noise.training import check_recordings, read_recordings
from distill.data.views.augment import RECORDED
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recipe_sections import RobustnessConfig


def noises_of(config: RobustnessConfig) -> Noises:
    """What `eval.robustness` mixes.

    Raises:
        ValueError: the repository's recordings are not there, or `robustness.folder` has no audio.
    """
    places = [folder / "noise" for folder in recipe_folders()]
    place = next((place for place in places if (place / "voices.jsonl").is_file()), None)
    if place is None:
        raise ValueError(f"the recordings of noise are not in {' or '.join(map(str, places))}")
    return Noises.embedded(place, config.folder)


def learned_noise(recipe: WhisperRecipe) -> list[Row]:
    """Recordings that the noise of training is made of.

    Raises:
        ValueError: there is no audio where `views.augment.recordings` should be.
    """
    config = recipe.views.augment
    found: list[Row] = []
    if not config.probability or not config.noise_probability:
        return found
    if "recordings" in config.noise:
        found += read_recordings(config.recordings)
    if "babble" in config.noise:
        found += load_rows(recipe.data.train)[0]
    return found


def check_noises(recipe: WhisperRecipe, tell: Callable[[str], None] = print) -> None:
    """
    Raises:
        LeakError: the student learns in noise that the robustness test is made of.
    """
    if not set(recipe.views.augment.noise) & set(RECORDED):
        return
    learned, test = learned_noise(recipe), noises_of(recipe.robustness)
    measured = [*test.voices, *test.music, *test.glasses, *test.folder]
    check_recordings(learned, measured, recipe.data.allow_overlap, tell)
