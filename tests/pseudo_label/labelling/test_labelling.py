"""The labelling command: killed, spread over ranks, fed with bad audio."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pseudo_label.__main__ as command
from distill.data.files import read_json, read_jsonl
from distill.testing import write_tiny_recipe
from pseudo_label.labelling.leases import Leases

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("pseudo_label.shard_size=1", "pseudo_label.batch_size=1", "num_threads=1",
         "pseudo_label.packing=best_fit", "pseudo_label.num_packings=2",
         "views.previous_text_probability=0")
ONLY_LABELS = (*SMALL, "teacher.mode=live")


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("label"), small_teacher, train=24)


def label(recipe: Path, run: Path, *overrides: str) -> Path:
    command.main([str(recipe), f"output_dir={run}", *overrides])
    return run / "pseudo_labels"


@pytest.fixture(scope="module")
def labelled(recipe, tmp_path_factory) -> Path:
    """What one process makes of ONLY_LABELS; not to be changed."""
    return label(recipe, tmp_path_factory.mktemp("labelled"), *ONLY_LABELS)


@pytest.fixture(scope="module")
def scored(recipe, tmp_path_factory) -> Path:
    """And of SMALL, with scores."""
    return label(recipe, tmp_path_factory.mktemp("scored"), *SMALL)


def copy_of(labels: Path, run: Path) -> Path:
    return Path(shutil.copytree(labels, run / "pseudo_labels"))


def contents(folder: Path) -> dict[str, bytes]:
    """All files. recipe.yaml beside the scores names the run, .checked.json the times of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("recipe.yaml", ".checked.json")
    }


def test_sigkill_at_random_moments_changes_nothing(recipe, scored, fork, tmp_path):
    whole = contents(scored)
    assert sum(name.startswith("part-") for name in whole) >= 8
    assert sum(name.startswith("scores/encoder_states/shard-") for name in whole) >= 8
    folder = tmp_path / "killed" / "pseudo_labels"
    arguments = [str(recipe), f"output_dir={tmp_path / 'killed'}", *SMALL]
    moments = random.Random(int(time.time()))
    kills = 0
    for kill in range(3):
        process = fork("pseudo_label.__main__", arguments, tmp_path / "log")
        # after at least one more shard than the kill before, so that every run gets somewhere
        while process.is_alive() and len(list(folder.glob("part-*.jsonl"))) <= kill:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        process.join()
        kills += process.exitcode == -9
    assert kills >= 2, "labelling was over before it could be killed"
    assert contents(folder) != whole
    last = fork("pseudo_label.__main__", arguments, tmp_path / "log")
    last.join()
    assert last.exitcode == 0, (tmp_path / "log").read_text()
    after = {n: b for n, b in contents(folder).items() if not n.endswith(".tmp")}
    assert after == whole


def labels_of(folder: Path) -> dict[str, bytes]:
    """What ranks write: all but the scores, which are made afterwards."""
    return {name: data for name, data in contents(folder).items()
            if not name.startswith("scores/") and not name.endswith((".tmp", ".lease"))}


@pytest.mark.parametrize("last_world", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_killed_at_random_write_what_one_writes(
    recipe, labelled, last_world, fork, tmp_path
):
    """Two ranks, one or both killed again and again; the rest by one or three, none twice."""
    whole = labels_of(labelled)
    run = tmp_path / "many"
    folder, arguments = run / "pseudo_labels", [str(recipe), f"output_dir={run}", *ONLY_LABELS]
    moments = random.Random(int(time.time()))

    def ranks(world: int) -> list:
        return [fork("pseudo_label.__main__", arguments, tmp_path / "log", RANK=str(rank),
                     WORLD_SIZE=str(world)) for rank in range(world)]

    kills = 0
    for number in range(2):
        both = ranks(2)
        while len(list(folder.glob("part-*.jsonl"))) <= 2 * number and both[0].is_alive():
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.02))
        victims = both if number % 2 else [moments.choice(both)]
        for victim in victims:
            victim.kill()
        if len(victims) == 1:  # the other one goes on and is killed a little later
            time.sleep(moments.uniform(0.0, 0.02))
        for rank in both:
            rank.kill()
            rank.join()
            kills += rank.exitcode == -9
    assert kills >= 3, "labelling was over before it could be killed"
    assert labels_of(folder) != whole
    for rank in ranks(last_world):
        rank.join()
        assert rank.exitcode == 0, (tmp_path / "log").read_text()
    assert labels_of(folder) == whole
    assert not list(folder.glob("*.lease*"))


def test_a_rank_does_what_the_others_have_not(recipe, scored, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    folder = label(recipe, tmp_path / "two", *SMALL)
    assert (folder / "kept.jsonl").exists(), "rank 0 never came"
    assert not (folder / "scores" / "tokens").exists(), "several processes label only"
    monkeypatch.delenv("WORLD_SIZE")
    label(recipe, tmp_path / "two", *SMALL)  # as make NAME.train does, with pseudo_label.scores
    assert contents(folder) == contents(scored)


def test_a_shard_that_another_rank_is_at_is_left_to_it(recipe, fork, tmp_path, capsys):
    run = tmp_path / "run"
    folder = run / "pseudo_labels"
    folder.mkdir(parents=True)
    with Leases(folder) as other:  # this process lives
        assert other.take("part-00002")
        log = tmp_path / "log"
        rank = fork("pseudo_label.__main__", [str(recipe), f"output_dir={run}", *ONLY_LABELS], log,
                    WORLD_SIZE="2")
        rank.join()
    assert rank.exitcode == 0 and "other ranks are still labelling" in log.read_text()
    parts = {path.stem for path in folder.glob("part-*.jsonl")}
    assert "part-00002" not in parts and len(parts) >= 7
    assert not (folder / "kept.jsonl").exists()


def test_a_complete_run_says_so_and_loads_no_model(
    recipe, labelled, tmp_path, capsys, monkeypatch
):
    folder = copy_of(labelled, tmp_path)
    before = contents(folder)
    assert not (folder / "scores").exists(), "a live teacher needs no record"
    monkeypatch.setattr("distill.whisper.teacher.load_teacher", None)
    label(recipe, tmp_path, *ONLY_LABELS)
    assert "All labels are there already" in capsys.readouterr().out
    assert contents(folder) == before


def test_other_settings_are_refused_and_named(recipe, labelled, tmp_path):
    copy_of(labelled, tmp_path)
    with pytest.raises(ValueError, match="pseudo_label.*best_fit.*sequential"):
        label(recipe, tmp_path, *SMALL[:3])
    with pytest.raises(ValueError, match=r"short_audio_margin: None -> 1\.0"):
        label(recipe, tmp_path, *ONLY_LABELS, "teacher.short_audio_margin=1")


def test_the_threshold_needs_no_new_labels(recipe, labelled, tmp_path):
    copy_of(labelled, tmp_path)
    label(recipe, tmp_path, *ONLY_LABELS, "filter.max_wer=0.0")
    report = read_json(tmp_path / "pseudo_labels" / "filter.json")
    assert report["kept"] == 0 and report["drops"] == {"wer": report["total"]}


def test_another_normaliser_needs_no_new_labels(recipe, labelled, tmp_path, monkeypatch, capsys):
    """And a folder counted again is one that was labelled with it, byte for byte."""
    option = "evaluation.normalizer=basic"
    folder = copy_of(labelled, tmp_path / "run")
    before = labels_of(folder)
    wanted = labels_of(label(recipe, tmp_path / "other", *ONLY_LABELS, option))
    monkeypatch.setattr("distill.whisper.teacher.load_teacher", None)
    label(recipe, tmp_path / "run", *ONLY_LABELS, option)
    assert "evaluation.normalizer was auto, is basic" in capsys.readouterr().out
    assert labels_of(folder) == wanted != before
    label(recipe, tmp_path / "run", *ONLY_LABELS)
    assert labels_of(folder) == before


def test_rows_say_everything(labelled):
    rows = [row for path in sorted(labelled.glob("part-*.jsonl")) for row in read_jsonl(path)]
    assert len({row["id"] for row in rows}) == len(rows)
    clips = [piece["id"] for row in rows for piece in row["pieces"]]
    assert sorted(clips) == sorted([f"train-{i}" for i in range(24)] * 2)  # two packings
    for row in rows:
        assert row["duration"] <= 30.0
        assert row["avg_logprob"] < 0 < row["no_speech_prob"] < 1
        errors = row["substitutions"] + row["deletions"] + row["insertions"]
        assert row["wer"] == pytest.approx(errors / row["num_words"], abs=1e-6)
        assert row["teacher"]["revision"] and row["settings"] and row["tokens"]


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be used, and the reason each is counted under."""
    good = np.full(16_000, 0.1, dtype=np.float32)
    soundfile.write(folder / "empty.wav", good[:0], 16_000)
    soundfile.write(folder / "nan.wav", np.where(good > 0, np.nan, good), 16_000, subtype="FLOAT")
    (folder / "text.wav").write_text("this is not audio")
    soundfile.write(folder / "short.wav", good[:8_000], 16_000)
    return {"empty.wav": "empty", "nan.wav": "not_finite", "text.wav": "unreadable",
            "short.wav": "truncated"}


def test_bad_audio_is_counted_and_the_run_goes_on(small_teacher, tmp_path, capsys):
    recipe = write_tiny_recipe(tmp_path, small_teacher, train=6)
    corpus = tmp_path / "corpus"
    stereo = np.stack([0.1 * np.sin(np.arange(44_100) / 20)] * 2, axis=1)
    soundfile.write(corpus / "stereo.wav", stereo, 44_100)
    soundfile.write(corpus / "low.wav", stereo[:8_000, 0], 8_000)
    soundfile.write(corpus / "music.mp3", stereo, 44_100)
    usable = ["stereo.wav", "low.wav", "music.mp3"]
    bad = bad_files(corpus)
    with open(corpus / "train.jsonl", "a") as file:
        for name in [*usable, *bad]:
            row = {"id": name, "audio_filepath": name, "duration": 1.0, "text": "one",
                   "speaker": "speaker1"}
            file.write(json.dumps(row) + "\n")
        file.write(json.dumps({**row, "id": "low.wav", "audio_filepath": "low.wav"}) + "\n")
        file.write(json.dumps({**row, "id": "negative", "duration": -1.0}) + "\n")
    with pytest.raises(ValueError, match=r"of 13 clips .* cannot be read.*data.max_unreadable"):
        label(recipe, tmp_path / "run", *SMALL)
    assert not (tmp_path / "run/pseudo_labels/filter.json").exists()
    told = capsys.readouterr().out  # by the run that stopped, which has sealed them already
    assert "Cannot read clip" in told
    allowed = (*SMALL, "data.max_unreadable=0.5")
    folder = label(recipe, tmp_path / "run", *allowed)  # and the rest is scored
    printed = capsys.readouterr().out
    assert "Clips that are in no window: 1 bad_duration, 1 duplicate_clip, 1 empty, " in printed
    for name, reason in bad.items():
        assert f"Cannot read clip {name}: {reason}: " in printed + told
    expected = dict.fromkeys(bad.values(), 1) | {"duplicate_clip": 1, "bad_duration": 1}
    assert read_json(folder / "drops.json") == expected
    rows = [row for path in sorted(folder.glob("part-*.jsonl")) for row in read_jsonl(path)]
    clips = {piece["id"] for row in rows for piece in row["pieces"]}
    assert clips == {f"train-{i}" for i in range(6)} | set(usable)
