"""Rebuild the embedded sounds of recipes/demo-tagger from Debian's package of Sonic Pi's samples.

    apt-get download sonic-pi-samples
    dpkg -x sonic-pi-samples_*.deb unpacked
    python -m distill.data.samples.sounds unpacked recipes/demo-tagger/data

A class is a set of file-name prefixes; files of no class stay without labels, as sounds that only a
teacher has an opinion about. Users of the demo need none of this: its output is in the repository.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.files import write_atomic
from distill.data.manifest import Row, write_manifest

CLASSES = {  # the longest prefix that fits a name decides
    "ambience": ("ambi_",),
    "bass": ("bass_",),
    "drum": ("bd_", "sn_", "drum_", "elec_soft_kick", "elec_hollow_kick", "elec_fuzz_tom",
             "elec_snare", "elec_hi_snare", "elec_mid_snare", "elec_lo_snare", "elec_filt_snare",
             "elec_cymbal"),
    "electronic": ("elec_", "glitch_", "mehackit_"),
    "loop": ("loop_",),
    "tabla": ("tabla_",),
}
# The same instrument struck twice, or a part of the same recording: never in two splits.
TAKES = (
    ("ambi_glass_hum", "ambi_glass_rub"), ("bass_voxy_c", "bass_voxy_hit_c"),
    ("drum_bass_hard", "drum_bass_soft"), ("drum_cymbal_hard", "drum_cymbal_soft"),
    ("drum_snare_hard", "drum_snare_soft"), ("drum_splash_hard", "drum_splash_soft"),
    ("drum_tom_hi_hard", "drum_tom_hi_soft"), ("drum_tom_lo_hard", "drum_tom_lo_soft"),
    ("drum_tom_mid_hard", "drum_tom_mid_soft"), ("elec_blip", "elec_blip2"),
    ("loop_amen", "loop_amen_full"), ("tabla_ghe1", "tabla_ghe4"), ("tabla_ghe2", "tabla_ghe3"),
    ("tabla_te2", "tabla_te_m"), ("tabla_tun2", "tabla_tun3"),
)  # fmt: skip
TEST, VALIDATION = 0.25, 0.15  # shares of a class's sources, at least one
_QUALITY = 0.4  # libsndfile's compression level of Vorbis: 0 is the best, 1 the smallest


def label_of(name: str) -> str | None:
    """The class of a file name without extension, None for a sound of no class."""
    fits = [
        (len(prefix), label)
        for label, prefixes in CLASSES.items()
        for prefix in prefixes
        if name.startswith(prefix)
    ]
    return max(fits)[1] if fits else None


def assign_splits(names: list[str]) -> dict[str, str]:
    """{name: split}; takes of one source go together, sounds of no class to train.

    The order within a class is that of a hash: neither chance nor a look at any result decides.
    """
    first = {name: takes[0] for takes in TAKES for name in takes}
    sources: dict[str, set[str]] = {}
    for name in names:
        if label := label_of(name):
            sources.setdefault(label, set()).add(first.get(name, name))
    split_of = {}
    for found in sources.values():
        ordered = sorted(found, key=lambda source: hashlib.sha256(source.encode()).hexdigest())
        test, validation = (max(1, round(share * len(ordered))) for share in (TEST, VALIDATION))
        for at, source in enumerate(ordered):
            held_out = "test" if at < test else "validation"
            split_of[source] = held_out if at < test + validation else "train"
    return {name: split_of.get(first.get(name, name), "train") for name in names}


def main(unpacked: str, out: str) -> None:
    import soundfile

    sounds = sorted((Path(unpacked) / "usr/share/sonic-pi/samples").glob("*.flac"))
    if not sounds:
        raise ValueError(f"{unpacked}: no usr/share/sonic-pi/samples/*.flac in it")
    splits = assign_splits([path.stem for path in sounds])
    rows: dict[str, list[Row]] = {split: [] for split in ("train", "validation", "test")}
    rows["unlabelled"] = []
    for path in sounds:
        samples = np.clip(load_audio(path), -1, 1)
        target = Path(out) / "audio" / f"{path.stem}.ogg"

        def write(temporary: Path, samples: np.ndarray = samples) -> None:
            soundfile.write(temporary, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS",
                            compression_level=_QUALITY)

        write_atomic(target, write)
        label = label_of(path.stem)
        row = Row(
            id=path.stem, audio_filepath=f"audio/{target.name}",
            duration=round(soundfile.info(target).frames / SAMPLE_RATE, 4),
            labels=[label] if label else None,
        )
        rows[splits[path.stem] if label else "unlabelled"].append(row)
    for split, split_rows in rows.items():
        write_manifest(Path(out) / f"{split}.jsonl", split_rows)
        counts = ", ".join(
            f"{sum(row.labels == [label] for row in split_rows)} {label}" for label in CLASSES
        )
        print(f"{split}: {len(split_rows)} files ({counts})")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
