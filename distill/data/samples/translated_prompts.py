"""Rebuild the embedded translation data of recipes/demo-llm: Spanish prompts with English text.

    apt-get download asterisk-core-sounds-{en,es} asterisk-core-sounds-es-g722
    for p in *.deb; do dpkg -x $p unpacked; done
    cd recipes
    python -m distill.data.samples.translated_prompts unpacked demo/data demo-llm/data

The same prompts exist in both languages under the same names: English text is a human translation
of Spanish speech. A prompt is in the split that recipes/demo has it in. What has the text of
another split, in either language, is left out; the test split comes first, then validation. Needs
ffmpeg or PyAV. Users of the demo need none of this: its output is in the repository.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.files import read_jsonl, write_jsonl
from distill.data.samples.telephone_prompts import VOICES, decode_g722, read_transcripts

SPLITS = ("test", "validation", "train")  # in this order a text is taken
COMPRESSION = 0.98  # of libsndfile's Opus, 0 to 1: about 1.7 kB a second
LEFT_OUT = ("letters/", "phonetic/")  # names of letters are no translations
LONGEST, SHORTEST = 15.0, 0.5  # seconds; menus of half a minute would be most of the audio


def key(text: str) -> str:
    """What is compared: words alone."""
    return " ".join(re.findall(r"[\w']+", text.lower()))


def choose(
    english: dict[str, str], spanish: dict[str, str], splits: dict[str, str]
) -> tuple[dict[str, str], Counter]:
    """{name: split} of prompts that are in one split alone by both texts, and drops by reason."""
    taken: dict[tuple[str, str], str] = {}
    found, drops = {}, Counter()
    for split in SPLITS:
        for name in sorted(spanish):
            if splits.get(name) != split or name not in english:
                drops["not_in_both"] += name not in english and split == SPLITS[0]
                continue
            keys = [("es", key(spanish[name])), ("en", key(english[name]))]
            if name.startswith(LEFT_OUT):
                drops["letter"] += 1
            elif any(taken.get(each, split) != split for each in keys):
                drops["text_of_another_split"] += 1
            else:
                taken |= dict.fromkeys(keys, split)
                found[name] = split
    return found, drops


def main(unpacked: str, demo: str, out: str) -> None:
    import soundfile

    folder, out_folder = Path(unpacked), Path(out)
    english, spanish = (read_transcripts(folder, language) for language in ("en", "es"))
    splits = {row["id"]: split for split in SPLITS
              for row in read_jsonl(Path(demo) / f"{split}.jsonl")}
    chosen, drops = choose(english, spanish, splits)
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for name, split in chosen.items():
        source = folder / "usr/share/asterisk/sounds" / VOICES["es"] / f"{name}.g722"
        samples = decode_g722(source) if source.is_file() else np.zeros(0)
        if not SHORTEST <= len(samples) / SAMPLE_RATE <= LONGEST:
            drops["too_short_or_long"] += 1
            continue
        target = out_folder / "audio" / f"{name}.ogg"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, np.clip(samples, -1, 1), SAMPLE_RATE, format="OGG", subtype="OPUS",
                        compression_level=COMPRESSION)
        info = soundfile.info(target)
        rows[split].append({
            "id": f"es/{name}", "audio_filepath": f"audio/{name}.ogg",
            "duration": round(info.frames / info.samplerate, 4), "text": english[name],
            "spoken": spanish[name], "task": "translate", "speaker": "allison-es",
            "language": "es"})
    for split, split_rows in rows.items():
        write_jsonl(out_folder / f"spanish-{split}.jsonl", split_rows)
        minutes = sum(row["duration"] for row in split_rows) / 60
        print(f"{split}: {len(split_rows)} clips, {minutes:.1f} minutes")
    print(f"left out: {dict(drops)}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
