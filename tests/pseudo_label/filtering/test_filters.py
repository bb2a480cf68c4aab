"""What is wrong with a label: every reason, at its threshold, in scripts of all kinds."""

import math

import pytest

from distill.whisper.recipe import FilterConfig
from pseudo_label.filtering import filters
from pseudo_label.filtering.filters import (
    FILTERS,
    SCRIPTS,
    chars_per_second,
    drop_reason,
    repeated_ngrams,
)

HINDI = "यह एक अच्छा दिन है"
JAPANESE = "今日はコーヒーを飲みました。"
LOOP = "I will go there now. "


def row(label="Hello there.", **changes) -> dict:
    return {
        "id": "w0", "language": "en", "reference": None, "label": label, "wer": None, "cer": None,
        "unit": "word", "truncated": False, "duration": 10.0, "avg_logprob": -0.2,
        "no_speech_prob": 0.1, "compression_ratio": 1.2, "detected_language": "en",
        "detected_language_prob": 0.9, "disagreement": 0.0,
    } | changes


def reason(config: dict, language="en", **changes) -> str | None:
    return drop_reason(row(**changes), FilterConfig(**config), language)


@pytest.mark.parametrize(
    ("name", "config", "changes"),
    [
        ("truncated", {}, {"truncated": True}),
        ("empty_label", {}, {"label": " \n"}),
        ("no_reference", {"keep_unreferenced": False}, {}),
        ("empty_reference", {}, {"reference": "(music)"}),
        ("wer", {}, {"reference": "x", "wer": 0.5}),
        ("cer", {}, {"reference": "x", "cer": 0.5, "unit": "char"}),
        ("low_avg_logprob", {"min_avg_logprob": -0.1}, {}),
        ("high_compression_ratio", {"max_compression_ratio": 1.1}, {}),
        ("repeats_itself", {"max_repeated_ngrams": 0.0}, {"label": 2 * LOOP}),
        ("no_speech", {"max_no_speech_prob": 0.05}, {}),
        ("too_few_chars", {"min_chars_per_second": 2}, {}),
        ("too_many_chars", {"max_chars_per_second": 1}, {}),
        ("wrong_script", {"check_script": True}, {"label": HINDI}),
        ("wrong_language", {"check_language": True}, {"detected_language": "de"}),
        ("all_capitals", {"drop_all_capitals": True}, {"label": "HELLO THERE"}),
        ("disagreement", {"max_disagreement": 0.1}, {"disagreement": 0.2}),
    ],
)
def test_every_reason(name, config, changes):
    assert reason(config, **changes) == name
    if config:
        assert reason({}, **changes) is None, "off unless asked for"


def test_no_reason_is_left_out():
    names = test_every_reason.pytestmark[0].args[1]
    assert [name for name, *_ in names] == [f.__name__ for f in FILTERS]


def test_the_first_reason_counts():
    config = {"max_no_speech_prob": 0.0, "min_avg_logprob": 0.0, "check_script": True}
    assert reason(config, label=HINDI) == "low_avg_logprob"
    assert reason(config, label="", avg_logprob=-9.0) == "empty_label"


@pytest.mark.parametrize(
    ("key", "field"),
    [("min_avg_logprob", "avg_logprob"), ("max_compression_ratio", "compression_ratio"),
     ("max_no_speech_prob", "no_speech_prob"), ("max_disagreement", "disagreement")],
)
def test_thresholds_are_inclusive(key, field):
    """And labels that lack the number are an error, not a guess."""
    limit = -0.3 if key == "min_avg_logprob" else 0.3
    worse = math.nextafter(limit, -math.inf if key.startswith("min") else math.inf)
    assert reason({key: limit}, **{field: limit}) is None
    assert reason({key: limit}, **{field: worse}) is not None
    with pytest.raises(ValueError, match=rf"filter\.{key}={limit} needs .* label w0 lacks"):
        reason({key: limit}, **{field: None})
    assert reason({}, **{field: None}) is None


def test_characters_per_second():
    assert chars_per_second(row("a b\u3000c\n d", duration=2.0)) == 2.0
    assert chars_per_second(row("  ")) == 0
    limits = {"min_chars_per_second": 2.0, "max_chars_per_second": 2.0}
    assert reason(limits, label="ab cd", duration=2.0) is None
    assert reason(limits, label="ab cde", duration=2.0) == "too_many_chars"
    assert reason(limits, label="ab c", duration=2.0) == "too_few_chars"


def test_what_lacks_says_what_to_do():
    with pytest.raises(ValueError, match="set pseudo_label.second_decoding and label again"):
        reason({"max_disagreement": 0.1}, disagreement=None)
    for missing in ("detected_language", "detected_language_prob"):
        old = row()
        del old[missing]
        with pytest.raises(ValueError, match="label w0 lacks: set pseudo_label.detect_language"):
            drop_reason(old, FilterConfig(check_language=True), "en")


# Repetitions


@pytest.mark.parametrize(
    ("label", "share"),
    [
        ("one two three four five", 0.0),
        ("one two three four", 0.0),  # no 5-gram at all
        (2 * LOOP, 1.0),
        ("I will go there now, i WILL go there, now!", 1.0),  # case and punctuation do not count
        (LOOP + "But " + LOOP + "or not so", 10 / 14),
        ("no " * 6, 1.0),  # 5-grams of the same word overlap
        ("no " * 5, 0.0),
        ("a b c d e f x a b c d e y", 10 / 13),  # f was said once
        (HINDI + " " + HINDI, 1.0),
    ],
)
def test_repeated_words(label, share):
    assert repeated_ngrams(row(label)) == pytest.approx(share)


def test_repeated_characters():
    assert repeated_ngrams(row(JAPANESE, unit="char")) == 0
    assert repeated_ngrams(row(2 * JAPANESE, unit="char")) == 1
    assert repeated_ngrams(row(2 * JAPANESE)) == 0, "without spaces it is two words"
    # a name of 9 characters may be said twice
    assert repeated_ngrams(row("東京都千代田区霞が関、東京都千代田区霞が", unit="char")) == 0


def test_the_share_is_limited_not_the_count():
    config = {"max_repeated_ngrams": 10 / 14}
    text = LOOP + "But " + LOOP + "or not so"
    assert reason(config, label=text) is None
    assert reason({"max_repeated_ngrams": 0.7}, label=text) == "repeats_itself"


# Scripts and languages


@pytest.mark.parametrize(
    ("language", "label", "is_wrong"),
    [
        ("hi", HINDI, False),
        ("hi", "yah ek achchha din hai", True),
        ("hi", "यह NASA का IT विभाग है", False),  # borrowed words
        ("en", HINDI, True),
        ("en", "Привет, how are you doing today?", False),
        ("ja", JAPANESE, False),
        ("ja", "あーーー、", False),  # the mark of length is of no script
        ("ja", "飲食店", False),
        ("ja", "Thank you for watching!", True),
        ("zh", "今天", False),
        ("zh", "コーヒーを", True),
        ("ko", "안녕하세요", False),
        ("sr", "Добар дан", False),
        ("sr", "Dobar dan", False),
        ("kk", "Қайырлы таң", False),
        ("mk", "Dobar den", True),
        ("uk", "Thank you", True),
        ("ur", "شکریہ", False),
        ("el", "Ευχαριστώ πολύ", False),
        ("cy", "Prynhawn da, sut dych chi", False),
        (None, "Hello", False),  # an English-only teacher
        (None, "Привет", True),
        ("hi", "28.8 – 100%!", False),  # no letter, no script
        ("ru", "да no", False),  # half and half
        ("ru", "да, nope", True),
    ],
)
def test_scripts(language, label, is_wrong):
    found = reason({"check_script": True}, language, label=label)
    assert found == ("wrong_script" if is_wrong else None)


def test_scripts_of_all_languages_of_whisper():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    assert SCRIPTS.keys() <= LANGUAGES.keys()
    for language in LANGUAGES:
        filters._letters_of(language)  # a script that regex does not know is an error


def test_a_language_is_wrong_only_where_the_teacher_is_sure():
    config = {"check_language": True}
    heard = {"detected_language": "nn", "detected_language_prob": 0.5}
    assert reason(config, "no", **heard) == "wrong_language"
    assert reason(config, "no", **heard | {"detected_language_prob": 0.499}) is None
    assert reason(config, "nn", **heard) is None


@pytest.mark.parametrize(
    ("label", "is_capitals"),
    [
        ("THANK YOU.", True),
        ("ДА, КОНЕЧНО", True),
        ("ΕΥΧΑΡΙΣΤΩ", True),
        ("Thank YOU.", False),
        (HINDI, False),  # equal to their own upper case, which the published code asks
        (JAPANESE, False),
        ("你好", False),
        ("شکریہ", False),
        ("გამარჯობა", False),  # Georgian capitals exist, nobody writes them
        ("यह NASA है और अच्छा है", False),
        ("Ünï", False),
        ("28.8 – 100 %", False),
    ],
)
def test_capitals(label, is_capitals):
    found = reason({"drop_all_capitals": True}, label=label)
    assert found == ("all_capitals" if is_capitals else None)
