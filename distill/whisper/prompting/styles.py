"""Styles: ways to write the same words.

    render("upper", "Mr. Smith has 21 boats.")     # "MR SMITH HAS 21 BOATS"
    style_prompt("upper")                          # what a model reads that should write so

A style is a function of a text. Its prompt is one fixed sentence, written in that style: it shows
how to write, and says nothing about the audio (PromptASR, arXiv:2309.07414 sec. 2.2). Whisper was
trained to go on in the style of what it reads before, so teachers follow some styles by themselves.

Styles of your own: `module:function`, where `function(text) -> text`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import import_module

from distill.whisper.prompting.numbers import as_digits, as_words

Style = Callable[[str], str]
EXAMPLE = "Mr. Smith wrote it like this, in 21 lines and thirty words."
_KEPT = frozenset("'\u2019")  # inside words: don't
_APOSTROPHES = re.compile(r"(?<!\w)['\u2019]|['\u2019](?!\w)")


def _bare(text: str) -> str:
    """Without punctuation; hyphens between words become spaces."""
    text = _APOSTROPHES.sub("", text)
    kept = re.sub(r"(?<=\d)[.,:](?=\d)", lambda match: f"\0{ord(match[0])}\0", text)  # 3.5, 9:30
    kept = "".join(" " if unicodedata.category(each)[0] in "PS" and each not in _KEPT
                   and each not in "%&$€£+" else each for each in kept)
    kept = re.sub("\0(\\d+)\0", lambda match: chr(int(match[1])), kept)
    return " ".join(kept.split())


def _mixed(text: str) -> str:
    return text


def _upper(text: str) -> str:
    return _bare(text).upper()


def _lower(text: str) -> str:
    return _bare(text).lower()


STYLES: dict[str, Style] = {
    "mixed": _mixed,  # as it is: with capitals and punctuation, where the label has them
    "upper": _upper,  # without punctuation
    "lower": _lower,  # without punctuation
    "digits": as_digits,  # English numbers
    "words": as_words,
}
ENGLISH = ("digits", "words")


@cache
def find_style(name: str) -> Style:
    """The function of a style.

    Raises:
        ValueError: there is no such style.
    """
    if name in STYLES:
        return STYLES[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function) if function else None
    except (ImportError, AttributeError):
        found = None
    if not callable(found):
        raise ValueError(f"style must be one of {', '.join(STYLES)}, or module:function of your "
                         f"own, got {name!r}")
    return found


def render(style: str, text: str) -> str:
    """A text in a style."""
    return find_style(style)(text)


def style_prompt(style: str) -> str:
    """What a model reads that should write in this style."""
    return render(style, EXAMPLE)


def follows(style: str, text: str) -> bool:
    """Whether a text is written in a style: to write it so changes nothing. `mixed` is a text with
    a capital, a small letter and punctuation at its end; an empty text follows no style."""
    text = text.strip()
    if style == "mixed":
        letters = [each for each in text if each.isalpha()]
        is_cased = any(map(str.isupper, letters)) and any(map(str.islower, letters))
        return is_cased and unicodedata.category(text[-1])[0] == "P"
    return bool(text) and render(style, text) == " ".join(text.split())
