"""BLEU and chrF are sacrebleu's, told what language they look at."""

from types import SimpleNamespace

import pytest

from distill.metrics.translation import translation_scores


def scores(references, texts, language="en"):
    return translation_scores([SimpleNamespace(reference=r) for r in references], texts, language)


def test_scores():
    said = ["The dog runs down the street.", "It is raining cats and dogs."]
    perfect = scores(said, said)
    assert perfect["bleu"] == pytest.approx(100) and perfect["chrf"] == pytest.approx(100)
    worse = scores(said, ["The dog walks down the street.", "It rains."])
    assert 0 < worse["bleu"] < 60 and 0 < worse["chrf"] < 80
    assert "tok:13a" in worse["bleu_signature"] and "nw:0" in worse["chrf_signature"]


def test_unspaced_languages_are_not_one_word():
    said, heard = ["我今天去商店买东西了吗"], ["我今天去商店买苹果了吗"]
    assert scores(said, heard, "zh")["bleu"] > 10
    assert "tok:zh" in scores(said, heard, "zh")["bleu_signature"]
    assert scores(said, heard, "en")["bleu"] < 1
