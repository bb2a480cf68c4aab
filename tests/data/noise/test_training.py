"""Noise of training: always the same for a key, of its own recordings, none of the test's."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from distill.data.leaks import LeakError
from distill.data.manifest import Row, load_rows, read_manifest
from distill.data.noise.kinds import Noises
from distill.data.noise.mixing import active_power
from distill.data.noise.training import TrainingNoises, check_recordings, read_recordings
from distill.data.views.augment import NOISES, Augmentation, augment_audio, make_noise
from distill.methods import check_data, load_recipe

RATE = 16_000
KINDS = ("white", "pink", "babble", "recordings")
LEARNED = "views.augment.recordings"


@pytest.fixture(scope="module")
def place(demo_data):
    return demo_data.parents[1] / "noise"


@pytest.fixture(scope="module")
def clips(demo_data) -> list[Row]:
    return load_rows([str(demo_data / "train.jsonl")])[0]


@pytest.fixture(scope="module")
def noises(place, clips) -> TrainingNoises:
    return TrainingNoises(KINDS, [str(place / "training.jsonl")], clips)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_always_has_the_same_noise(noises, place, clips, kind):
    again = TrainingNoises(KINDS, [str(place / "training.jsonl")], clips)
    one = noises.make(kind, 7, 2 * RATE)
    np.testing.assert_array_equal(one, again.make(kind, 7, 2 * RATE))
    assert len(one) == 2 * RATE and active_power(one) > 0
    assert np.abs(one - noises.make(kind, 8, 2 * RATE)).max() > 1e-3
    assert noises.recordings(kind) == again.recordings(kind)
    assert bool(noises.recordings(kind)) == (kind not in NOISES)


def test_other_recordings_are_another_noise(noises, place, clips):
    fewer = TrainingNoises(KINDS, [str(place / "training.jsonl")], clips[:100])
    assert fewer.recordings("babble") != noises.recordings("babble")
    assert fewer.recordings("recordings") == noises.recordings("recordings")
    assert np.abs(fewer.make("babble", 7, RATE) - noises.make("babble", 7, RATE)).max() > 1e-3


def test_the_noise_has_the_snr_that_was_drawn(noises):
    speech = np.concatenate([0.1 * np.sin(np.arange(RATE)), np.zeros(3 * RATE)]).astype("f4")
    for kind in KINDS:
        drawn = Augmentation(0.0, kind, 3.0, 11, (), ())
        noise = augment_audio(speech, drawn, noises.make) - speech
        ratio = active_power(speech) / np.square(noise, dtype=np.float64).mean()
        assert 10 * np.log10(ratio) == pytest.approx(3.0, abs=0.01), kind
    plain = replace(drawn, noise="white")
    np.testing.assert_array_equal(augment_audio(speech, plain),
                                  augment_audio(speech, plain, noises.make))
    np.testing.assert_array_equal(noises.make("white", 5, 100), make_noise("white", 5, 100))


def test_a_folder_or_a_manifest(place, tmp_path):
    source = place / "audio" / "it-00.ogg"
    for name in ("b.ogg", "a.ogg"):
        shutil.copy(source, tmp_path / name)
    assert [row.id for row in read_recordings([str(tmp_path)])] == ["a.ogg", "b.ogg"]
    assert len(read_recordings([str(tmp_path), str(place / "voices.jsonl")])) == 2 + 27
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{LEARNED}: no audio in .*empty"):
        read_recordings([str(tmp_path / "empty")])


def test_no_noise_of_the_demo_is_the_tests(place, clips):
    """And other names do not hide one."""
    test = Noises.embedded(place)
    measured = [*test.voices, *test.music, *test.glasses]
    learned = [*read_manifest(place / "training.jsonl")[0], *clips]
    check_recordings(learned, measured, False, tell=pytest.fail)


def test_noise_of_the_test_is_refused(place, tmp_path, demo_data):
    shutil.copy(place / "audio" / "it-00.ogg", tmp_path / "mine.ogg")
    asked = ["views.augment.probability=1", "views.augment.noise=[white,recordings]",
             f"{LEARNED}=[{tmp_path}]"]
    for overrides in ([], asked):
        recipe = load_recipe(str(demo_data.parent), [f"output_dir={tmp_path}/run", *overrides])
        if not overrides:
            check_data(recipe, "train")
            continue
        with pytest.raises(LeakError, match="1 of .* robustness test .*: it-00"):
            check_data(recipe, "train")
        recipe.data.allow_overlap = True
        check_data(recipe, "train")
