"""Rebuild the unlabelled instruments of recipes/demo-tagger from Debian's Fluid (R3) Mono GM.

    apt-get download fluidr3mono-gm-soundfont
    dpkg -x fluidr3mono-gm-soundfont_*.deb unpacked
    python -m distill.data.samples.soundfont unpacked recipes/demo-tagger/instruments

A SoundFont 3 file holds recorded notes of instruments as Ogg Vorbis (SoundFont 2.04 sec. 7.10, with
offsets in bytes). They become manifests by family, so that scenes draw as often from drums as from
the many notes; nobody says what they are. Users of the demo need none of this: its output is in the
repository.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, AudioError, load_audio
from distill.data.files import write_atomic
from distill.data.manifest import Row, write_manifest

FAMILIES = {  # the first that fits a name decides
    "bass": r"^(acoustic bass|slap bass|pop |picked bass|fretless|bass |sb2)",
    "drum": r"kick|snr|snare|\btom\b|cra?sh|splash|ride|hat\b|hi-hat|studio|conga|bongo|timbale"
            r"|tumba|cow ?bell|agogo|clap|taiko|drum|brush|stick|clave|woodblock|tambourine"
            r"|cabasa|maracas|guiro|castanet|shaker|sleigh|triangle|cymbal|rim|slap|quica|timpani"
            r"|power|rmpwr|bell tree|china|click|scratch|808",
    "pad": r"pad|strings|choir|fantasia|sweeper|vox|alien|bowed|chiff|organ|wind|sea shore|bird"
           r"|heli|telephone|ice|synth",
    "note": r"",
}
EVERY_NOTE = 3  # of the notes one in three: instruments have many
MAX_SECONDS, MIN_SECONDS = 2.0, 0.1
_FADE = int(0.1 * SAMPLE_RATE)
_QUALITY = 0.94  # libsndfile's compression level of Opus: 0 is the best, 1 the smallest
_HEADER = struct.Struct("<20s5IBbHH")  # name, start, end, loop, rate, pitch, correction, link, type


def samples_of(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, Ogg Vorbis) of every sample of a SoundFont 3 file.

    Raises:
        ValueError: it is none.
    """
    sounds, headers = _chunk(data, data.find(b"smpl")), _chunk(data, data.rfind(b"shdr"))
    if data[:4] != b"RIFF" or not sounds or not headers:
        raise ValueError("not a SoundFont 3 file: no RIFF with smpl and shdr")
    for fields in list(_HEADER.iter_unpack(headers))[:-1]:  # the last one is the end's
        name, start, end = fields[:3]
        yield name.split(b"\0")[0].decode("latin1").strip(), sounds[start:end]


def _chunk(data: bytes, at: int) -> bytes:
    """Chunks are not always where the lists' sizes say: they are looked for."""
    if at < 0:
        return b""
    return data[at + 8 : at + 8 + struct.unpack_from("<I", data, at + 4)[0]]


def family_of(name: str) -> str:
    """One of `FAMILIES`."""
    return next(family for family, pattern in FAMILIES.items()
                if re.search(pattern, name, re.IGNORECASE))


def prepare(ogg: bytes) -> np.ndarray | None:
    """(samples,) float32 at 16 kHz, of at most `MAX_SECONDS`; None: too short, or no audio."""
    try:
        audio = load_audio(ogg)
    except AudioError:
        return None  # waves to be looped are raw
    size = int(MAX_SECONDS * SAMPLE_RATE)
    if len(audio) < MIN_SECONDS * SAMPLE_RATE or not audio.any():
        return None
    if len(audio) > size:
        audio = audio[:size].copy()
        audio[-_FADE:] *= np.linspace(1, 0, _FADE, dtype=np.float32)
    return np.clip(audio, -1, 1)


def chosen(data: bytes) -> dict[str, list[tuple[str, np.ndarray]]]:
    """{family: [(file name, samples)]}; right channels and most notes are left out."""
    found: dict[str, list[tuple[str, np.ndarray]]] = {family: [] for family in FAMILIES}
    for name, ogg in samples_of(data):
        audio = None if name.endswith("(R)") else prepare(ogg)
        file = re.sub(r"[^a-z0-9]+", "_", name.lower().replace("#", "s")).strip("_")
        family = family_of(name)
        if audio is not None and file not in (other for other, _ in found[family]):
            found[family].append((file, audio))
    found["note"] = sorted(found["note"], key=lambda pair: pair[0])[::EVERY_NOTE]
    return found


def main(unpacked: str, out: str) -> None:
    import soundfile

    font = Path(unpacked) / "usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3"
    for family, sounds in chosen(font.read_bytes()).items():
        rows = []
        for name, audio in sounds:
            target = Path(out) / family / f"{name}.ogg"
            write_atomic(target, lambda temporary, audio=audio: soundfile.write(
                temporary, audio, SAMPLE_RATE, format="OGG", subtype="OPUS",
                compression_level=_QUALITY))
            rows.append(Row(id=f"{family}-{name}", audio_filepath=f"{family}/{target.name}",
                            duration=round(len(audio) / SAMPLE_RATE, 4)))
        write_manifest(Path(out) / f"{family}.jsonl", rows)
        print(f"{family}: {len(rows)} sounds, {sum(row.duration for row in rows) / 60:.1f} minutes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
