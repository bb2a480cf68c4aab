"""Styles: the same words, written in other ways; numbers as digits and as words."""

import pytest

from distill.whisper.prompting.numbers import as_digits, as_words, number_words
from distill.whisper.prompting.styles import STYLES, find_style, follows, render, style_prompt

TEXT = "\u201cDon\u2019t,\u201d said Mr. O'Neil-Smith; at 9:30 it's 3.5% more..."


def test_capitals_without_punctuation():
    assert render("upper", TEXT) == "DON\u2019T SAID MR O'NEIL SMITH AT 9:30 IT'S 3.5% MORE"
    assert render("lower", TEXT) == "don\u2019t said mr o'neil smith at 9:30 it's 3.5% more"
    assert render("mixed", TEXT) == TEXT
    assert render("upper", "«Стой», сказал он.") == "СТОЙ СКАЗАЛ ОН"
    assert render("lower", "你好。") == "你好"


@pytest.mark.parametrize("style", STYLES)
def test_a_style_follows_itself_and_twice_is_once(style):
    prompt = style_prompt(style)
    assert follows(style, prompt) and render(style, prompt) == prompt
    assert not follows(style, "")


def test_styles_tell_each_other_apart():
    assert len({style_prompt(style) for style in STYLES}) == len(STYLES)
    for style, others in (("upper", ("mixed", "lower")), ("lower", ("mixed", "upper")),
                          ("mixed", ("upper", "lower"))):
        assert not any(follows(style, style_prompt(other)) for other in others)
    assert not follows("digits", style_prompt("words"))
    assert not follows("words", style_prompt("digits"))


def test_a_style_of_ones_own():
    assert render("textwrap:dedent", "  a\n  b") == "a\nb"
    for wrong in ("shout", "textwrap:none", "nowhere:at_all", "textwrap:"):
        with pytest.raises(ValueError, match="must be one of mixed, upper"):
            find_style(wrong)


@pytest.mark.parametrize("spoken, written", [
    ("Twenty-one boats left at nine.", "21 boats left at 9."),
    ("one hundred and five, two three four", "105, 2 3 4"),
    ("two hundred twelve thousand and six", "212006"),
    ("nineteen ninety-nine", "19 99"),
    ("five hundred, please, one day", "500, please, one day"),
    ("a hundred islands, two and three", "a hundred islands, 2 and 3"),
    ("often, tenor, fortyish", "often, tenor, fortyish"),
])
def test_number_words_to_digits(spoken, written):
    assert as_digits(spoken) == written


@pytest.mark.parametrize("written, spoken", [
    ("21 boats left at 9.", "Twenty-one boats left at nine."),
    ("Room 12. 40 people", "Room twelve. Forty people"),
    ("1,250 of 9999999", "one thousand two hundred and fifty of 9999999"),
    ("9:30, 3.5, 007, 1905, 5%, $5, 3rd, A4, -7", "9:30, 3.5, 007, 1905, 5%, $5, 3rd, A4, -7"),
])
def test_digits_to_number_words(written, spoken):
    assert as_words(written).lower() == spoken.lower()


def test_all_numbers_come_back():
    for number in [*range(1200), *range(1200, 1_000_000, 7919)]:
        words = number_words(number)
        assert as_digits(words) == ("one" if number == 1 else str(number)), words
