"""Text normalisers: what counts as the same word, and whether a language has words at all.

    clean = normalizer("auto", "en")
    clean("It's twenty dollars.")  # "it is $20"

`english` is Whisper's own normaliser (arXiv:2212.04356 app. C), so that English error rates can be
compared with published ones. `basic` serves every other language. Unlike Whisper's it keeps
combining marks: without them four Hindi words become thirteen (openai/whisper#2849). What a
language writes in two ways is one word (`distill.metrics.orthography`), such as Arabic with and
without vowel points. `unaccented` is `basic` for transcripts that were typed without accents:
"numero" is "número".
"""

from __future__ import annotations

import importlib.util
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import regex  # knows the scripts of Unicode

from distill.data.languages import language_code
from distill.metrics.orthography import lower, unify

NORMALIZERS = ("auto", "english", "basic", "unaccented")

# Languages written without spaces between words: their errors are counted in characters.
_UNSPACED = ("zh", "ja", "th", "lo", "my", "km", "yue", "bo")

# ... and the letters they are written in, which say more than a language that somebody has set.
# Marks of length and the like belong to several scripts, so they speak for none.
LETTER = regex.compile(r"(?V1)[\p{L}--[\p{Script=Common}\p{Script=Inherited}]]")
_UNSPACED_LETTER = regex.compile(
    r"(?V1)[\p{L}&&[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}"
    r"\p{Script=Lao}\p{Script=Myanmar}\p{Script=Khmer}\p{Script=Tibetan}]]")

_SPELLING_PACKAGE = "whisper-normalization"  # ships OpenAI's english.json; transformers does not

# (laughter), [music], <unk>, <|0.00|>, 【拍手】: not speech. NFKC has made full-width ones plain.
_ANNOTATION = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|【[^【】]*】")
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # marks of looks only


def normalizer(
    name: str, language: str | None, unit: str | None = None
) -> Callable[[str], str]:
    """The function to call on references and hypotheses alike.

    Args:
        name: one of NORMALIZERS; `auto` is `english` for English and `basic` for all else.
        language: code (`en`, `zh-TW`) or English name; None is an English-only teacher.
        unit: `error_unit` of the texts; None goes by the language.

    Returns:
        text -> text, lower-case, without punctuation, single spaces; without any space where the
        unit is `char`.

    Raises:
        ValueError: unknown name.
        ImportError: the package with Whisper's list of spellings is missing.
    """
    code = None if language is None else _code(language)
    if (unit or error_unit(language)) == "char":
        return lambda text: _basic(text, code).replace(" ", "")
    if normalizer_name(name, language) == "english":
        return _english()
    return partial(_unaccented if name == "unaccented" else _basic, code=code)


def normalizer_name(name: str, language: str | None) -> str:
    """`english`, `basic` or `unaccented`: what `auto` means here, for the record.

    English is English whether the teacher is English-only or multilingual; the Distil-Whisper
    scripts take the basic one for the latter and count "$20" for "twenty dollars" as errors.

    Raises:
        ValueError: unknown name.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"evaluation.normalizer must be one of {NORMALIZERS}, got {name!r}")
    if name != "auto":
        return name
    return "english" if language is None or _code(language) == "en" else "basic"


def check_words(references: Sequence[str], clean: Callable[[str], str], split: str) -> None:
    """
    Raises:
        ValueError: nothing is left of any reference: no error rate can be counted.
    """
    if not any(map(clean, references)):
        raise ValueError(
            f"{split}: no word is left of {len(references):,} transcripts once they are normalised "
            f"({', '.join(map(repr, references[:2]))}): there is nothing to compare with")


def error_unit(language: str | None, text: str = "") -> str:
    """`char` where words are not spaced and one wrong character would otherwise make a whole
    sentence wrong; else `word`.

    Args:
        language: decides where the text has no letters.
        text: what most of its letters are decides: Japanese in Latin letters has words, and
            Chinese in a corpus that is labelled as English has none.
    """
    letters = len(LETTER.findall(text))
    if letters:
        return "char" if 2 * len(_UNSPACED_LETTER.findall(text)) > letters else "word"
    return "char" if language is not None and _code(language) in _UNSPACED else "word"


def _code(language: str) -> str:
    """`English`, `<|en|>` and `en-US` -> `en`; of a language that Whisper does not know, what
    stands first: `ga-IE` -> `ga`."""
    try:
        return language_code(language)
    except ValueError:
        return re.split("[-_]", language.lower().strip("<|> "))[0]


@cache
def _english() -> Callable[[str], str]:
    # here, because it takes a second
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    clean = EnglishTextNormalizer(_spellings())
    return lambda text: " ".join(clean(text).split())  # it may leave a space at the ends


def _spellings() -> dict[str, str]:
    """British -> American spellings. Read as data: the package's own code is never run.

    A missing list is an error, not an empty one: it would change error rates silently.
    """
    found = importlib.util.find_spec(_SPELLING_PACKAGE.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the english normalizer needs: pip install {_SPELLING_PACKAGE}")
    path = Path(found.submodule_search_locations[0]) / "english.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _basic(text: str, code: str | None) -> str:
    """NFKC, one spelling, lower-case, no annotations; letters, marks and numbers stay, digits as 0
    to 9, the rest is a space."""
    text = lower(unify(unicodedata.normalize("NFKC", text), code), code)
    text = _ANNOTATION.sub(" ", _VARIATION_SELECTORS.sub("", text))
    kept: list[str] = []
    for char in text:
        category = unicodedata.category(char)
        if category[0] in "LN":
            kept.append(str(unicodedata.decimal(char)) if category == "Nd" else char)
        elif category[0] == "M":
            if kept and kept[-1] != " ":  # else its letter is gone, and it is no word by itself
                kept.append(char)
        elif category != "Cf":  # joiners and soft hyphens do not separate words
            kept.append(" ")
    return " ".join("".join(kept).split())


def _unaccented(text: str, code: str | None) -> str:
    """Basic, and Latin letters lose their marks; vowel signs of other scripts are no accents."""
    kept: list[str] = []
    for char in unicodedata.normalize("NFD", _basic(text, code)):
        if unicodedata.category(char) != "Mn" or not (kept and "a" <= kept[-1] <= "z"):
            kept.append(char)
    return unicodedata.normalize("NFC", "".join(kept))
