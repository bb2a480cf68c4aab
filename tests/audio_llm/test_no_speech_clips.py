"""Clips in which nobody speaks."""

import numpy as np
import pytest
import soundfile

from distill.audio_llm.data.no_speech import load_config, write_no_speech
from distill.config import ConfigError
from distill.data.files import read_jsonl, write_jsonl

CONFIG = """\
output_dir: {folder}/out
task: say
splits:
  train: {{clips: 16, recordings: [train.jsonl]}}
  test: {{clips: 8, recordings: [{test}.jsonl]}}
"""


@pytest.fixture
def folder(tmp_path):
    time = np.arange(64_000) / 16_000
    for name in ("drum", "bell", "voice", "tabla"):
        soundfile.write(tmp_path / f"{name}.wav", 0.5 * np.sin(2000 * time), 16_000)
    rows = {name: {"id": name, "audio_filepath": f"{name}.wav", "duration": 4.0, "labels": [name]}
            for name in ("drum", "bell", "tabla")}
    voice = {**rows["drum"], "id": "voice", "audio_filepath": "voice.wav"}
    write_jsonl(tmp_path / "train.jsonl", [
        rows["drum"], {**voice, "labels": ["speech"]}, {**voice, "id": "two", "text": "hello"}])
    write_jsonl(tmp_path / "test.jsonl", [rows["bell"]])
    write_jsonl(tmp_path / "leak.jsonl", [rows["drum"]])
    write_jsonl(tmp_path / "speech.jsonl", [{**voice, "labels": ["speech"]}])
    return tmp_path


def config(folder, test="test", *overrides):
    (folder / "no_speech.yaml").write_text(CONFIG.format(folder=folder, test=test))
    return load_config(str(folder / "no_speech.yaml"), list(overrides))


def test_rows(folder, capsys):
    counts = write_no_speech(config(folder))
    assert set(counts["train"].values()) == {2} and len(counts["train"]) == 8
    assert "train: left out: 2 recordings with speech" in capsys.readouterr().out
    rows = read_jsonl(folder / "out/train.jsonl")
    assert {row["answer"] for row in rows} == {"<no speech>"} and rows[0]["heard"] == ""
    for row in rows:
        wave, rate = soundfile.read(row["audio_filepath"])
        assert rate == 16_000 and len(wave) == round(row["duration"] * rate)
        peak = np.abs(wave).max()
        if row["kind"] == "silence":
            assert peak == 0
        else:
            assert 10 ** (-50.5 / 20) < peak < 10 ** (-14.5 / 20), row["kind"]
    assert 1 <= min(r["duration"] for r in rows) < max(r["duration"] for r in rows) <= 6


def test_a_manifest_of_others_is_not_written_over(folder):
    before = (folder / "train.jsonl").read_bytes()
    with pytest.raises(ValueError, match="train.jsonl is there already and was not made by this"):
        write_no_speech(config(folder, "test", f"output_dir={folder}"))
    assert (folder / "train.jsonl").read_bytes() == before and not (folder / "train").exists()


def test_the_same_again(folder):
    write_no_speech(config(folder))
    first = {path.name: path.read_bytes() for path in (folder / "out/train").iterdir()}
    write_no_speech(config(folder))
    assert first == {path.name: path.read_bytes() for path in (folder / "out/train").iterdir()}
    write_no_speech(config(folder, "test", "seed=1"))
    assert first != {path.name: path.read_bytes() for path in (folder / "out/train").iterdir()}


@pytest.mark.parametrize("test, override, message", [
    ("leak", "seed=0", "drum.wav is in 'train' and in 'test'"),
    ("speech", "seed=0", "splits.test.recordings: somebody speaks in all 1"),
    ("test", "kinds=[rain]", "kinds must be some of"),
    ("test", "seconds=[0,3]", "seconds must be two lengths"),
])
def test_what_cannot_be(folder, test, override, message):
    with pytest.raises(ConfigError, match=message):
        write_no_speech(config(folder, test, override))
