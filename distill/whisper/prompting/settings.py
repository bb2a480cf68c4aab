"""What a recipe may say about prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.config import ConfigError, check
from distill.whisper.prompting.reader_config import STATES
from distill.whisper.prompting.styles import ENGLISH, find_style
from distill.whisper.recipe_sections import (
    PromptConfig,
    PromptEvaluationConfig,
    ScoresConfig,
    StudentConfig,
    TeacherConfig,
    ViewConfig,
)

NONE = "none"
SPLITS = ("test", "validation")
CONTENTS = (NONE, "previous", "words", "other")
DEFAULT_STYLES = {NONE: 0.05, "mixed": 0.65, "upper": 0.3}
DEFAULT_CONTENTS = {NONE: 0.05, "previous": 0.5, "words": 0.4, "other": 0.05}


def styles_of(config: PromptConfig) -> dict[str, float]:
    """Weights of the styles."""
    return dict(config.styles) or DEFAULT_STYLES


def contents_of(config: PromptConfig) -> dict[str, float]:
    """Weights of the contents."""
    return dict(config.contents) or DEFAULT_CONTENTS


def check_prompts(views: ViewConfig, language: str | None) -> None:
    """Check `views.prompts`.

    Raises:
        ConfigError: names the key.
    """
    p, key = views.prompts, "views.prompts"
    for name in ("probability", "listed_probability", "leak_probability"):
        check(0 <= getattr(p, name) <= 1, f"{key}.{name}", "in [0, 1]", getattr(p, name))
    check(0 <= p.min_distractors <= p.max_distractors, f"{key}.min_distractors",
          f"0 to {key}.max_distractors ({p.max_distractors})", p.min_distractors)
    check(p.common_words >= 0, f"{key}.common_words", ">= 0", p.common_words)
    for name, weights in (("styles", styles_of(p)), ("contents", contents_of(p))):
        ok = min(weights.values()) >= 0 and sum(weights.values()) > 0
        check(ok, f"{key}.{name}", "weights >= 0, not all of them 0", dict(weights))
    ok = set(p.contents) <= set(CONTENTS)
    check(ok, f"{key}.contents", f"weights of some of {CONTENTS}", dict(p.contents))
    _check_styles(f"{key}.styles", [style for style in styles_of(p) if style != NONE], language)
    ok = p.probability == 0 or views.previous_text_probability == 0
    check(ok, "views.previous_text_probability",
          f"0 with {key}, which has a content of that name", views.previous_text_probability)
    _check_words(f"{key}.words", p.words)
    _check_words(f"{key}.validation_words", p.validation_words)


def check_reader(student: StudentConfig, views: ViewConfig, teacher: TeacherConfig,
                 scores: ScoresConfig) -> None:
    """Check `student.prompt_reader`, and what does not go with it.

    Raises:
        ConfigError: names the key.
    """
    r, key = student.prompt_reader, "student.prompt_reader"
    check(r.layers >= 0, f"{key}.layers", ">= 0", r.layers)
    check(r.states in STATES, f"{key}.states", f"one of {STATES}", r.states)
    check(0 <= r.drop_probability <= 1, f"{key}.drop_probability", "in [0, 1]",
          r.drop_probability)
    _check_words(f"{key}.validation_words", r.validation_words)
    if not r.layers:
        return
    of_views = views.prompts.validation_words
    check(of_views is None, "views.prompts.validation_words", f"null with {key}.layers, which has "
          "its own", of_views)
    check(views.prompts.probability > 0, "views.prompts.probability",
          f"> 0 with {key}.layers, which has to have something to read", views.prompts.probability)
    own = student.freeze_encoder and student.encoder_layers is None
    check(own, "student.freeze_encoder", f"true with {key}.layers, and student.encoder_layers "
          "null: without a prompt the encoder is the teacher's", student.freeze_encoder)
    check(teacher.mode == "store", "teacher.mode", f"store with {key}.layers: the teacher reads "
          "the prompts with its decoder", teacher.mode)
    check(scores.encoder_states != "disk", "scores.encoder_states", f"memory or none with "
          f"{key}.layers: what is on the disk comes out of the encoder, and the last layers change",
          scores.encoder_states)


def check_prompt_evaluation(config: PromptEvaluationConfig, language: str | None) -> None:
    """Check `evaluation.prompts`.

    Raises:
        ConfigError: names the key.
    """
    key = "evaluation.prompts"
    _check_styles(f"{key}.styles", config.styles, language)
    check(config.split in SPLITS, f"{key}.split", f"one of {SPLITS}", config.split)
    check(config.most_words > 0, f"{key}.most_words", "> 0", config.most_words)
    check(0 < config.boost < float("inf"), f"{key}.boost", "> 0 and finite", config.boost)
    _check_words(f"{key}.words", config.words)


def _check_words(key: str, path: str | None) -> None:
    ok = path is None or Path(path).is_file()
    check(ok, key, "a text file with one word or phrase a line", path)


def _check_styles(key: str, styles: Sequence[str], language: str | None) -> None:
    for style in styles:
        try:
            find_style(style)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
        ok = style not in ENGLISH or language == "en"
        check(ok, key, f"without {style} unless language is en", language)
