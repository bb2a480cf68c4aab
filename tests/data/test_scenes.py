"""Scenes: known labels, one group each, the same again, and resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.config import ConfigError, load
from distill.data.manifest import Row, read_manifest, write_manifest
from distill.data.samples.scene_sounds import ChangeConfig, Draws, change, cross, make_up
from distill.data.samples.sounds import CLASSES, TAKES, assign_splits, label_of
from distill.data.scenes import ScenesConfig, check_scenes, make_scene, place, trim, write_scenes

CONFIG = """\
output_dir: {out}
seconds: [0.5, 0.8]
groups:
  train: [{{manifest: train.jsonl}}, {{manifest: rest.jsonl}}, {{manifest: talk.jsonl, labels: [speech]}}]
  test: [{{manifest: test.jsonl}}]
sets:
  labelled: {{group: train, scenes: 6, changes: {{speed: 1.2, filter_db: 6, reverb: 0.5}}}}
  wild: {{group: train, scenes: 3, unlabelled: true,
         changes: {{speed: 1.5, filter_db: 9, reverb: 0.3, reverse: 0.5, cross: 0.5, made_up: 0.4}}}}
  test: {{group: test, scenes: 4}}
"""  # noqa: E501
PITCH = {"low": 300.0, "high": 3000.0, None: 1000.0, "talk": 1500.0}


def write_tone(path: Path, pitch: float, seconds: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * pitch * time), 16_000)


@pytest.fixture
def scenes(tmp_path) -> Path:
    """A scenes file, its recordings, and where it writes to: `out`."""
    for split in ("train", "test"):
        rows = []
        for label in ("low", "high"):
            path = tmp_path / "sounds" / split / f"{label}.wav"
            write_tone(path, PITCH[label])
            rows.append(Row(label, f"sounds/{split}/{label}.wav", 0.3, labels=[label]))
        write_manifest(tmp_path / f"{split}.jsonl", rows)
    for name, pitch in (("rest", PITCH[None]), ("talk", PITCH["talk"])):
        write_tone(tmp_path / f"{name}.wav", pitch)
        write_manifest(tmp_path / f"{name}.jsonl", [Row(name, f"{name}.wav", 0.3)])
    (tmp_path / "scenes.yaml").write_text(CONFIG.format(out=tmp_path / "out"), encoding="utf-8")
    return tmp_path / "scenes.yaml"


def write(path: Path, *overrides: str) -> Path:
    config = load(path, ScenesConfig, list(overrides))
    check_scenes(config)
    write_scenes(config, path.parent)
    return path.parent / "out"


def test_labels_are_what_is_heard(scenes):
    out = write(scenes)
    rows, drops = read_manifest(out / "test.jsonl")
    assert len(rows) == 4 and not drops
    for row in rows:
        audio, rate = soundfile.read(row.audio_filepath)
        assert rate == 16_000 and row.duration == len(audio) / rate
        assert 0.5 <= row.duration <= 0.8 and 0.1 <= np.abs(audio).max() <= 0.9
        power = np.abs(np.fft.rfft(audio)) ** 2
        pitches = np.fft.rfftfreq(len(audio), 1 / rate)
        loud = {name for name in ("low", "high")
                if power[np.abs(pitches - PITCH[name]) < 60].sum() > 0.02 * power.sum()}
        assert loud == set(row.labels)
        assert list(row.recordings) == row.labels and all(row.recordings.values())


def test_sounds_without_labels_are_only_heard_without_labels(scenes):
    out = write(scenes)
    labels = [row.labels for row in read_manifest(out / "labelled.jsonl")[0]]
    assert {name for each in labels for name in each} == {"low", "high", "speech"}
    assert all(labels)
    assert all(row.labels is None and row.recordings is None
               for row in read_manifest(out / "wild.jsonl")[0])


def test_speech_is_whole_and_its_text_is_kept(scenes):
    folder = scenes.parent
    write_manifest(folder / "talk.jsonl", [
        Row("talk", "talk.wav", 0.3, text="So it is."), Row("long", "long.wav", 0.6, text="No.")])
    write_tone(folder / "long.wav", PITCH["talk"], 0.6)
    out = write(scenes, "sets.labelled.spoken=true", "sets.labelled.sources=[0,1]",
                "sets.test.spoken=false")
    rows = read_manifest(out / "labelled.jsonl")[0]
    assert {row.text for row in rows} == {"So it is."}, "what is longer than a scene is not drawn"
    assert {tuple(row.labels) for row in rows} > {("speech",)}, "some with a sound, some without"
    assert all(row.text is None for row in read_manifest(out / "test.jsonl")[0])
    write(scenes, "sets.labelled.spoken=false")
    assert "speech" not in {name for row in read_manifest(out / "labelled.jsonl")[0]
                            for name in row.labels}
    with pytest.raises(ConfigError, match=r"sets\.test\.spoken"):
        write(scenes, "sets.test.spoken=true")


def test_a_manifest_without_labels_counts_as_much_as_a_label():
    from distill.data.scenes import Recordings, SetConfig, Sound

    sounds = [Sound(f"many{i}", f"many{i}", (), ("many.jsonl",)) for i in range(90)]
    sounds += [Sound("low", "low", ("low",), ("low",)), Sound("few", "few", (), ("few.jsonl",))]
    recordings, draws = Recordings(sounds, SetConfig(unlabelled=True), 4.0), Draws(0, "x")
    recordings._audio = {sound: np.full(1, float(at)) for at, sound in enumerate(sounds)}
    drawn = [recordings.draw(draws)[0][0] for _ in range(300)]
    assert 70 < sum(at < 90 for at in drawn) < 130
    assert 70 < drawn.count(91) < 130
    assert {recordings.draw(draws)[1][0].labels for _ in range(50)} == {(), ("low",)}


def test_a_run_that_was_stopped_goes_on_with_the_same_scenes(scenes, capsys):
    out = write(scenes)
    paths = sorted((out / "wild").glob("*.flac"))
    before = [path.read_bytes() for path in paths]
    changed = paths[0].stat().st_mtime_ns
    paths[2].unlink()
    (out / "wild.jsonl").unlink()
    write(scenes)
    assert [path.read_bytes() for path in paths] == before
    assert paths[0].stat().st_mtime_ns == changed
    assert "labelled: 6 scenes are there" in capsys.readouterr().out


def test_other_settings_make_that_set_anew(scenes):
    out = write(scenes)
    before = (out / "wild" / "000000.flac").read_bytes()
    kept = (out / "test" / "000000.flac").stat().st_mtime_ns
    write(scenes, "sets.wild.changes.filter_db=3")
    assert (out / "wild" / "000000.flac").read_bytes() != before
    assert (out / "test" / "000000.flac").stat().st_mtime_ns == kept


def test_a_recording_that_was_replaced_makes_its_scenes_anew(scenes):
    out = write(scenes)
    before = (out / "test" / "000000.flac").stat().st_mtime_ns
    wild = (out / "wild" / "000000.flac").stat().st_mtime_ns
    path = next(iter(read_manifest(scenes.parent / "test.jsonl")[0])).audio_filepath
    samples, rate = soundfile.read(path)
    soundfile.write(path, -samples, rate)
    write(scenes)
    assert (out / "test" / "000000.flac").stat().st_mtime_ns > before
    assert (out / "wild" / "000000.flac").stat().st_mtime_ns == wild


def test_folders_and_manifests_of_others_are_left_alone(scenes):
    """A set is called as the folder of recordings it is made of."""
    for output_dir, what in (("sounds", "sets.test: .*sounds/test is there already"),
                             (".", "sets.test: .*test.jsonl is there already")):
        before = {path: path.read_bytes() for path in scenes.parent.rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match=what):
            write(scenes, f"output_dir={scenes.parent / output_dir}")
        assert before == {path: path.read_bytes() for path in scenes.parent.rglob("*")
                          if path.is_file()}
    kept = write(scenes) / "test" / "mine.flac"
    kept.write_bytes(b"")
    write(scenes, "seed=1")
    assert kept.is_file()


def test_a_recording_in_two_groups_is_refused(scenes):
    rows = [json.loads(line) for line in (scenes.parent / "train.jsonl").open()]
    with (scenes.parent / "test.jsonl").open("a") as file:
        file.write(json.dumps(rows[0] | {"id": "again"}) + "\n")
    with pytest.raises(ConfigError, match="low.wav is in 'train' and in 'test'"):
        write(scenes)


def test_a_recording_that_is_not_there_stops_all_before_one_is_mixed(scenes):
    """Whether it would have been drawn is chance; what it lacked shaped every scene."""
    (scenes.parent / "talk.wav").rename(scenes.parent / "unmounted.wav")
    with pytest.raises(ValueError, match=r"'train' does not begin: 1 of 4 .*missing_file \(talk\)"):
        write(scenes)
    assert not (scenes.parent / "out").exists()
    (scenes.parent / "unmounted.wav").rename(scenes.parent / "talk.wav")
    with pytest.raises(ConfigError, match="sets.labelled.unlabelled.*not one recording"):
        write(scenes, "groups.train=[{manifest: rest.jsonl}]")


def test_a_part_of_a_file_is_heard_alone(tmp_path):
    from distill.data.scenes import Sound

    path = str(tmp_path / "both.wav")
    soundfile.write(path, np.repeat([0.25, 0.5], 16_000), 16_000)
    heard = [Sound("x", path, (), (), *part).load() for part in
             ((0.0, 1.0), (1.0, 1.0), (0.0, 1.97), (0.0, None))]
    assert [len(each) for each in heard] == [16_000, 16_000, 32_000, 32_000]
    assert heard[0].max() < 0.3 and heard[1].min() > 0.4


@pytest.mark.parametrize("override, key", [
    ("seconds=[3,2]", "seconds"), ("sets.test.scenes=0", "sets.test.scenes"),
    ("sets.test.group=tets", "sets.test.group"), ("sources=[0,2]", "sources"),
    ("sets.test.changes.speed=0.5", "sets.test.changes.speed"),
])
def test_errors_name_the_key(scenes, override, key):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        write(scenes, override)


def test_a_scene_depends_on_seed_set_and_number_alone(scenes):
    from distill.data.scenes import Recordings, read_groups

    config = load(scenes, ScenesConfig, [])
    sounds = read_groups(config, scenes.parent)["train"]
    one, two = (Recordings(each, config.sets["labelled"], 1.0)
                for each in (sounds, sounds[::-1][::-1]))
    make_scene(config, "labelled", 0, one)
    first, labels, _ = make_scene(config, "labelled", 5, one)
    again, same, _ = make_scene(config, "labelled", 5, two)
    np.testing.assert_array_equal(first, again)
    assert labels == same
    config.seed = 1
    assert not np.array_equal(make_scene(config, "labelled", 5, one)[0][:100], first[:100])


def test_sounds_are_placed_whole_or_as_a_part():
    draws = Draws(0, "x")
    short = np.ones(1_600, np.float32)
    placed = place(short, 16_000, [2, 3], draws)
    assert placed.sum() in (3_200, 4_800)
    long = place(np.ones(20_000, np.float32), 16_000, [2, 3], draws)
    assert len(long) == 16_000 and long[0] == 0 and long[8_000] == 1
    assert len(trim(np.array([0, 0, 1, 0.5, 0], np.float32))) == 2


def test_changes_are_audible_finite_and_repeatable():
    sound = np.random.default_rng(0).standard_normal(4_000).astype(np.float32)
    config = ChangeConfig(speed=1.5, filter_db=12, reverb=1, reverse=1)
    first, again = (change(sound, config, Draws(0, "a")) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all() and first.dtype == np.float32
    np.testing.assert_array_equal(change(sound, ChangeConfig(), Draws(0, "a")), sound)
    for number in range(4):
        crossed = cross(sound, sound[:100], Draws(0, f"c{number}"))
        made = make_up(Draws(0, f"m{number}"))
        assert len(crossed) == len(sound) and np.isfinite(crossed).all()
        assert np.isfinite(made).all() and np.abs(made).max() > 0


def test_sound_samples_are_split_by_source():
    root = Path(__file__).resolve().parents[2] / "recipes" / "demo-tagger" / "data"
    splits = ("train", "validation", "test", "unlabelled")
    rows = {split: read_manifest(root / f"{split}.jsonl")[0] for split in splits}
    names = [row.id for split in splits for row in rows[split]]
    assert len(names) == len(set(names)) == 165
    place = {row.id: split for split in splits for row in rows[split]}
    assert all(place[a] == place[b] for a, b in TAKES)
    assert {split: assign_splits(names)[r.id] for split in splits[:3] for r in rows[split]} == {
        split: split for split in splits[:3]}
    for split in splits[:3]:
        assert {label for row in rows[split] for label in row.labels} == set(CLASSES)
    assert label_of("elec_snare") == "drum" and label_of("guit_em9") is None
    assert all(Path(row.audio_filepath).is_file() for split in splits for row in rows[split])
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert size <= 4_000_000
