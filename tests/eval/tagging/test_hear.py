"""HEAR's interface, and a linear probe of its embeddings."""

import importlib
import json
import sys
import types
import warnings

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration

from distill.data.manifest import Row, write_manifest
from distill.whisper_at.heads import make_head
from distill.whisper_at.joint import HeadSettings, save_head
from distill.whisper_at.model import from_whisper
from eval.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from eval.linear_probe import Probe, choose_decay, main, sounds_of
from tests.ced.conftest import make_tagger, wave


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hear")
    make_tagger().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["ced", "whisper_at", "transcriber"])
def any_folder(request, folder, tiny_teacher, tmp_path_factory):
    """Of each kind of tagger, and the width of its embeddings."""
    if request.param == "ced":
        return folder, 128
    whisper = WhisperForConditionalGeneration.from_pretrained(tiny_teacher, dtype=torch.float32)
    target = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "whisper_at":
        from_whisper(whisper, ["a", "b"]).save_pretrained(target)
    else:
        whisper.save_pretrained(target)
        save_head(target, make_head("tltr", 1, 32, None, 2, 0.0),
                  HeadSettings(["a", "b"], 1, 32, "tltr", None))
    return str(target), 32


def test_hears_own_validator_is_content(any_folder, monkeypatch, capsys):
    """As released. Of tensorflow it needs one name, to see that this is no model of that kind."""
    if importlib.util.find_spec("hearvalidator") is None:
        pytest.skip("no hearvalidator: pip install --no-deps hearvalidator (its tensorflow wants "
                    "an older h5py than the store does)")
    if importlib.util.find_spec("tensorflow") is None:
        stand_in = types.ModuleType("tensorflow")
        stand_in.Module = type("Module", (), {})
        monkeypatch.setitem(sys.modules, "tensorflow", stand_in)
    from hearvalidator.validate import ModelError, ValidateModel

    folder, width = any_folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns of steps that are too long
        ValidateModel("eval.hear", folder, "cpu")()
    assert f"scene_embedding_size: {width}" in capsys.readouterr().out
    monkeypatch.setattr(eval_hear(), "get_scene_embeddings", lambda audio, model: audio[:, :5])
    with pytest.raises(ModelError, match="embedding size is 5"):
        ValidateModel("eval.hear", folder, "cpu")()


def eval_hear():
    return importlib.import_module("eval.hear")


def test_whispers_timestamps_are_where_the_sound_is(any_folder):
    """Without layers a position knows what the two convolutions see."""
    folder, width = any_folder
    if width == 128:
        return  # below
    model = load_model(folder)
    model.tagger.encoder.layers = torch.nn.ModuleList(
        [torch.nn.ModuleList()] * len(model.tagger.encoder.layers))
    for layer in model.tagger.encoder.layers:
        layer.forward = lambda hidden, mask: hidden
    quiet = torch.from_numpy(0.01 * np.random.default_rng(0).normal(size=16_000 * 35)).float()
    for at in (0.5, 11.3, 32.02):
        click = quiet.clone()
        click[int(at * 16_000)] += 0.5
        both = torch.stack([quiet, click])
        both[:, [8, 31 * 16_000]] += 0.9  # the same loudest sound, in both windows
        found, times = get_timestamp_embeddings(both, model)
        heard = times[0][(found[1] - found[0]).abs().sum(-1) > 1e-3]
        assert heard.mean() == pytest.approx(1000 * at, abs=45)
        assert heard.max() - heard.min() <= 120


def test_what_hears_validator_asks(any_folder, monkeypatch):
    folder, width = any_folder
    monkeypatch.setenv("TAGGER", folder)
    model = load_model()
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate == 16_000
    assert model.scene_embedding_size == model.timestamp_embedding_size == width
    for seconds in (1.07, 1.98, 4.0, 0.02):
        audio = torch.rand(2, int(16_000 * seconds)) * 2 - 1
        embeddings, times = get_timestamp_embeddings(audio, model)
        assert embeddings.dtype == torch.float32 and embeddings.shape[2] == width
        assert times.shape == embeddings.shape[:2]
        assert torch.allclose(times.diff(dim=1), torch.tensor(40.0))  # at most 50 ms, regular
        assert 1000 * seconds - 50 < times.max() <= 1000 * seconds
    scenes = get_scene_embeddings(torch.rand(4, int(16_000 * 2.74)) * 2 - 1, model)
    assert scenes.dtype == torch.float32 and scenes.shape == (4, width)


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
