"""Texts read aloud: clips and a manifest, by an engine that says how long a text is."""

import sys
import types

import numpy as np
import pytest
import soundfile

from distill.config import ConfigError
from distill.data.files import write_jsonl
from distill.data.manifest import read_manifest
from distill.data.speech.read_aloud import load_config, main, read_aloud, speak

CONFIG = "output_dir: {folder}/out\ntexts: texts.txt\n"


class Engine:
    """100 samples a letter; of punctuation it makes nothing. A class has what it was asked."""

    asked: list[tuple] = []

    def __init__(self, voice):
        self.voice, self.volume, self.rate, self.pitch = voice, 100, 100, 100

    def speak(self, text):
        self.asked.append((self.voice, self.rate, self.pitch, self.volume, text))
        letters = sum(map(str.isalpha, text))
        return np.full(100 * letters, 1000, np.int16).tobytes() or None


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(Engine, "asked", [])
    monkeypatch.setitem(sys.modules, "ttspico", types.SimpleNamespace(TtsEngine=Engine))
    return Engine


def config(folder, text, *overrides):
    (folder / "texts.txt").write_text(text, encoding="utf-8")
    (folder / "read_aloud.yaml").write_text(CONFIG.format(folder=folder))
    return load_config(str(folder / "read_aloud.yaml"), list(overrides))


def test_clips_and_their_manifest(tmp_path, engine):
    text = "Hello  there.\n\n...\n<b> two & three\n" + "".join(f"Text {i}.\n" for i in range(40))
    rows, drops = read_aloud(config(tmp_path, text))
    assert drops == {"empty_text": 1, "no_sound": 1} and len(rows) == 42
    read, dropped = read_manifest(tmp_path / "out" / "read.jsonl")
    assert not dropped and [row.text for row in read[:2]] == ["Hello there.", "<b> two & three"]
    assert read[0].duration == 0.0625 and read[0].id == "read-00001" and read[0].language == "en"
    assert soundfile.info(read[0].audio_filepath).frames == 1000
    voices, rates, pitches, _, said = zip(*engine.asked, strict=True)
    assert set(voices) == {"en-US", "en-GB"} and "<" not in "".join(said)
    assert 85 <= min(rates) < max(rates) <= 120 and 75 <= min(pitches) < max(pitches) <= 125


def test_what_was_read_is_not_read_again(tmp_path, engine):
    found = config(tmp_path, "One.\nTwo.\nThree.\n")
    rows, _ = read_aloud(found)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/read").iterdir()}
    clip = sorted((tmp_path / "out/read").iterdir())[1]
    clip.unlink()
    engine.asked.clear()
    again, _ = read_aloud(found)
    assert again == rows and [said for *_, said in engine.asked] == ["Two."]
    assert {name: path.stat().st_mtime_ns for name in kept
            if (path := tmp_path / "out/read" / name) != clip} == {
                name: time for name, time in kept.items() if name != clip.name}
    engine.asked.clear()
    read_aloud(config(tmp_path, "One.\nTwo.\nThree.\n", "seed=1", "rate=[100,100]"))
    assert {rate for _, rate, *_ in engine.asked} == {100} and len(engine.asked) == 3


def test_clips_of_earlier_texts_are_told(tmp_path, engine, capsys):
    found = config(tmp_path, "One.\nTwo.\nThree.\n")
    main([str(tmp_path / "read_aloud.yaml")])
    assert "Files of" not in capsys.readouterr().out
    config(tmp_path, "One.\nFour.\nThree.\n")
    main([str(tmp_path / "read_aloud.yaml")])
    told = capsys.readouterr().out
    assert f"are in {found.output_dir}/read as well (1)" in told
    assert len(list((tmp_path / "out/read").iterdir())) == 4, "nothing is deleted"


def test_how_a_text_is_read_does_not_depend_on_its_line(tmp_path, engine):
    read_aloud(config(tmp_path, "One.\nTwo.\n", f"output_dir={tmp_path}/a"))
    one = engine.asked[0]
    engine.asked.clear()
    read_aloud(config(tmp_path, "Zero.\nOne.\n", f"output_dir={tmp_path}/b"))
    assert engine.asked[1] == one


def test_what_is_refused(tmp_path, engine):
    with pytest.raises(ConfigError, match="language must.*de.*it"):
        config(tmp_path, "One.\n", "language=ru")
    with pytest.raises(ConfigError, match="rate must.*from 20 to 500"):
        config(tmp_path, "One.\n", "rate=[120,85]")
    with pytest.raises(ConfigError, match="texts must.*a text on each line"):
        config(tmp_path, "One.\n", "texts=other.txt")
    with pytest.raises(ConfigError, match="has no text in it"):
        read_aloud(config(tmp_path, "\n \n"))
    with pytest.raises(ConfigError, match="no text gave a sound"):
        read_aloud(config(tmp_path, "...\n"))
    assert not (tmp_path / "out" / "read.jsonl").exists()
    found = config(tmp_path, "One.\n")
    (tmp_path / "texts.txt").write_bytes("Stra\xdfe".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_aloud(found)


def test_a_manifest_of_the_users_stays(tmp_path, engine):
    found = config(tmp_path, "One.\n")
    write_jsonl(tmp_path / "out" / "read.jsonl", [{"audio_filepath": "a.wav", "duration": 1.0}])
    with pytest.raises(ValueError, match="read.jsonl"):
        read_aloud(found)


def test_no_engine(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ttspico", None)
    with pytest.raises(ValueError, match="pip install ttspico"):
        read_aloud(config(tmp_path, "One.\n"))


def test_the_real_engine():
    """Same words, same samples, whatever was read before; slower is longer."""
    pytest.importorskip("ttspico")
    text = "Your call is important to us."
    first = speak(text, "en-US", 100, 100)
    assert first.dtype == np.int16 and 1.0 < len(first) / 16_000 < 4.0
    assert 1000 < np.abs(first).max() < 32_767
    assert len(speak(text, "en-US", 85, 80)) > len(first)
    assert np.array_equal(speak(text, "en-US", 100, 100), first)
