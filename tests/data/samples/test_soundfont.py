"""Sounds of a SoundFont 3 file: found, sorted into families, cut."""

import io
import struct

import numpy as np
import pytest
import soundfile

from distill.data.samples.soundfont import MAX_SECONDS, chosen, family_of, samples_of


def ogg(seconds: float, rate: int = 44_100) -> bytes:
    file = io.BytesIO()
    tone = 0.5 * np.sin(np.arange(int(seconds * rate)) * 0.05)
    soundfile.write(file, tone, rate, format="OGG", subtype="VORBIS")
    return file.getvalue()


def font(sounds: dict[str, bytes]) -> bytes:
    """Its two chunks that matter."""
    audio, headers, at = b"", b"", 0
    for name, data in [*sounds.items(), ("EOS", b"")]:
        ends = (at, at + len(data), 0, 0, 44_100)
        headers += struct.pack("<20s5IBbHH", name.encode(), *ends, 60, 0, 0, 1)
        audio, at = audio + data, at + len(data)
    chunks = b"".join(name + struct.pack("<I", len(data)) + data
                      for name, data in ((b"smpl", audio), (b"shdr", headers)))
    return b"RIFF" + struct.pack("<I", len(chunks)) + b"sfbk" + chunks


def test_sounds_come_out_as_they_went_in():
    sounds = {"Std Kick 1(L)": ogg(0.4), "Harp D#4(L)": ogg(0.5)}
    assert dict(samples_of(font(sounds))) == sounds


def test_families_cut_sounds_and_what_is_left_out():
    found = chosen(font({
        "Std Kick 1(L)": ogg(3.0), "Std Kick 1(R)": ogg(0.4), "Harp D#4(L)": ogg(0.5),
        "Sine Wave": b"raw samples", "Clave": ogg(0.05)}))
    assert {family: [name for name, _ in some] for family, some in found.items()} == {
        "bass": [], "drum": ["std_kick_1_l"], "pad": [], "note": ["harp_ds4_l"]}
    (_, kick), (_, harp) = found["drum"][0], found["note"][0]
    assert len(kick) == MAX_SECONDS * 16_000 and kick[-1] == 0
    assert len(harp) == 8_000 and kick.dtype == np.float32


@pytest.mark.parametrize("name, family", [
    ("Slap Bass E2", "bass"), ("808 Tom 3", "drum"), ("Orch Bass Drum(L)", "drum"),
    ("Ahh Choir C5(L)", "pad"), ("Tubular Bells C7(L)", "note")])
def test_families(name, family):
    assert family_of(name) == family


def test_other_files_are_refused():
    with pytest.raises(ValueError, match="not a SoundFont 3 file"):
        list(samples_of(b"RIFF and nothing more"))
