"""Pieces of music: decoded, cut, written with a manifest."""

import numpy as np
import pytest

from distill.data.audio import load_audio
from distill.data.manifest import read_manifest
from distill.data.samples.music import main


def write_g722(path, samples: np.ndarray) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="g722") as file:
        stream = file.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            (samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for part in [*av.AudioResampler("s16", "mono", 16_000, 320).resample(frame), None]:
            file.mux(stream.encode(part))


def test_pieces_become_parts_without_labels(tmp_path):
    source, out = tmp_path / "usr/share/asterisk/moh", tmp_path / "out"
    source.mkdir(parents=True)
    for name, hertz, seconds in (("slow-song", 300, 18), ("tune", 1000, 8.5)):
        time = np.arange(int(seconds * 16_000)) / 16_000
        write_g722(source / f"{name}.g722", 0.4 * np.sin(2 * np.pi * hertz * time))
    main(str(tmp_path), str(out))
    rows, drops = read_manifest(out / "music.jsonl")
    assert not drops and not any(row.labels for row in rows)
    assert {row.id: round(row.duration) for row in rows} == {
        "music-slow_song_00": 8, "music-slow_song_01": 8, "music-slow_song_02": 2,
        "music-tune_00": 8}
    for row, hertz in ((rows[0], 300), (rows[2], 300), (rows[3], 1000)):
        audio = load_audio(row.audio_filepath)
        assert len(audio) / 16_000 == pytest.approx(row.duration, abs=0.02)
        loudest = np.abs(np.fft.rfft(audio)).argmax() * 16_000 / len(audio)
        assert loudest == pytest.approx(hertz, abs=5)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no usr/share/asterisk/moh"):
        main(str(tmp_path), str(tmp_path / "out"))
