"""Manifests become clips; no sound is lost without being counted."""

import numpy as np
import pytest
import soundfile

from distill.ced.data.clips import cut, find_classes, load_clips, load_sound, targets_of
from distill.ced.evaluation import EvaluationClips
from distill.data.audio import AudioError
from distill.data.manifest import Row, write_manifest

RATE = 16_000


def row(seconds, offset=0.0, labels=("dog",)):
    return Row("a", "a.wav", seconds, offset, labels=list(labels))


def lengths(seconds, clip_seconds=10.0, **given):
    clips, drops = cut(row(seconds, **given), clip_seconds)
    return [clip.num_samples / RATE for clip in clips], drops


def test_short_clips_and_tails_are_kept():
    """CED drops files and tails of less than 5 s, silently."""
    assert lengths(0.3) == ([0.3], [])
    assert lengths(0.15) == ([0.15], [])
    assert lengths(10.0) == ([10.0], [])
    assert lengths(24.2) == ([10.0, 10.0, 4.2], [])
    assert lengths(10.2) == ([10.0, 0.2], [])


def test_what_is_no_clip_is_counted():
    assert lengths(10.1) == ([10.0], ["tail_too_short"])
    assert lengths(0.00001) == ([], ["empty"])


def test_a_file_shorter_than_a_patch_is_followed_by_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(800, 0.5, np.float32), RATE, subtype="FLOAT")
    write_manifest(tmp_path / "m.jsonl", [Row("a", "a.wav", 0.05)])
    clip, = load_clips([str(tmp_path / "m.jsonl")], 10.0)[0]
    sound = load_sound(clip)
    assert len(sound) == clip.length == 2400 and clip.num_samples == 800
    assert (sound[:800] == 0.5).all() and not sound[800:].any()


def test_the_number_of_clips_is_counted_not_guessed(tmp_path):
    """CED takes every file for 10 s."""
    write_manifest(tmp_path / "m.jsonl", [
        Row("long", "x.wav", 31.0), Row("short", "x.wav", 0.5), Row("none", "x.wav", 0.00001)])
    clips, drops = load_clips([str(tmp_path / "m.jsonl")], 10.0)
    assert [clip.key for clip in clips] == ["long@0", "long@160000", "long@320000", "long@480000",
                                            "short"]
    assert drops == {"empty": 1}


def test_places_in_long_files_are_exact(tmp_path):
    """CED's float32 seconds are off by a sample after 17 minutes, which draws another shift."""
    clips, _ = cut(row(36_000.0, offset=123.4567), 10.0)
    last = clips[-1]
    assert last.start == round(123.4567 * RATE) + 3599 * 10 * RATE
    assert np.float64(last.start / RATE) * 44_100 == pytest.approx(
        (round(123.4567 * RATE) / RATE + 35_990) * 44_100, abs=1e-3)
    assert last.num_samples == 10 * RATE


def test_samples_are_those_of_the_place(tmp_path):
    whole = (np.arange(3 * RATE) / (4 * RATE)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", whole, RATE, subtype="FLOAT")
    write_manifest(tmp_path / "m.jsonl", [Row("a", "a.wav", 2.3, 0.5)])
    clips, _ = load_clips([str(tmp_path / "m.jsonl")], 1.0)
    sounds = [load_sound(clip) for clip in clips]
    assert np.array_equal(np.concatenate(sounds), whole[RATE // 2 : RATE // 2 + round(2.3 * RATE)])


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
def test_any_rate_gives_the_promised_number_of_samples(tmp_path, rate):
    """CED never looks at the rate."""
    count = round(1.2345 * rate)
    soundfile.write(tmp_path / "a.wav", np.zeros((count, 2), np.float32), rate)
    write_manifest(tmp_path / "m.jsonl", [Row("a", "a.wav", count / rate)])
    clip, = load_clips([str(tmp_path / "m.jsonl")], 10.0)[0]
    assert load_sound(clip).shape == (clip.num_samples,) == (round(count / rate * RATE),)


def test_unreadable_audio_names_its_clip(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [Row("a", "gone.wav", 1.0)])
    clip, = load_clips([str(tmp_path / "m.jsonl")], 10.0)[0]
    with pytest.raises(AudioError, match="missing_file: clip a:"):
        load_sound(clip)


def test_the_same_file_name_in_two_folders_is_two_clips(tmp_path):
    """CED keys audio by the name of its file: duplicates collapse, or raise."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name / "m.jsonl", [Row("1", "1.wav", 1.0)])
    paths = [str(tmp_path / name / "m.jsonl") for name in ("one", "two")]
    clips, drops = load_clips(paths, 10.0)
    assert [clip.key for clip in clips] == ["one/m:1", "two/m:1"] and not drops
    assert clips[0].path != clips[1].path
    with pytest.raises(ValueError, match="different names"):
        load_clips([paths[0], paths[0]], 10.0)


# Classes


def test_classes_come_from_a_file_or_from_all_labels(tags, tmp_path):
    assert find_classes(tags.recipe()) == ["bell", "cat", "dog"]
    names = tmp_path / "classes.txt"
    names.write_text("dog\n\nbell\ncat\n")
    assert find_classes(tags.recipe(f"data.classes={names}")) == ["dog", "bell", "cat"]
    names.write_bytes("Käuzchen\r\ncat, wild\r\n".encode("utf-16"))
    assert find_classes(tags.recipe(f"data.classes={names}")) == ["Käuzchen", "cat, wild"]
    names.write_text('\ufeffindex,mid,display_name\n0,/m/1,"Inside, room"\n1,/m/2,Dog\n')
    assert find_classes(tags.recipe(f"data.classes={names}")) == ["Inside, room", "Dog"]
    names.write_bytes("dog\nKäuzchen\n".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt: .*byte"):
        find_classes(tags.recipe(f"data.classes={names}"))
    names.write_text("dog\ndog\n")
    with pytest.raises(ValueError, match="'dog' twice"):
        find_classes(tags.recipe(f"data.classes={names}"))
    with pytest.raises(ValueError, match="data.classes: no file"):
        find_classes(tags.recipe("data.classes=nowhere.txt"))


def test_labels_become_targets():
    clips, _ = cut(row(1.0, labels=["cat", "dog"]), 10.0)
    assert targets_of(clips, ["bell", "cat", "dog"], "").tolist() == [[0, 1, 1]]
    with pytest.raises(ValueError, match="label 'cat' is none of the 1 classes"):
        targets_of(clips, ["dog"], "")
    with pytest.raises(ValueError, match="row a: label 'cat' is none .*did you mean 'cats'"):
        targets_of(clips, ["cats", "dog"], "")
    clips, _ = cut(Row("b", "b.wav", 1.0), 10.0)
    with pytest.raises(ValueError, match="row b has no `labels`.*because"):
        targets_of(clips, ["dog"], "because")


# Recordings of several clips


def test_a_recording_is_the_mean_of_its_clips_by_their_length(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [
        Row("a", "a.wav", 2.5, labels=["x"]), Row("b", "b.wav", 0.5, labels=[])])
    for name, seconds in (("a", 2.5), ("b", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(round(seconds * RATE)), RATE)
    clips = EvaluationClips([str(tmp_path / "m.jsonl")], 1.0)
    said = np.array([[0.1], [0.3], [0.9], [0.7]])
    assert np.allclose(clips.pool(said), [[(0.1 + 0.3 + 0.45) / 2.5], [0.7]])
    assert clips.targets(["x"]).tolist() == [[1], [0]]
