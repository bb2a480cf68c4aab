"""What is wrong with translations, each reason by itself."""

import pytest

from distill.whisper.recipe import TranslationConfig
from pseudo_label.filtering.translation_filters import length_ratios, translation_drop_reason

SOURCE = "el perro corre por la calle y ladra"
GOOD = "the dog runs down the street and barks"
OFF = {"max_length_ratio": None, "max_repeated_ngrams": None, "max_copied": None,
       "check_script": False}


def row(name="w0", source=SOURCE, text=GOOD, language="es", **changes) -> dict:
    translation = {"source": source, "text": text, "language": language, "tokens": [1] * 9,
                   "avg_logprob": -0.3, "truncated": False, "length_ratio": 1.0}
    return {"id": name, "language": language, "translation": translation | changes}


LOOP = " ".join(["to be or not to be"] * 4)


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({}, {}, None),
        ({"text": "  "}, OFF, "empty_translation"),
        ({"truncated": True}, OFF, "truncated_translation"),
        ({"tokens": [1] * 441}, OFF, "truncated_translation"),  # a decoder has 448 positions
        ({"tokens": [1] * 440}, OFF, None),
        ({"text": SOURCE}, {}, "source_copied"),
        ({"text": "El perro CORRE, por la calle the dog"}, {}, "source_copied"),
        ({"text": SOURCE}, {"max_copied": None}, None),
        ({"text": SOURCE}, {"max_copied": 1.0}, None),  # at the threshold is kept
        ({"source": "no, Maria", "text": "no, Maria"}, {}, None),  # right in both languages
        ({"source": "我喜欢狗和猫", "text": "我喜欢狗和猫", "language": "zh"}, {}, "source_copied"),
        ({"source": "我喜欢狗和猫", "text": "I like cats", "language": "zh"}, {}, None),
        ({"text": "собака бежит по улице"}, {}, "wrong_target_script"),
        ({"text": "собака бежит по улице"}, {"check_script": False}, None),
        ({"length_ratio": 2.1}, {}, "odd_length"),
        ({"length_ratio": 1 / 2.1}, {}, "odd_length"),
        ({"length_ratio": 2.0}, {}, None),
        ({"length_ratio": 9.0}, {"max_length_ratio": None}, None),
        ({"text": LOOP}, {}, "translation_repeats_itself"),
        ({"text": LOOP}, {"max_repeated_ngrams": None}, None),
        ({"text": LOOP, "source": " ".join(["ser o no ser pues"] * 4)}, {}, None),  # so was it said
        ({}, {"min_avg_logprob": -0.2}, "low_translation_logprob"),
        ({}, {"min_avg_logprob": -0.3}, None),
    ],
)
def test_reasons(changes, options, reason):
    assert translation_drop_reason(row(**changes), TranslationConfig(**options)) == reason


def test_lengths_are_judged_by_what_is_usual_between_two_languages():
    """A Chinese sentence is a third as long as its translation, and none the worse for it."""
    rows = [row(f"z{i}", "我喜欢狗和猫", "I like dogs and cats " + "too" * (i % 2), "zh")
            for i in range(9)]
    rows += [row(f"e{i}") for i in range(9)]
    rows += [row("short", text="dog"), row("long", "我喜欢狗和猫", "I like dogs " * 9, "zh")]
    length_ratios(rows)
    reasons = {r["id"]: translation_drop_reason(r, TranslationConfig()) for r in rows}
    assert {name for name, reason in reasons.items() if reason == "odd_length"} == {"short", "long"}
    assert sum(reason is None for reason in reasons.values()) == 18
