"""Sentences of many words: which words, and that none is taken twice before all were."""

import json
import re
from pathlib import Path

from distill.data.manifest import read_manifest
from distill.data.samples.made_up import fill, word_kinds
from distill.data.samples.rare_names import read_sentences

DATA = Path(__file__).parents[3] / "recipes" / "demo-prompted" / "data"


def test_kinds_of_words(tmp_path):
    tokens = ["\u0120cat", "\u0120rude", "\u0120desks", "\u0120walked", "\u0120glass", "cat",
              "\u0120sadly", "\u0120sad", "\u0120running", "\u0120katze", "\u0120need", "desk"]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    for name, words in (("noun", "cat glass"), ("adjective", "sad"), ("profanity", "rude")):
        (tmp_path / f"{name}list.txt").write_text(words.replace(" ", "\n"))
    english = {token.strip("\u0120") for token in tokens} - {"katze"}
    assert word_kinds(english, tmp_path, tmp_path / "tokenizer.json") == {
        "noun": ["cat"], "nouns": ["desks"], "adj": ["sad"], "did": ["walked"],
        "doing": ["running"], "how": ["sadly"]}


def test_every_word_before_one_comes_again():
    words = {"noun": [f"w{at}" for at in range(500)], "name": ["Ann"]}
    texts = list(fill(["the {noun} of {name} is a {noun}.", "{name}."], words))
    taken = re.findall(r"w\d+", " ".join(texts))
    assert len(texts) == 400 and len(taken) == len(set(taken)) == 400
    assert texts[0].startswith("The w") and texts[1] == "Ann."
    assert texts == list(fill(["the {noun} of {name} is a {noun}.", "{name}."], words))


def test_what_is_embedded():
    """Both parts; a name of the other splits is in neither."""
    rows, _ = read_manifest(DATA / "train_more.jsonl")
    first, _ = read_manifest(DATA / "train.jsonl")
    assert rows[: len(first)] == first and len(rows) == len(first) + 400
    assert len(read_sentences(DATA / "made_up.txt")["train"]) == 20
    said = {word for row in rows for word in re.findall("[A-Za-z]+", row.text)}
    trained = set((DATA / "train_names.txt").read_text().split())
    for split in ("validation", "test"):
        names = set((DATA / f"{split}_names.txt").read_text().split())
        assert not names & said and not names & trained
