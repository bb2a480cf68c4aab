"""What can be wrong with a label: a function per reason, named as the reason is in the drop counts.

    reason = drop_reason(row, recipe.filter, row["language"] or recipe.language)

Pure functions of a label row and the `filter` section of a recipe. What is exactly at a threshold
is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import regex  # knows the scripts of Unicode; transformers needs it anyway

from distill.metrics.normalize import LETTER
from distill.whisper.recipe import FilterConfig

NGRAM = {"word": 5, "char": 10}  # what is said twice in one label is no coincidence from here on
MIN_LANGUAGE_PROB = 0.5  # below it the teacher does not know which language it heard

# Whisper's languages that are not, or not only, written in Latin letters.
SCRIPTS = {
    "am": ("Ethiopic",), "ar": ("Arabic",), "as": ("Bengali",), "az": ("Latin", "Cyrillic"),
    "ba": ("Cyrillic",), "be": ("Cyrillic",), "bg": ("Cyrillic",), "bn": ("Bengali",),
    "bo": ("Tibetan",), "bs": ("Latin", "Cyrillic"), "el": ("Greek",), "fa": ("Arabic",),
    "gu": ("Gujarati",), "ha": ("Latin", "Arabic"), "he": ("Hebrew",), "hi": ("Devanagari",),
    "hy": ("Armenian",), "ja": ("Han", "Hiragana", "Katakana"), "jw": ("Latin", "Javanese"),
    "ka": ("Georgian",), "kk": ("Cyrillic", "Latin", "Arabic"), "km": ("Khmer",),
    "kn": ("Kannada",), "ko": ("Hangul", "Han"), "lo": ("Lao",), "mk": ("Cyrillic",),
    "ml": ("Malayalam",), "mn": ("Cyrillic", "Mongolian"), "mr": ("Devanagari",),
    "ms": ("Latin", "Arabic"), "my": ("Myanmar",), "ne": ("Devanagari",),
    "pa": ("Gurmukhi", "Arabic"), "ps": ("Arabic",), "ru": ("Cyrillic",),
    "sa": ("Devanagari",), "sd": ("Arabic", "Devanagari"), "si": ("Sinhala",),
    "sr": ("Cyrillic", "Latin"), "su": ("Latin", "Sundanese"), "ta": ("Tamil",),
    "te": ("Telugu",), "tg": ("Cyrillic",), "th": ("Thai",), "tk": ("Latin", "Cyrillic"),
    "tt": ("Cyrillic", "Latin"), "uk": ("Cyrillic",), "ur": ("Arabic",),
    "uz": ("Latin", "Cyrillic"), "yi": ("Hebrew",), "yue": ("Han", "Bopomofo"),
    "zh": ("Han", "Bopomofo"),
}  # fmt: skip

_NO_WORD = regex.compile(r"[^\p{L}\p{M}\p{N}\s]+")
_UPPER, _LOWER = regex.compile(r"[\p{Lu}\p{Lt}]"), regex.compile(r"\p{Ll}")

Filter = Callable[[dict, FilterConfig, str | None], bool]


def drop_reason(row: dict, config: FilterConfig, language: str | None) -> str | None:
    """Why a label is not used, None if it is: the first in the order of `FILTERS`.

    Args:
        language: of the label; None is an English-only teacher's.

    Raises:
        ValueError: a filter needs what these labels lack; the message says how to get it.
    """
    return next((f.__name__ for f in FILTERS if f(row, config, language)), None)


# --- What thresholds are compared with ----------------------------------------------------------


def error_rate(row: dict) -> float | None:
    """WER, or CER where words are not spaced; None without reference words."""
    return row["cer"] if row["unit"] == "char" else row["wer"]


def repeated_ngrams(row: dict) -> float:
    """Share of the label's words that stand in an n-gram which the label has more than once.

    N-grams of 5 words, or of 10 characters where words are not spaced; case and punctuation do not
    count. A sentence said twice has 1, a text without loops nearly always 0.
    """
    text = _NO_WORD.sub("", row["label"].casefold())
    n = NGRAM[row["unit"]]
    words = "".join(text.split()) if row["unit"] == "char" else text.split()
    grams = list(zip(*(words[at:] for at in range(n)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    first: dict[tuple, int] = {}
    covered: set[int] = set()
    for at, gram in enumerate(grams):
        before = first.setdefault(gram, at)
        if before != at:
            covered.update(range(before, before + n), range(at, at + n))
    return len(covered) / len(words)


def chars_per_second(row: dict) -> float:
    """Characters (code points) of the label that are no white space, per second of its window."""
    return sum(map(len, row["label"].split())) / row["duration"]


MEASURES: dict[str, Callable[[dict], float | None]] = {
    "max_wer": error_rate,
    "min_avg_logprob": lambda row: row.get("avg_logprob"),
    "max_compression_ratio": lambda row: row.get("compression_ratio"),
    "max_repeated_ngrams": repeated_ngrams,
    "max_no_speech_prob": lambda row: row.get("no_speech_prob"),
    "min_chars_per_second": chars_per_second,
    "max_chars_per_second": chars_per_second,
    "max_disagreement": lambda row: row.get("disagreement"),
}


def lacking(key: str) -> str:
    """What to do about labels without the number that a threshold is compared with."""
    if key == "max_disagreement":
        return "set pseudo_label.second_decoding and label again"
    return f"their backend does not report it; set filter.{key}=null"


def _beyond(row: dict, config: FilterConfig, key: str) -> bool:
    """Whether a label is on the wrong side of a threshold, if there is one."""
    limit = getattr(config, key)
    if limit is None:
        return False
    value = MEASURES[key](row)
    if value is None:
        raise ValueError(
            f"filter.{key}={limit} needs a number that label {row['id']} lacks: {lacking(key)}"
        )
    return value < limit if key.startswith("min_") else value > limit


# --- Reasons ------------------------------------------------------------------------------------


def truncated(row: dict, config: FilterConfig, language: str | None) -> bool:
    """Cut at the length limit, or a loop: its end is missing."""
    return row["truncated"]


def empty_label(row: dict, config: FilterConfig, language: str | None) -> bool:
    return not row["label"].strip()


def no_reference(row: dict, config: FilterConfig, language: str | None) -> bool:
    return row["reference"] is None and not config.keep_unreferenced


def empty_reference(row: dict, config: FilterConfig, language: str | None) -> bool:
    """Something was said although the transcript has no word: no error rate can tell how wrong."""
    return row["reference"] is not None and error_rate(row) is None


def wer(row: dict, config: FilterConfig, language: str | None) -> bool:
    scored = row["reference"] is not None and row["unit"] == "word"
    return scored and _beyond(row, config, "max_wer")


def cer(row: dict, config: FilterConfig, language: str | None) -> bool:
    scored = row["reference"] is not None and row["unit"] == "char"
    return scored and _beyond(row, config, "max_wer")


def low_avg_logprob(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "min_avg_logprob")


def high_compression_ratio(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "max_compression_ratio")


def repeats_itself(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "max_repeated_ngrams")


def no_speech(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "max_no_speech_prob")


def too_few_chars(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "min_chars_per_second")


def too_many_chars(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "max_chars_per_second")


def wrong_script(row: dict, config: FilterConfig, language: str | None) -> bool:
    """Fewer than half of the letters are of a script that the language is written in."""
    if not config.check_script:
        return False
    num_letters = len(LETTER.findall(row["label"]))
    return 2 * len(_letters_of(language).findall(row["label"])) < num_letters


@cache
def _letters_of(language: str | None) -> regex.Pattern:
    scripts = "".join(rf"\p{{Script={name}}}" for name in SCRIPTS.get(language, ("Latin",)))
    return regex.compile(rf"(?V1)[\p{{L}}&&[{scripts}]]")


def wrong_language(row: dict, config: FilterConfig, language: str | None) -> bool:
    """The teacher, not told the language, heard another one and was sure of it."""
    if not config.check_language:
        return False
    if row.get("detected_language") is None or row.get("detected_language_prob") is None:
        raise ValueError(
            f"filter.check_language needs the detected language, which label {row['id']} lacks: "
            "set pseudo_label.detect_language=true and label again"
        )
    sure = row["detected_language_prob"] >= MIN_LANGUAGE_PROB
    return sure and row["detected_language"] != language


def all_capitals(row: dict, config: FilterConfig, language: str | None) -> bool:
    """No lower-case letter, though most letters have case.

    The published code asks whether a label equals its own upper case, which drops every label of a
    script without case. A Hindi sentence with one Latin acronym is not in capitals either.
    """
    if not config.drop_all_capitals:
        return False
    num_upper = len(_UPPER.findall(row["label"]))
    mostly_cased = 2 * num_upper > len(LETTER.findall(row["label"]))
    return mostly_cased and not _LOWER.search(row["label"])


def disagreement(row: dict, config: FilterConfig, language: str | None) -> bool:
    return _beyond(row, config, "max_disagreement")


FILTERS: tuple[Filter, ...] = (
    truncated, empty_label, no_reference, empty_reference, wer, cer, low_avg_logprob,
    high_compression_ratio, repeats_itself, no_speech, too_few_chars, too_many_chars,
    wrong_script, wrong_language, all_capitals, disagreement,
)  # fmt: skip
