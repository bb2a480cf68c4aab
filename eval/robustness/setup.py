"""The test clips and the noises: what is the same for all models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from distill.data.audio import WINDOW_SECONDS
from distill.data.noise.channels import SLOWEST
from distill.data.noise.kinds import Noises
from distill.data.noise.training import check_recordings, read_recordings
from distill.metrics.normalize import check_words, error_unit, normalizer
from distill.whisper.data.corpus import EvaluationUtterance, evaluation_utterances, load_clips
from distill.whisper.data.noise import noises_of
from distill.whisper.recipe import WhisperRecipe, written_language
from eval.robustness.conditions import recordings_key

_LONGEST = WINDOW_SECONDS * SLOWEST  # seconds of clips: longer ones, slowed down, fit no window


@dataclass
class Setup:
    """What is the same for all models.

    Attributes:
        clips: test clips of one window each.
        folder_key: of the user's recordings; [] without.
    """

    recipe: WhisperRecipe
    clips: Sequence[EvaluationUtterance]
    noises: Noises
    folder_key: list
    normalise: Callable[[str], str]
    unit: str


def setup_of(recipe: WhisperRecipe) -> tuple[Setup, dict[str, int]]:
    """The clips, and how many were left out, by reason.

    Raises:
        ValueError: no clip has a text, `robustness.folder` has no audio, or a student of
            `robustness.models` learned in its recordings.
    """
    rows, drops = load_clips(recipe.data.test)
    short = [row for row in rows if row.duration <= _LONGEST]
    drops[f"longer_than_{_LONGEST:g}_s"] = len(rows) - len(short)
    clips, more = evaluation_utterances(short, "test", packed=False)
    if not clips:
        raise ValueError(f"data.test: no clip of at most {_LONGEST:g} s has a text")
    language = written_language(recipe)
    unit = error_unit(language, " ".join(clip.reference for clip in clips))
    normalise = normalizer(recipe.evaluation.normalizer, language, unit)
    check_words([clip.reference for clip in clips], normalise, "data.test")
    noises = noises_of(recipe.robustness)
    for folder in recipe.robustness.models:
        _check_learned(Path(folder), noises, recipe.data.allow_overlap)
    return (Setup(recipe, clips, noises, recordings_key(noises.folder), normalise, unit),
            dict(+(drops + more)))


def _check_learned(student: Path, noises: Noises, allow_overlap: bool) -> None:
    """
    Raises:
        LeakError: by its run's config, a student learned in noise that is mixed here.
    """
    config = student.parent / "config.yaml"
    if not config.is_file():
        return
    found = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    augment = (found.get("views") or {}).get("augment") or {}
    places = [each for each in augment.get("recordings") or [] if Path(each).exists()]
    measured = [*noises.voices, *noises.music, *noises.glasses, *noises.folder]
    check_recordings(read_recordings(places), measured, allow_overlap)
