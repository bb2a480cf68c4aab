"""What can be wrong with a translation: a function per reason, as `pseudo_label.filtering.filters`.

    reason = translation_drop_reason(row, recipe.translation)

Rows are those of `pseudo_label.filter` before texts change places: `label` is what was said,
`translation` what became of it. There is no second translation to compare with, so these filters
look for what text models are known to do: leave out, go on for ever, leave as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from distill.metrics.error_rates import error_counts
from distill.metrics.normalize import error_unit, normalizer
from distill.whisper.recipe import FilterConfig, TranslationConfig
from pseudo_label.filtering.filters import repeated_ngrams, wrong_script

MOST_TOKENS = 440  # of 448 a decoder has; the prefix and the end need 5
_FEW_TOKENS = 4  # words: "OK, Maria" is the same in many languages


def length_ratios(rows: Sequence[dict]) -> None:
    """Write `length_ratio` into translations: characters over those of the source, divided by the
    median of the corpus's rows of that language. 1 is usual, whatever the two scripts are."""
    raw = {}
    for row in rows:
        source, written = row["translation"]["source"], row["translation"]["text"]
        raw[row["id"]] = max(_letters(written), 1) / max(_letters(source), 1)
    for language in {row["language"] for row in rows}:
        group = [row for row in rows if row["language"] == language]
        usual = median(raw[row["id"]] for row in group)
        for row in group:
            row["translation"]["length_ratio"] = round(raw[row["id"]] / usual, 4)


def _letters(text: str) -> int:
    return sum(map(len, text.split()))


def translation_drop_reason(row: dict, config: TranslationConfig) -> str | None:
    """Why a translation is not used, None if it is: the first in the order of `FILTERS`."""
    found = (f.__name__ for f in FILTERS if f(row["translation"], config))
    return next(found, None)


def empty_translation(translation: dict, config: TranslationConfig) -> bool:
    return not translation["text"].strip()


def truncated_translation(translation: dict, config: TranslationConfig) -> bool:
    """Cut at the text model's limit, or too long for a Whisper decoder."""
    return translation["truncated"] or len(translation["tokens"]) > MOST_TOKENS


def odd_length(translation: dict, config: TranslationConfig) -> bool:
    """Much longer or shorter than translations of this corpus are: something made up or lost."""
    if config.max_length_ratio is None:
        return False
    ratio = translation["length_ratio"]
    return max(ratio, 1 / max(ratio, 1e-9)) > config.max_length_ratio


def translation_repeats_itself(translation: dict, config: TranslationConfig) -> bool:
    """More than its source does: who says a thing twice is translated twice."""
    if config.max_repeated_ngrams is None:
        return False
    written = {"label": translation["text"], "unit": error_unit(config.target)}
    source = {"label": translation["source"], "unit": error_unit(translation["language"])}
    return repeated_ngrams(written) - repeated_ngrams(source) > config.max_repeated_ngrams


def source_copied(translation: dict, config: TranslationConfig) -> bool:
    """Too many words of the source stand in it; few words decide nothing."""
    if config.max_copied is None:
        return False
    clean = normalizer("basic", translation["language"])
    counts = error_counts(clean(translation["source"]), clean(translation["text"]),
                          error_unit(translation["language"]))
    enough = counts.num_reference >= _FEW_TOKENS
    return enough and counts.hits / counts.num_reference > config.max_copied


def wrong_target_script(translation: dict, config: TranslationConfig) -> bool:
    script_only = FilterConfig(check_script=config.check_script)
    return wrong_script({"label": translation["text"]}, script_only, config.target)


def low_translation_logprob(translation: dict, config: TranslationConfig) -> bool:
    limit = config.min_avg_logprob
    return limit is not None and translation["avg_logprob"] < limit


FILTERS = (empty_translation, truncated_translation, source_copied, wrong_target_script,
           odd_length, translation_repeats_itself, low_translation_logprob)
