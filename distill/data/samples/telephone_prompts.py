"""Rebuild the embedded speech of recipes/demo from Debian's packages of telephone prompts.

    apt-get download asterisk-core-sounds-en asterisk-core-sounds-en-g722
    for p in *.deb; do dpkg -x $p unpacked; done
    python -m distill.data.samples.telephone_prompts unpacked recipes/demo/data

Needs ffmpeg or PyAV (raw G.722). Users of the demo need none of this: its output is in the
repository.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.manifest import Row, write_manifest

SPLITS = {"test": 0.22, "validation": 0.08, "train": 0.70}  # shares of the audio
VOICES = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison"}
_MIN_SECONDS = 0.15


def read_transcripts(folder: Path, language: str) -> dict[str, str]:
    """{path without extension: text}; tones and sounds, written [in brackets], are left out."""
    package = f"asterisk-core-sounds-{language}"
    source = folder / "usr/share/doc" / package / f"core-sounds-{language}.txt.gz"
    texts = {}
    for line in gzip.decompress(source.read_bytes()).decode("utf-8").splitlines():
        if line.startswith(";") or ":" not in line:
            continue
        name, text = line.split(":", 1)
        text = re.sub(r"\[.*?\]", "", text).strip()  # "dot [.]" is spoken "dot"
        if text:
            texts[name.strip()] = re.sub(r"\s+", " ", text)
    return texts


def assign_splits(texts: dict[str, str], seconds: dict[str, float]) -> dict[str, str]:
    """{name: split}. Names with the same normalised text go to the same split.

    The order is that of a hash of the text: neither chance nor a look at any result decides.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(seconds):
        key = re.sub(r"[^a-z0-9']+", " ", texts[name].lower()).strip()
        groups.setdefault(key, []).append(name)
    ordered = sorted(groups, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    total, done = sum(seconds.values()), 0.0
    bounds = np.cumsum([share * total for share in SPLITS.values()])
    result = {}
    for key in ordered:
        split = list(SPLITS)[min(int(np.searchsorted(bounds, done, side="right")), 2)]
        for name in groups[key]:
            result[name] = split
            done += seconds[name]
    return result


def decode_g722(path: Path) -> np.ndarray:
    """float32 (samples,) at 16 kHz."""
    if shutil.which("ffmpeg") is None:
        return _decode_with_av(path)
    command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(path)]
    command += ["-ar", str(SAMPLE_RATE), "-ac", "1", "-f", "f32le", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, dtype=np.float32)


def _decode_with_av(path: Path) -> np.ndarray:
    """The same by FFmpeg's libraries in PyAV."""
    import av

    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def main(unpacked: str, out: str, language: str = "en") -> None:
    import soundfile

    folder, out_folder = Path(unpacked), Path(out)
    sounds = folder / "usr/share/asterisk/sounds" / VOICES[language]
    texts = read_transcripts(folder, language)
    audio = {}
    for name in sorted(texts):
        source = sounds / f"{name}.g722"
        if source.is_file():
            samples = decode_g722(source)
            if len(samples) >= _MIN_SECONDS * SAMPLE_RATE and np.abs(samples).max() > 0:
                audio[name] = np.clip(samples, -1, 1)
    seconds = {name: len(samples) / SAMPLE_RATE for name, samples in audio.items()}
    splits = assign_splits(texts, seconds)
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for name, samples in audio.items():
        target = out_folder / "audio" / f"{name}.ogg"
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
        info = soundfile.info(target)
        rows[splits[name]].append(
            Row(
                id=name,
                audio_filepath=f"audio/{name}.ogg",
                duration=round(info.frames / info.samplerate, 4),
                text=texts[name],
                speaker="allison",
                language=language,
            )
        )
    for split, split_rows in rows.items():
        write_manifest(out_folder / f"{split}.jsonl", split_rows)
        words = sum(len(row.text.split()) for row in split_rows)
        minutes = sum(row.duration for row in split_rows) / 60
        print(f"{split}: {len(split_rows)} clips, {minutes:.1f} minutes, {words} words")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
