"""HEAR's interface, and a linear probe of its embeddings."""

import json

import numpy as np
import pytest
import soundfile
import torch

from distill.data.manifest import Row, write_manifest
from eval.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from eval.linear_probe import Probe, choose_decay, main, sounds_of
from tests.ced.conftest import make_tagger, wave


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hear")
    make_tagger().save_pretrained(folder)
    return str(folder)


def test_what_hears_validator_asks(folder, monkeypatch):
    monkeypatch.setenv("TAGGER", folder)
    model = load_model()
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate == 16_000
    assert model.scene_embedding_size == model.timestamp_embedding_size == 128
    for seconds in (1.07, 1.98, 4.0, 0.02):
        audio = torch.rand(2, int(16_000 * seconds)) * 2 - 1
        embeddings, times = get_timestamp_embeddings(audio, model)
        assert embeddings.dtype == torch.float32 and embeddings.shape[2] == 128
        assert times.shape == embeddings.shape[:2]
        assert torch.allclose(times.diff(dim=1), torch.tensor(40.0))  # at most 50 ms, regular
        assert 1000 * seconds - 50 < times.max() <= 1000 * seconds
    scenes = get_scene_embeddings(torch.rand(4, int(16_000 * 2.74)) * 2 - 1, model)
    assert scenes.dtype == torch.float32 and scenes.shape == (4, 128)


def test_a_tagger_must_be_named(monkeypatch):
    monkeypatch.delenv("TAGGER", raising=False)
    with pytest.raises(ValueError, match="set TAGGER"):
        load_model("")
    with pytest.raises(ValueError, match="clips, samples"):
        get_scene_embeddings(torch.zeros(100), None)


def test_scenes_are_those_of_the_model_and_do_not_mind_their_batch(folder):
    model = load_model(folder)
    audio = torch.from_numpy(np.stack([wave(12.0, seed=0), wave(12.0, seed=1, gain=0.001)]))
    together = get_scene_embeddings(audio, model)
    for index in range(2):
        alone = get_scene_embeddings(audio[index : index + 1], model)
        assert torch.allclose(together[index], alone[0], atol=1e-5)


@pytest.mark.parametrize("at", [0.5, 1.0, 1.04, 1.1, 11.3])
def test_timestamps_are_where_the_sound_is(at):
    """Without layers a step knows its own 160 ms alone."""
    model = HearModel(make_tagger(num_hidden_layers=0).encoder)
    quiet = torch.from_numpy(0.01 * np.random.default_rng(0).normal(size=16_000 * 12)).float()
    click = quiet.clone()
    click[int(at * 16_000)] += 0.5
    before, times = get_timestamp_embeddings(quiet[None], model)
    after, _ = get_timestamp_embeddings(click[None], model)
    heard = times[0][(after - before)[0].abs().sum(-1) > 1e-3]
    assert heard.mean() == pytest.approx(1000 * at, abs=25)
    assert heard.max() - heard.min() <= 200


def write_classes(folder, count, seed):
    generator = np.random.default_rng(seed)
    for name, pitch in (("high", 3000), ("low", 300), ("middle", 1000)):
        (folder / name / "deep").mkdir(parents=True)
        for number in range(count):
            time = np.arange(8000) / 16_000
            tone = np.sin(2 * np.pi * pitch * generator.uniform(0.9, 1.1) * time)
            sound = 0.2 * tone + 0.02 * generator.normal(size=8000)
            soundfile.write(folder / name / "deep" / f"{number}.wav", sound, 16_000)
    return folder


def test_probe_of_folders_of_classes(folder, tmp_path, capsys):
    train, test = write_classes(tmp_path / "a", 5, 0), write_classes(tmp_path / "b", 3, 1)
    out = tmp_path / "probe.json"
    command = ["--model", folder, "--train", str(train), "--test", str(test),
               "--num-bootstrap", "50", "--output", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "accuracy 100.0 %" in said and "Recordings: train 15, test 9; 3 classes, 3 of" in said
    result = json.loads(out.read_text())
    assert result["num_recordings"] == {"train": 15, "test": 9} and result["width"] == 128
    assert result["accuracy"] == 1.0 and result["mean_average_precision"] == 1.0
    (test / "low" / "bad.wav").write_bytes(b"nothing")
    assert main([*command, "--validation", str(test)]) == 1
    assert "bad.wav: unreadable" in capsys.readouterr().err
    soundfile.write(test / "loose.wav", np.zeros(800), 16_000)
    (test / "low" / "gone.wav").symlink_to(tmp_path / "unmounted.wav")
    with pytest.raises(ValueError, match="--test.*the same command begins"):
        main(command)
    assert "left out: 1 files outside class folders" in capsys.readouterr().out


def test_probe_of_manifests_with_many_labels(folder, tmp_path):
    sources = write_classes(tmp_path / "a", 4, 0)
    manifests = {}
    for split, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        rows = [Row(id=f"{name}{n}", audio_filepath=str(sources / name / "deep" / f"{n}.wav"),
                    duration=0.5, labels=[name] + (["tone"] if name != "low" else []))
                for name in ("high", "low", "middle") for n in numbers]
        manifests[split] = tmp_path / f"{split}.jsonl"
        write_manifest(manifests[split], rows)
    out = tmp_path / "probe.json"
    assert main(["--model", folder, "--train", str(manifests["train"]), "--test",
                 str(manifests["test"]), "--validation", str(manifests["train"]),
                 "--num-bootstrap", "20", "--output", str(out)]) == 0
    result = json.loads(out.read_text())
    assert "accuracy" not in result and result["num_classes"] == 4
    assert result["mean_average_precision"] > 0.8
    write_manifest(manifests["test"], [Row(id="x", audio_filepath=str(sources / "x.wav"),
                                           duration=1.0)])
    with pytest.raises(ValueError, match="has no `labels`"):
        sounds_of(manifests["test"])


def test_a_class_that_was_not_trained_is_named(folder, tmp_path):
    train, test = write_classes(tmp_path / "a", 1, 0), write_classes(tmp_path / "b", 1, 1)
    (test / "low").rename(test / "lower")
    with pytest.raises(ValueError, match="no recording of the training split is 'lower'"):
        main(["--model", folder, "--train", str(train), "--test", str(test)])


def test_decay_is_chosen_on_what_was_not_fitted():
    generator = np.random.default_rng(0)
    y = np.eye(2)[generator.integers(2, size=60)]
    x = generator.normal(size=(60, 40)) + 0.6 * y[:, :1]  # more numbers than they are worth
    held = np.eye(2)[generator.integers(2, size=400)]
    unseen = generator.normal(size=(400, 40)) + 0.6 * held[:, :1]
    chosen = choose_decay((x, y), (unseen, held), True)
    assert chosen >= 0.01
    loose = (Probe(x, y, 1e-4, True)(x).argmax(1) == y.argmax(1)).mean()
    assert loose == 1.0  # it can learn noise by heart


def test_models_and_modules_that_are_not_there_are_said(tmp_path):
    arguments = ["--train", str(tmp_path), "--test", str(tmp_path)]
    with pytest.raises(ValueError, match="no file .*nowhere; expected a file of weights"):
        main(["--model", str(tmp_path / "nowhere"), *arguments])
    with pytest.raises(ValueError, match="--module no_such: No module"):
        main(["--model", "x", "--module", "no_such", *arguments])
