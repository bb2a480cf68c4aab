"""Write recipes/demo-two-layers/data/words.txt: what two layers learn from besides, as text.

    apt-get download wamerican-small wordnet-base
    for p in *.deb; do dpkg -x $p unpacked; done
    pip download --no-deps wonderwords && unzip wonderwords-*.whl
    python -m distill.data.samples.more_words unpacked wonderwords/assets TOKENIZER.json \\
        recipes/demo-two-layers/data

Prompts as telephones say them, one to three of WordNet's examples of how a word is used, readings
of up to 30 s made of such, lists, and single words. TOKENIZER.json is the teacher's. Users of the
demo need none of this: its output is in the repository, and is read aloud by
`distill.data.speech.read_aloud`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.data.files import write_text
from distill.data.manifest import read_manifest
from distill.data.samples.made_up import word_kinds
from distill.data.samples.rare_names import number_words, read_sentences
from distill.data.views.draws import generator

TEXTS = {"prompt": 800, "said": 1000, "reading": 50, "list": 250, "word": 900}
_READING_WORDS = 70  # at least
_EXAMPLE_WORDS = (4, 16)
_KINDS = ("verb", "adj", "adv", "noun")  # of WordNet's files
_LIST_LENGTHS = (3, 9)
# of sentences that nobody wants to hear, besides profanities; rather too many than too few
_UNWANTED = """
    abuse abused addict adultery affair alcohol arrested assassinated assault assaulted attack
    attacked bankrupt battle beat beaten beating bleeding blood bomb bombed bombing bombs bra
    breast brutal burned cancer cocaine colored condemned convicted corpses crime crimes criminal
    criminals crippled cruel cursed cut dead death deaths devil die died dies diet disease
    diseases dope dressed drug drugs drunk drunken dying enemy evil executed execution flesh fool
    fought funeral gas grave guilty gun gunman guns hang hate hated hospital husband idiot ill
    indian infected injured jewish killed killer killing kills kissed knife lover lovers married
    massacre military mistress mob murdered murderer naked pain poison police pregnant prison
    prisoner prisoners prostitute race racial racist raped religion religious revenge seduce
    sexually shoot shooting shot sick sin sins slave slaves smoke soldier soldiers stab starving
    stole strangle stupid suffer suffered surgery tears terror terrorist terrorists thief threat
    threatened troops tumor ugly victim victims violence violent war wars weapon weapons wept
    whipped whites wife witch woman wound wounded wounds
    """
_DIGITS = [number_words(each) for each in range(10)]
_CHOICES = {
    "length": "four five six seven ten",
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November "
             "December",
    "day": "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
           "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    "direction": "north south east west",
    "side": "left right",
    "language": "English Spanish French German Italian Portuguese Chinese Japanese Russian "
                "Arabic Korean Polish",
    "digit": " ".join(_DIGITS[1:]),
}


def examples(wordnet: Path, english: set[str], rude: set[str]) -> list[str]:
    """Sentences and phrases of common words, in an order of chance."""
    found, (fewest, most) = set(), _EXAMPLE_WORDS
    for kind in _KINDS:
        for line in (wordnet / f"data.{kind}").read_text(encoding="utf-8").splitlines():
            for text in re.findall(r'"([^"]+)"', line.partition("|")[2]):
                words = set(re.findall("[a-z']+", text.lower()))
                if (fewest <= len(text.split()) <= most and not words & rude
                        and re.fullmatch(r"[A-Za-z',;:?! -]+", text)
                        and all({word, word.capitalize()} & english for word in words)):
                    found.add(_sentence(text.strip(" ;,:")))
    ordered = sorted(found)
    return [ordered[at] for at in generator(0, "examples", 0).permutation(len(ordered))]


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def fill(templates: list[str], kinds: dict[str, list[str]], count: int) -> Iterator[str]:
    """Prompts; every word of a kind is taken before one comes again."""
    bags: dict[str, list[str]] = {}
    for index in range(count):
        bits, text = generator(0, "prompt", index), templates[index % len(templates)]
        for slot in re.findall(r"\{(\w+)\}", text):
            if slot in kinds and not bags.get(slot):
                bags[slot] = [kinds[slot][at] for at in bits.permutation(len(kinds[slot]))]
            found = bags[slot].pop() if slot in kinds else _drawn(slot, bits)
            text = text.replace(f"{{{slot}}}", found, 1)
        yield _sentence(text).replace("..", ".")


def _drawn(slot: str, bits: np.random.Generator) -> str:
    """A number, letters, or a date."""
    if slot == "number":
        return number_words(int(bits.integers(2, 100)))
    if slot == "digits":
        return " ".join(_DIGITS[at] for at in bits.integers(0, 10, int(bits.integers(3, 8))))
    if slot == "letters":
        return " ".join(chr(65 + at) for at in bits.integers(0, 26, int(bits.integers(2, 5))))
    if slot == "time":
        hour, minute = number_words(int(bits.integers(1, 13))), int(bits.integers(0, 60))
        spoken = (f"oh {number_words(minute)}" if minute < 10 else number_words(minute))
        half = ("a.m.", "p.m.")[bits.integers(2)]
        return f"{hour} {spoken} {half}" if minute else f"{hour} {half}"
    choices = _CHOICES[slot].split()
    return choices[bits.integers(len(choices))]


def texts(templates: list[str], kinds: dict[str, list[str]], said: list[str],
          taken: set[str]) -> Iterator[str]:
    """
    Args:
        taken: texts of other splits, as `_plain` has them; these are left out.
    """
    parts = iter([text for text in said if _plain(text) not in taken])
    yield from fill(templates, kinds, TEXTS["prompt"])
    for index in range(TEXTS["said"]):
        yield " ".join(next(parts) for _ in range(1 + index % 3))
    for _ in range(TEXTS["reading"]):
        text = next(parts)
        while len(text.split()) < _READING_WORDS:
            text += f" {next(parts)}"
        yield text
    yield from lists_of({kind: kinds[kind] for kind in ("noun", "nouns", "adj")} | {
        name: _CHOICES[name].split() for name in ("weekday", "month", "day", "language")} | {
        "letter": [chr(65 + at) for at in range(26)], "digit": _DIGITS,
        "number": [number_words(each) for each in range(100)]})
    words = sorted({word for kind in kinds.values() for word in kind})
    words += [number_words(each) for each in range(100)]
    words = [word for word in words if _plain(word) not in taken]
    order = generator(0, "single words", 0).permutation(len(words))
    for index in range(TEXTS["word"]):
        yield f"{words[order[index]].capitalize()}."


def _plain(text: str) -> str:
    return " ".join(re.findall("[a-z0-9']+", text.lower()))


def lists_of(kinds: dict[str, list[str]]) -> Iterator[str]:
    """Some of a kind, one after the other; in every third list each is a sentence."""
    for index in range(TEXTS["list"]):
        bits, words = generator(0, "list", index), list(kinds.values())[index % len(kinds)]
        count = int(bits.integers(*_LIST_LENGTHS))
        found = [words[at].capitalize() for at in bits.integers(0, len(words), count)]
        yield (". " if index % 3 == 0 else ", ").join(found) + "."


def main(unpacked: str, lists: str, tokenizer: str, out: str) -> None:
    folder, share = Path(out), Path(unpacked) / "usr/share"
    dictionary = share / "dict/american-english-small"
    english = set(dictionary.read_text(encoding="utf-8").split())
    profanities = Path(lists) / "profanitylist.txt"
    rude = set(_UNWANTED.split()) | set(profanities.read_text(encoding="utf-8").split())
    kinds = word_kinds(english, Path(lists), Path(tokenizer))
    kinds = {kind: [word for word in words if word not in rude] for kind, words in kinds.items()}
    templates = read_sentences(folder / "prompts.txt")["train"]
    said = examples(share / "wordnet", english, rude)
    taken = {_plain(row.text or "") for split in ("validation", "test")
             for row in read_manifest(folder.parents[1] / f"demo/data/{split}.jsonl")[0]}
    found = list(texts(templates, kinds, said, taken))
    write_text(folder / "words.txt", "".join(f"{text}\n" for text in found))
    words = [word for text in found for word in re.findall("[a-z']+", text.lower())]
    print(f"{len(found)} texts, {len(words)} words, {len(set(words))} different; "
          f"of {len(said)} examples and {len(templates)} prompts")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
