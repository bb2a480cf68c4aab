import hashlib
import json

import pytest

from distill.data.speech.windows import join_texts
from distill.metrics.error_rates import error_counts
from distill.metrics.normalize import _spellings, error_unit, normalizer, normalizer_name


def test_english_of_a_multilingual_teacher_is_english():
    # the Distil-Whisper scripts take the basic one here and count four errors
    clean = normalizer("auto", "en")
    assert clean("It's twenty dollars.") == clean("It is $20") == "it is $20"
    for language in (None, "en", "English", "en-US", "<|en|>"):
        assert normalizer_name("auto", language) == "english"


def test_other_languages_are_basic_unless_told_otherwise():
    assert normalizer_name("auto", "fr") == "basic"
    assert normalizer_name("english", "fr") == "english"
    assert normalizer_name("basic", "en") == "basic"


def test_unknown_name_says_which_key():
    with pytest.raises(ValueError, match=r"evaluation\.normalizer.*'whisper'"):
        normalizer("whisper", "en")


def test_english_spellings_are_openais():
    assert normalizer("english", "en")("the COLOUR of my favourite tyre, um") == (
        "the color of my favorite tire"
    )
    # whisper/normalizers/english.json of openai-whisper 20250625, entry for entry
    text = json.dumps(_spellings(), sort_keys=True)
    assert len(_spellings()) == 1739
    assert hashlib.sha256(text.encode()).hexdigest().startswith("a9514fed7a5a462d")


def test_a_missing_spelling_list_is_an_error_and_not_an_empty_one(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install whisper-normalization"):
        _spellings()


def test_english_leaves_no_spaces_at_the_ends():
    assert normalizer("english", "en")(" [music] Um, hello! ") == "hello"


def test_hindi_keeps_its_vowel_signs():
    clean = normalizer("auto", "hi")
    assert clean("मैं हिन्दी बोलता हूँ।") == "मैं हिन्दी बोलता हूँ"
    assert len(clean("मैं हिन्दी बोलता हूँ।").split()) == 4  # transformers makes 13 of them
    assert error_counts(clean("मैं हिन्दी बोलता हूँ।"), clean("मैं हिन्दी बोलता है")).errors == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Où est-il, l'hôtel\u00a0?", "où est il l hôtel"),
        ("(rires) Oui [musique] <unk> <|0.00|> non", "oui non"),
        ("cafe\u0301 CAFÉ", "café café"),  # composed or not: the same word
        ("Grüße\tund\nKüsse", "grüße und küsse"),
        ("می\u200cخواهم", "میخواهم"),  # a joiner does not separate words
        ("wie\u00adder", "wieder"),
        ("ja \u2764\ufe0f nein 1\ufe0f\u20e3", "ja nein 1\u20e3"),
        ("\U0001f44d\U0001f3fd", ""),
        ("-\u0301", ""),  # a mark whose letter is gone
        ("", ""),
    ],
)
def test_basic(text, expected):
    assert normalizer("basic", "fr")(text) == expected


def test_unspaced_languages_lose_spaces_and_full_width_annotations():
    assert (
        normalizer("auto", "ja")("（笑） 今日は、 いい天気 です。【拍手】") == "今日はいい天気です"
    )
    assert normalizer("auto", "zh-TW")("你好，世界！ＡＢＣ") == "你好世界abc"


def test_one_wrong_chinese_character_is_one_error_of_six():
    clean, unit = normalizer("auto", "zh"), error_unit("zh")
    counts = error_counts(clean("今天天气很好。"), clean("今天天汽很好"), unit)
    assert (counts.errors, counts.num_reference) == (1, 6)
    assert error_counts(clean("今天天气很好。"), clean("今天天汽很好")).rate == 1.0  # as a "word"


@pytest.mark.parametrize("language", ["zh", "ja", "th", "lo", "my", "km", "yue", "bo"])
def test_languages_without_spaces_are_measured_and_joined_so(language):
    assert error_unit(language) == "char"
    assert join_texts(["a", "b"], language) == "ab"


@pytest.mark.parametrize(("language", "text", "unit"), [
    ("ja", "今日はいい天気です。", "char"),
    ("ja", "Kyō wa ii tenki desu.", "word"),  # in Latin letters there are words
    ("en", "今天天气很好", "char"),  # the corpus says English, the text does not
    (None, "สวัสดีครับ", "char"),
    ("ko", "오늘은 날씨가 좋다", "word"),
    ("zh", "2024", "char"),  # no letter: by the language
    ("th", "", "char"),
    ("en", "I like 寿司", "word"),
])
def test_the_script_decides_where_there_is_one(language, text, unit):
    assert error_unit(language, text) == unit


def test_texts_without_words_are_compared_without_spaces_whatever_the_language_says():
    assert normalizer("auto", "en", "char")("今天 天气，很好") == "今天天气很好"
    assert normalizer("auto", "ja", "word")("Kyō wa, ii!") == "kyō wa ii"


def test_other_units():
    assert error_unit("Japanese") == error_unit("zh-TW") == error_unit("<|th|>") == "char"
    for language in (None, "en", "hi", "ko", "vi", "Korean"):
        assert error_unit(language) == "word"
        assert join_texts(["a", "b"], language) == "a b"


@pytest.mark.parametrize(("text", "expected"), [
    ("Contraseña, número señal.", "contrasena numero senal"),
    ("Ça va, Ǻngström!", "ca va angstrom"),  # two marks on a letter
    ("हिन्दी में", "हिन्दी में"),  # vowel signs are no accents
    ("Ёлка й", "ёлка й"),  # letters of their own in Russian
])
def test_unaccented(text, expected):
    assert normalizer("unaccented", "es")(text) == expected
    assert normalizer_name("unaccented", "es") == "unaccented"
