"""Whole numbers in English text, as digits or as words.

    as_digits("Twenty-one boats left at nine.")     # "21 boats left at 9."
    as_words("21 boats left at 9.")                 # "twenty-one boats left at nine."

Cardinal numbers below a million; ordinals, fractions, numbers with signs or points in them and what
may be a year (four digits) stay as they are.
"""

from __future__ import annotations

import re

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen")
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: value for value, word in enumerate(_SMALL)}
_VALUES |= {word: 10 * index for index, word in enumerate(_TENS) if word}
_SCALES = {"hundred": 100, "thousand": 1000}
_UNIT = "|".join(sorted((*_VALUES, *_SCALES), key=len, reverse=True))
# "and" joins what follows a hundred or a thousand; "one" alone is mostly no number
_SPOKEN = re.compile(rf"\b(?:{_UNIT})(?:(?:-|\s+(?:and\s+)?)(?:{_UNIT}))*\b", re.IGNORECASE)
_WRITTEN = re.compile(r"(?<![\w.,:$€£/+-])\d{1,3}(?:,\d{3}|\d{0,3})(?![\w%:/]|[.,-]\d|-\w)")


def as_digits(text: str) -> str:
    """Number words as digits; words that make no one number, such as "two three", each by itself,
    and a single "one" as it is."""
    return _SPOKEN.sub(lambda match: _digits(match[0]), text)


def as_words(text: str) -> str:
    """Digits as number words; capitalised where a sentence begins with one."""
    def spoken(match: re.Match) -> str:
        digits = match[0].replace(",", "")
        if len(match[0]) == 4 or (len(digits) > 1 and digits[0] == "0"):
            return match[0]  # a year; a code
        words = number_words(int(digits))
        before = text[:match.start()].rstrip()
        return words.capitalize() if not before or before[-1] in ".!?" else words

    return _WRITTEN.sub(spoken, text)


def number_words(number: int) -> str:
    """121 -> one hundred and twenty-one; 0 to 999,999."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        joint = " and " if 0 < rest < 100 else " "
        return f"{number_words(thousands)} thousand" + (joint + number_words(rest) if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {number_words(rest)}" if rest else "")
    if number >= 20:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
    return _SMALL[number]


def _digits(spoken: str) -> str:
    if spoken.lower() == "one":
        return spoken
    parts = re.split(r"([\s-]+(?:and\s+)?)", spoken)
    words, gaps = parts[::2], parts[1::2]
    found, group, last_gap = "", [], ""
    for index, word in enumerate(words):
        if group and _value([*group, word]) is None:
            found += last_gap + _written(group)
            group, last_gap = [], gaps[index - 1]
        group.append(word)
    return found + last_gap + _written(group)


def _written(words: list[str]) -> str:
    value = _value(words)
    return " ".join(words) if value is None else str(value)


def _value(words: list[str]) -> int | None:
    """Of words that are one number, such as [two, hundred, twelve]; else None."""
    total, group, last = 0, 0, 1_000_000  # what is in front of a thousand; the smallest part so far
    seen_thousand = False
    for word in (each.lower() for each in words):
        if word == "thousand":
            if seen_thousand or not group:
                return None
            total, group, last, seen_thousand = group * 1000, 0, 1_000_000, True
        elif word == "hundred":
            if not 0 < group < 10:
                return None
            group, last = group * 100, 100
        else:
            value = _VALUES[word]
            room = {1_000_000: 100, 100: 100, 10: 10}.get(last, 0)
            if value >= room or (last == 10 and value == 0):
                return None
            group, last = group + value, 10 if value >= 20 else 1
    return total + group
