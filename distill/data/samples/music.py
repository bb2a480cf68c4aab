"""Rebuild the unlabelled music of recipes/demo-tagger from Debian's music on hold.

    apt-get download asterisk-moh-opsound-g722
    dpkg -x asterisk-moh-opsound-g722_*.deb unpacked
    python -m distill.data.samples.music unpacked recipes/demo-tagger/music

Five pieces, 18 minutes, cut into parts, since what is done to a sound is done to the whole of it.
Nobody says what is in them. Users of the demo need none of this: its output is in the repository.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.files import write_atomic
from distill.data.manifest import Row, write_manifest

PART_SECONDS, MIN_SECONDS = 8.0, 1.0  # the last part of a piece, if it is no shorter than that
_QUALITY = 0.95  # libsndfile's compression level of Opus: 0 is the best, 1 the smallest


def read_g722(data: bytes) -> np.ndarray:
    """(samples,) float32 of raw G.722 at 64 kbit/s, which is sound at 16 kHz."""
    import av

    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    with av.open(io.BytesIO(data), format="g722") as file:
        return np.concatenate([block.to_ndarray()[0] for frame in file.decode(audio=0)
                               for block in resampler.resample(frame)])


def main(unpacked: str, out: str) -> None:
    import soundfile

    pieces = sorted((Path(unpacked) / "usr/share/asterisk/moh").glob("*.g722"))
    if not pieces:
        raise ValueError(f"{unpacked}: no usr/share/asterisk/moh/*.g722 in it")
    rows, size = [], int(PART_SECONDS * SAMPLE_RATE)
    for path in pieces:
        piece = np.clip(read_g722(path.read_bytes()), -1, 1)
        for number, first in enumerate(range(0, len(piece), size)):
            part = piece[first : first + size]
            if len(part) < MIN_SECONDS * SAMPLE_RATE:
                continue
            target = Path(out) / "audio" / f"{path.stem.replace('-', '_')}_{number:02d}.ogg"
            write_atomic(target, lambda temporary, part=part: soundfile.write(
                temporary, part, SAMPLE_RATE, format="OGG", subtype="OPUS",
                compression_level=_QUALITY))
            rows.append(Row(id=f"music-{target.stem}", audio_filepath=f"audio/{target.name}",
                            duration=round(len(part) / SAMPLE_RATE, 4)))
    write_manifest(Path(out) / "music.jsonl", rows)
    print(f"{len(rows)} parts of {len(pieces)} pieces, "
          f"{sum(row.duration for row in rows) / 60:.1f} minutes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
