"""Rebuild the embedded voices of recipes/noise from Debian's packages of telephone prompts.

    apt-get download asterisk-core-sounds-{fr,it,ru}-g722
    for p in *.deb; do dpkg -x $p unpacked; done
    python -m distill.data.samples.babble unpacked recipes/noise

Voices that no recipe learns from: several of them at once are what a pub sounds like. Needs `av`,
which reads raw G.722.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, resample
from distill.data.manifest import Row, write_manifest

VOICES = {"fr": "fr_CA_f_June", "it": "it_IT_m_Carlo", "ru": "ru_RU_f_IvrvoiceRU"}
SECONDS = 40.0  # of each voice
_SHORTEST, _LONGEST = 2.5, 9.0  # seconds of a prompt: sentences, not letters and digits


def decode_g722(path: Path) -> np.ndarray:
    """float32 (samples,) at 16 kHz."""
    import av

    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate([np.zeros(0), *frames])  # some files are empty
    return resample(samples.astype(np.float32) / 2**15, rate)


def choose(folder: Path) -> list[tuple[str, np.ndarray]]:
    """Prompts of a voice, in the order of a hash of their names, until there are `SECONDS`."""
    names = sorted((path.relative_to(folder).with_suffix("").as_posix()
                    for path in folder.rglob("*.g722") if "silence" not in path.parts),
                   key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    found, seconds = [], 0.0
    for name in names:
        samples = decode_g722(folder / f"{name}.g722")
        if _SHORTEST <= len(samples) / SAMPLE_RATE <= _LONGEST and seconds < SECONDS:
            found.append((name, samples))
            seconds += len(samples) / SAMPLE_RATE
    return found


def main(unpacked: str, out: str) -> None:
    import soundfile

    rows = []
    for language, voice in VOICES.items():
        for number, (_, samples) in enumerate(
                choose(Path(unpacked) / "usr/share/asterisk/sounds" / voice)):
            target = Path(out) / "audio" / f"{language}-{number:02d}.ogg"
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, np.clip(samples, -1, 1), SAMPLE_RATE, format="OGG",
                            subtype="OPUS")
            info = soundfile.info(target)
            rows.append(Row(id=target.stem, audio_filepath=f"audio/{target.name}",
                            duration=round(info.frames / info.samplerate, 4), speaker=voice,
                            language=language))
    write_manifest(Path(out) / "voices.jsonl", rows)
    print(f"{len(rows)} prompts, {sum(row.duration for row in rows):.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
