"""Long recordings through the labelling command: windows, offsets, references, drops, the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import pseudo_label.__main__ as command
from distill.data.audio import SAMPLE_RATE, load_audio
from distill.data.files import read_json, read_jsonl
from distill.data.manifest import Row, read_manifest, write_manifest
from distill.data.speech.windows import load_window, pack
from distill.data.unreadable import UnreadableError
from distill.testing import write_tiny_recipe
from distill.whisper.data import recordings
from distill.whisper.data.corpus import (
    is_recording,
    load_clips,
    rebuild_window,
    whole_recordings,
)
from distill.whisper.plan.plan import plan
from distill.whisper.plan.plan_text import describe
from distill.whisper.recipe import load_recipe
from pseudo_label.plan import count_windows

PROMPTS = ("agent-incorrect", "conf-usermenu", "demo-abouttotry", "agent-pass")
SILENCE = 5.0  # seconds before each prompt
OPTIONS = ("pseudo_label.shard_size=1", "num_threads=1")


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory, demo_data) -> Path:
    """Six clips; recordings: a minute in stereo at 44.1 kHz, one of noise, one that is broken."""
    folder = tmp_path_factory.mktemp("long")
    path = write_tiny_recipe(folder, small_teacher, train=6)
    corpus = folder / "corpus"
    rows = {row.id: row for row in read_manifest(demo_data / "train.jsonl")[0]}
    silence = np.zeros(round(SILENCE * SAMPLE_RATE), np.float32)
    prompts = [load_audio(rows[name].audio_filepath) for name in PROMPTS]
    talk = np.concatenate([x for prompt in prompts for x in (silence, prompt)])
    sound = soxr.resample(talk, SAMPLE_RATE, 44_100)
    soundfile.write(corpus / "talk.flac", np.stack([sound, sound], axis=1), 44_100)
    noise = 0.05 * np.random.default_rng(0).standard_normal(35 * SAMPLE_RATE)
    soundfile.write(corpus / "noise.wav", noise.astype(np.float32), SAMPLE_RATE)
    (corpus / "broken.wav").write_text("this is not audio")
    text = " ".join(rows[name].text for name in PROMPTS)
    seconds = soundfile.info(corpus / "talk.flac").duration
    long = [Row("talk", "talk.flac", seconds, text=text, language="en"),
            Row("noise", "noise.wav", 35.0, text="nothing"), Row("broken", "broken.wav", 50.0)]
    short = [Row(f"train-{i}", f"train/{i}.wav", soundfile.info(corpus / f"train/{i}.wav").duration,
                 text="one two", speaker="a", language="en") for i in range(6)]
    write_manifest(corpus / "train.jsonl", [*short[:3], *long, *short[3:]])
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    """Labelled and scored; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    label(recipe, folder)
    return folder


def label(recipe: Path, run: Path, *overrides: str) -> Path:
    command.main([str(recipe), f"output_dir={run}", *OPTIONS, *overrides])
    return run / "pseudo_labels"


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("part-*.jsonl")) for row in read_jsonl(path)]


def long_rows(folder: Path) -> list[dict]:
    rows = [row for row in rows_of(folder) if row["pieces"][0]["id"] == "talk"]
    return sorted(rows, key=lambda row: row["id"])


def test_windows_are_where_somebody_speaks(recipe, run):
    clips = {row.id: row for row in load_clips(load_recipe(recipe, []).data.train)[0]}
    talk = load_audio(clips["talk"].audio_filepath)
    rows = long_rows(run / "pseudo_labels")
    assert len(rows) >= 2 and len(rows_of(run / "pseudo_labels")) > len(rows)
    heard = np.zeros(len(talk), bool)
    for row in rows:
        assert {piece["id"] for piece in row["pieces"]} == {"talk"} and row["duration"] <= 30
        sound = []
        for piece in row["pieces"]:  # offsets count from the start of the file
            start, size = (round(piece[key] * SAMPLE_RATE) for key in ("offset", "duration"))
            sound.append(talk[start : start + size])
            heard[start : start + size] = True
        audio = load_window(rebuild_window(row, clips))
        # cut out before resampling or after it: a fraction of a sample apart
        assert np.corrcoef(audio, np.concatenate(sound)[: len(audio)])[0, 1] > 0.99
    assert np.square(talk[heard]).sum() > 0.9999 * np.square(talk).sum(), "no speech is lost"
    assert heard.mean() < 0.75, "and most silence is left out"
    assert [row["previous"] for row in rows] == [None, *(row["id"] for row in rows[:-1])]


def test_every_window_has_its_share_of_the_text(recipe, run):
    clips = {row.id: row for row in load_clips(load_recipe(recipe, []).data.train)[0]}
    rows = long_rows(run / "pseudo_labels")
    shares = [row["reference"] for row in rows if row["reference"]]
    assert " ".join(shares) == clips["talk"].text
    assert all(row["wer"] is not None for row in rows if row["reference"])


def test_what_cannot_be_labelled_is_counted(run):
    drops = read_json(run / "pseudo_labels" / "drops.json")
    assert drops == {"no_speech": 1, "split_long": 1, "unreadable": 1}


def test_nobody_listens_twice(recipe, run, capsys, monkeypatch):
    def refuse(path, *_):
        assert Path(path).name == "broken.wav", "the others are known"
        raise recordings.AudioError("unreadable", path)

    before = {path: path.read_bytes() for path in run.rglob("*.json*") if path.is_file()}
    monkeypatch.setattr(recordings, "speech_parts", refuse)
    label(recipe, run)
    printed = capsys.readouterr().out
    assert "All labels are there already" in printed
    assert "Speech in 1 long recording(s): 0:" in printed and "texts of 1 long" in printed
    assert before == {path: path.read_bytes() for path in before}


def test_two_ranks_write_what_one_writes(recipe, run, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        label(recipe, tmp_path, "teacher.mode=live")
    names = [p.name for p in (run / "pseudo_labels").glob("part-*")]
    for name in (*names, "drops.json", "kept.jsonl"):
        written = (tmp_path / "pseudo_labels" / name).read_bytes()
        assert written == (run / "pseudo_labels" / name).read_bytes()


def test_the_plan_is_right_once_somebody_has_listened(recipe, run, tmp_path):
    def planned(folder: Path) -> tuple[dict, str]:
        result = plan(load_recipe(recipe, [f"output_dir={folder}", *OPTIONS]))
        return result["data"]["train"], describe(result)

    data, text = planned(tmp_path)
    assert data["unheard_clips"] == data["long_clips"] == 3
    assert "3 clips longer than a window, 3 cut evenly by this plan" in text
    data, text = planned(run)
    assert data["unheard_clips"] == 1, "of the broken one nothing is known"
    rows = rows_of(run / "pseudo_labels")
    broken = 2  # windows of 25 s
    assert data["windows"] == len(rows) + broken
    seconds = sum(row["duration"] for row in rows) + 50.0
    assert data["fill"] == pytest.approx(seconds / (30 * data["windows"]))


def test_quiet_keeps_everything(recipe, tmp_path):
    folder = label(recipe, tmp_path, "pseudo_label.long_audio=quiet", "teacher.mode=live",
                   "pseudo_label.packing=best_fit", "views.previous_text_probability=0")
    rows = [row for row in rows_of(folder)
            if {piece["id"] for piece in row["pieces"]} & {"talk", "noise"}]
    seconds = sum(p["duration"] for row in rows for p in row["pieces"] if "train" not in p["id"])
    clips = {row.id: row for row in load_clips(load_recipe(recipe, []).data.train)[0]}
    assert seconds == pytest.approx(clips["talk"].duration + 35.0, abs=0.01)
    assert all(row["reference"] is None for row in rows)
    assert not (folder / "speech").exists()
    assert read_json(folder / "drops.json") == {"split_long": 2, "unreadable": 1}


def test_another_way_is_refused(recipe, run):
    """The labels say which windows they are of."""
    with pytest.raises(ValueError, match="other settings .*long_audio"):
        label(recipe, run, "pseudo_label.long_audio=quiet")


def test_sequential(recipe, tmp_path):
    """A window begins where what was heard of the one before ends; everything is heard once."""
    folder = label(recipe, tmp_path, "pseudo_label.long_audio=sequential", "num_threads=1")
    clips = {row.id: row for row in load_clips(load_recipe(recipe, []).data.train)[0]}
    rows = long_rows(folder)
    assert len(rows) >= 2 and {len(row["pieces"]) for row in rows} == {1}
    at = 0.0
    for row, before in zip(rows, [None, *rows], strict=False):
        (piece,) = row["pieces"]
        assert piece["offset"] == pytest.approx(at, abs=1e-4) and 0 < row["duration"] <= 30
        assert row["previous"] == (before and before["id"])
        assert len(load_window(rebuild_window(row, clips))) == round(row["duration"] * SAMPLE_RATE)
        at += piece["duration"]
    assert at == pytest.approx(clips["talk"].duration, abs=1e-3)
    assert any(row["label"] for row in rows)
    assert " ".join(row["reference"] for row in rows if row["reference"]) == clips["talk"].text
    assert read_json(folder / "drops.json") == {"split_long": 3, "unreadable": 1}
    assert any(row["pieces"][0]["id"] == "noise" for row in rows_of(folder))
    assert (folder / "scores").is_dir() and not (folder / "speech").exists()
    # as many recordings in a shard as there is room for: the same windows
    together = label(recipe, tmp_path / "b", "pseudo_label.long_audio=sequential",
                     "pseudo_label.shard_size=9", "teacher.mode=live")
    assert len(list(together.glob("part-*"))) < len(list(folder.glob("part-*")))
    key = ("id", "pieces", "label", "tokens", "reference")
    assert [[row[k] for k in key] for row in long_rows(together)] == [
        [row[k] for k in key] for row in rows]


def test_full_windows_are_no_recordings():
    """Many clips may add up to a microsecond more than a window; shards stay as they are."""
    rows = [Row(str(i), "a.wav", 0.6000006, speaker="a") for i in range(50)]
    (window,) = pack(rows, "a", "sequential", window_seconds=30.0001)
    assert window.duration > 30.000001 and not is_recording(window)
    assert count_windows([window, *whole_recordings([Row("b", "b.wav", 61.0)])]) == 1 + 3


@pytest.mark.parametrize("way", ["speech", pytest.param("quiet", marks=pytest.mark.slow),
                                 "sequential"])
def test_a_recording_that_is_away_changes_no_plan(recipe, run, tmp_path, way):
    """Nobody knows what its windows are: nothing is planned without it, and once it is back
    everything is as if it had never been away. With labels there, nobody needs it."""
    options = (f"pseudo_label.long_audio={way}", "num_threads=1", "teacher.mode=live")
    whole = label(recipe, tmp_path / "whole", *options)
    rows = read_jsonl(recipe.parent / "corpus" / "train.jsonl")
    path = recipe.parent / "corpus" / next(row["audio_filepath"] for row in rows
                                           if row["id"] == "talk")
    folder = tmp_path / "away" / "pseudo_labels"
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(UnreadableError, match=r"1 missing_file \(talk\)"):
            label(recipe, tmp_path / "away", *options)
        assert not (folder / "kept.jsonl").exists()
        assert way == "sequential" or not (folder / "plan.jsonl").exists()
        label(recipe, tmp_path / "whole", *options)
    finally:
        path.with_suffix(".away").rename(path)
    label(recipe, tmp_path / "away", *options)
    for name in [p.name for p in whole.glob("*.jsonl")] + ["drops.json", "settings.json"]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
