"""Texts of many words: which examples of WordNet are read, and what fills the prompts."""

import re
from pathlib import Path

from distill.data.manifest import read_manifest
from distill.data.samples.more_words import TEXTS, examples, fill, lists_of, texts
from distill.data.samples.rare_names import read_sentences
from distill.metrics.normalize import normalizer

RECIPES = Path(__file__).parents[3] / "recipes"
DATA = RECIPES / "demo-two-layers" / "data"
KINDS = ("noun", "nouns", "adj", "did", "doing", "how")


def test_examples_of_common_words(tmp_path):
    gloss = ('00001740 29 v 01 walk 0 | move by foot; "they walk to the park"; "walk on"; '
             '"the rude cat can walk"; "they walk to 2 parks"; "can the cat walk there?"\n')
    for kind in ("verb", "adj", "adv", "noun"):
        (tmp_path / f"data.{kind}").write_text(f"  1 a licence\n{gloss}")
    english = {"they", "walk", "to", "the", "park", "on", "cat", "can", "there", "rude", "parks"}
    found = examples(tmp_path, english, {"rude"})
    assert sorted(found) == ["Can the cat walk there?", "They walk to the park."]
    assert sorted(examples(tmp_path, english - {"park"}, {"rude"})) == ["Can the cat walk there?"]


def test_prompts_are_filled():
    words = {"noun": [f"noun{at}" for at in range(40)]}
    templates = ["{noun} and {noun} at {time}, {digits}.", "{letters} on {weekday}, {number}!"]
    found = list(fill(templates, words, 20))
    taken = re.findall("[Nn]oun[0-9]+", " ".join(found))
    assert len(found) == 20 and len(taken) == len({word.lower() for word in taken}) == 20
    assert not any(re.search(r"[{}]|\.\.", text) for text in found)
    assert all(text[0].isupper() and text[-1] in ".!" for text in found)
    assert found == list(fill(templates, words, 20))


def test_lists_are_of_one_kind():
    found = list(lists_of({"letter": ["a", "b"], "digit": ["one", "two"]}))
    assert len(found) == TEXTS["list"]
    for index, text in enumerate(found):
        items = re.findall("[a-z]+", text.lower())
        assert set(items) <= ({"a", "b"}, {"one", "two"})[index % 2] and 3 <= len(items) < 9


def test_what_other_splits_say_is_not_said():
    kinds = {kind: [f"{kind}{at}" for at in range(1000)] for kind in KINDS}
    said = [f"Sentence number {at} has seven words." for at in range(4000)]
    taken = {"noun7", "sentence number 7 has seven words"}
    found = list(texts(["Say {noun}."], kinds, said, taken))
    assert len(found) == sum(TEXTS.values())
    assert "Noun7." not in found and not any("number 7 has" in text for text in found)
    everything = " ".join(texts(["Say {noun}."], kinds, said, set()))
    assert "number 7 has" in everything


def test_what_is_embedded():
    """Nothing that the other splits say, and every template is said."""
    found = (DATA / "words.txt").read_text(encoding="utf-8").splitlines()
    assert len(found) == sum(TEXTS.values()) and all(found)
    assert len(read_sentences(DATA / "prompts.txt")["train"]) == 50
    plain = normalizer("english", "en", "word")
    said = {plain(text) for text in found}
    for split in ("validation", "test"):
        rows = read_manifest(RECIPES / "demo" / "data" / f"{split}.jsonl")[0]
        assert not said & {plain(row.text) for row in rows}
