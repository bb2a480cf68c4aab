"""A transcriber that tags: the same pass, the same transcripts, one folder."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.ced.recipe_sections import MemberConfig
from distill.ced.teachers.members import class_names, load_member
from distill.config import ConfigError
from distill.data.files import read_json
from distill.data.manifest import Row, write_manifest
from distill.methods import load_recipe
from distill.testing import write_tiny_recipe
from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.layer_means import LayerMeans, mean_steps
from distill.whisper.encoder.lengths import set_margin
from distill.whisper_at.heads import make_head
from distill.whisper_at.joint import (
    HeadSettings,
    TranscriberMember,
    TranscriberStates,
    load_head,
    save_head,
)
from tests.support.rounding import assert_same_but_rounding


def sound(pitch: float, seconds: float) -> np.ndarray:
    time = np.arange(int(16_000 * seconds)) / 16_000
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.5 * np.sin(2 * np.pi * pitch * time) + 0.01 * noise).astype(np.float32)


@pytest.mark.parametrize("margin", [None, 1.0])
def test_listening_changes_nothing(tiny_model, tiny_processor, margin):
    """Of clips of three lengths, of which one fills its window, together and alone."""
    set_margin(tiny_model, margin)
    waves = [sound(300, 1.0), sound(2000, 28.0), sound(900, 1.1), sound(500, 4.0)]
    encoder = tiny_model.get_encoder()
    for some in (waves, waves[:1]):
        features, heard = audio_features(tiny_processor, some, margin), LayerMeans()
        with_head = encode_features(encoder, features, heard)
        # a second pass lies elsewhere in memory, which may decide the kernel
        assert_same_but_rounding(with_head, encode_features(encoder, features))
        assert not any(layer._forward_hooks for layer in encoder.layers)
        for clip in range(len(some)):
            assert heard[clip].shape[::2] == (2, 32)


def test_what_is_heard_of_a_padded_clip_are_the_means_of_transformers(tiny_model, tiny_processor):
    features, heard = audio_features(tiny_processor, [sound(300, 3.0)], None), LayerMeans()
    encode_features(tiny_model.get_encoder(), features, heard)
    with torch.no_grad():
        hidden = tiny_model.model.encoder(features.groups[0][2], output_hidden_states=True)
    torch.testing.assert_close(heard[0][0], hidden.hidden_states[1][0].view(75, 20, 32).mean(1))
    last = tiny_model.model.encoder.layers[1]
    with torch.no_grad():
        torch.testing.assert_close(heard[0][1], last(hidden.hidden_states[1], None)[0]
                                   .view(75, 20, 32).mean(1), atol=1e-5, rtol=1e-4)


def test_means_of_a_part_of_a_step():
    hidden = torch.randn(2, 50, 3)
    means = mean_steps(hidden)
    assert means.shape == (2, 3, 3)
    torch.testing.assert_close(means[:, 2], hidden[:, 40:].mean(1))


def test_states_are_those_of_the_clip(tiny_model, tiny_processor):
    """A step of which a half is there counts; long clips are heard window by window."""
    states = TranscriberStates(tiny_model, tiny_processor, layers=1)
    found = states([sound(300, 4.9), sound(300, 70.0), sound(300, 5.0)])
    assert [tuple(each.shape) for each in found] == [(1, 12, 32), (1, 175, 32), (1, 13, 32)]
    alone = states([sound(300, 70.0)[30 * 16_000 : 60 * 16_000]])[0]
    torch.testing.assert_close(found[1][:, 75:150], alone)


@pytest.mark.parametrize("kind, size", [("layer_sum", 8), ("tltr", None), ("tltr", 16)])
def test_a_head_is_written_and_read(tmp_path, kind, size):
    torch.manual_seed(0)
    head = make_head(kind, 2, 32, size, 3, 0.5)
    save_head(tmp_path, head, HeadSettings(["a", "b", "c"], 2, 32, kind, size, {"a": 0.25}))
    sounds = load_head(tmp_path)
    means = torch.randn(2, 75, 32)
    frames, clip = sounds(means, seconds=5.0)
    assert frames.shape == (13, 3) and clip.shape == (3,)
    with torch.no_grad():
        torch.testing.assert_close(clip, head.eval()(means[None, :, :13])[1][0].sigmoid())
    assert sounds.settings.thresholds == {"a": 0.25}
    assert load_head(tmp_path / "elsewhere") is None
    save_head(tmp_path, make_head(kind, 2, 32, size, 4, 0.5), sounds.settings)
    with pytest.raises(ValueError, match="do not fit"):
        load_head(tmp_path)


RECIPE = """
tagger:
  data: {train: [sounds.jsonl], validation: [sounds.jsonl], test: [sounds.jsonl],
         allow_overlap: true}
  head: {head_size: 16, mixup_probability: 0, confidence: 0.5}  # four clips prove nothing
  train: {max_steps: 60, batch_size: 8, micro_batch_size: 8, learning_rate: 1e-2, warmup_steps: 1,
          validate_every: 30, save_every: 60}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A student with a head, of pitches."""
    from distill.train import main as train
    from pseudo_label.__main__ import main as label

    folder = tmp_path_factory.mktemp("joint")
    recipe = write_tiny_recipe(folder, train=8)
    rows = []
    for number in range(8):
        pitch, seconds, name = ((300, 1.0, "low"), (3000, 1.2, "high"))[number % 2]
        soundfile.write(recipe / f"{number}.wav", sound(pitch, seconds), 16_000)
        rows.append(Row(str(number), f"{number}.wav", seconds, labels=[name]))
    write_manifest(recipe / "sounds.jsonl", rows)
    text = (recipe / "recipe.yaml").read_text(encoding="utf-8")
    (recipe / "recipe.yaml").write_text(text + RECIPE, encoding="utf-8")
    arguments = [str(recipe), f"output_dir={folder / 'run'}", "train.max_steps=2"]
    label(arguments)
    train(arguments)
    return folder


def arguments_of(run: Path) -> list[str]:
    return [str(run / "recipe"), f"output_dir={run / 'run'}", "train.max_steps=2"]


def test_one_folder_transcribes_and_tags(run, capsys):
    from transformers import WhisperForConditionalGeneration

    from distill.train import main as train
    from distill.whisper.teacher import load_teacher

    student = run / "run" / "student"
    weights = (student / "model.safetensors").read_bytes()
    assert weights == (run / "run/checkpoints/best/model.safetensors").read_bytes()
    member = load_member(MemberConfig(str(student)))
    assert isinstance(member, TranscriberMember) and member.step_seconds == 0.4
    assert class_names(MemberConfig(str(student))) == member.classes == ["high", "low"]
    waves = [sound(300, 1.0), sound(3000, 1.0)]
    probabilities, frames = member.with_frames(waves, [None, None])
    assert probabilities.argmax(1).tolist() == [1, 0] and frames[0].shape == (3, 2)
    np.testing.assert_allclose(member(waves, [None] * 2), probabilities)
    thresholds = read_json(student / "tagger.json")["thresholds"]
    assert thresholds["low"] <= probabilities[0, 1] and thresholds["low"] > probabilities[1, 1]
    # who does not know of the head sees a Whisper
    plain, info = WhisperForConditionalGeneration.from_pretrained(student, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]
    config = load_recipe(str(run / "recipe"), []).teacher
    config.model = str(student)
    load_teacher(config)
    train(arguments_of(run))
    assert capsys.readouterr().out.count("Training is done already") == 2


def test_a_student_that_is_trained_again_has_its_head_again(run, tmp_path, monkeypatch):
    """Its states are those of before: the encoder is the same."""
    from distill.train import main as train

    shutil.copytree(run / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(TranscriberStates, "__call__", None)
    train([str(run / "recipe"), f"output_dir={tmp_path / 'run'}", "train.max_steps=2",
           "train.learning_rate=2e-3"])
    assert load_head(tmp_path / "run" / "student").classes == ["high", "low"]


def test_it_is_measured(run, capsys):
    from eval.__main__ import main as evaluate

    evaluate([*arguments_of(run), "evaluation.num_bootstrap=20"])
    results = read_json(run / "run" / "eval" / "results.json")
    assert results["same_transcripts"] is True and results["map"] == 1.0
    assert results["head_map"] is None and results["time_ratio"] > 0
    spoken = results["sounds"]["transcripts"]
    assert spoken["num_clips"] == spoken["num_with_the_same_states"] > 0
    of_low = results["sounds"]["systems"]["student"]["at_thresholds"]["low"]
    assert of_low["f1"] == 1.0 and of_low["num_positives"] == 4
    assert "Tags of the student: mAP 100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize("override, key", [
    ("tagger.data.train=[]", "tagger.data.train"), ("tagger.layers=0", "tagger.layers"),
    ("tagger.head.head_type=big", "tagger.head.head_type"),
    ("tagger.head.precision=0", "tagger.head.precision"),
    ("tagger.train.batch_tokens=5", "train.batch_tokens"),
])
def test_errors_name_the_key(run, override, key):
    with pytest.raises(ConfigError, match=key):
        load_recipe(str(run / "recipe"), [override])


def test_subtitles_with_sounds(run, tmp_path, capsys):
    """Nobody speaks: the gaps are heard nevertheless, and the model's text is what it was."""
    from eval.transcribe import main as transcribe

    path = tmp_path / "talk.wav"
    soundfile.write(path, np.concatenate([sound(300, 6.0), sound(3000, 6.0)]), 16_000)
    model = ["--model", str(run / "run" / "student"), "--language", "en", "--no-vad"]
    transcribe([str(path), *model, "--format", "json", "--output-dir", str(tmp_path / "plain")])
    transcribe([str(path), *model, "--format", "json", "vtt", "--sounds", "all"])
    plain, both = (read_json(place / "talk.wav.json") for place in (tmp_path / "plain", tmp_path))
    assert plain["segments"] == both["segments"] and "sounds" not in plain
    quiet = tmp_path / "quiet"
    transcribe([str(path), *model[:-1], "--format", "json", "vtt", "--sounds",
                "--output-dir", str(quiet)])
    found = read_json(quiet / "talk.wav.json")
    assert found["text"] == "" and [each["label"] for each in found["sounds"]] == ["low", "high"]
    assert "[low]\n" in (quiet / "talk.wav.vtt").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="does not tag: it has no tagger.json"):
        transcribe([str(path), "--model", str(run / "teacher"), "--sounds", "--format", "vtt",
                    "--overwrite"])
    with pytest.raises(ValueError, match="add --format vtt json"):
        transcribe([str(path), *model, "--sounds"])


def test_code_beside_the_weights_needs_no_package_of_ours(run, tmp_path, modules_folder):
    """Padded to 30 s, as transformers hears it, the clip has the same tags."""
    from transformers import WhisperFeatureExtractor, dynamic_module_utils

    from distill.methods import write_code

    folder = Path(shutil.copytree(run / "run" / "student", tmp_path / "student"))
    write_code(load_recipe(str(run / "recipe"), []), folder)
    for path in folder.glob("*.py"):
        assert not re.search(r"^\s*(from|import) distill", path.read_text(), re.MULTILINE)
    (name, where), = read_json(folder / "config.json")["auto_map"].items()
    assert name == "AutoModelForAudioClassification"
    model = dynamic_module_utils.get_class_from_dynamic_module(where, folder).from_pretrained(
        folder)
    assert type(model).__module__.startswith("transformers_modules.")
    assert model.config.id2label == {0: "high", 1: "low"}
    extractor = WhisperFeatureExtractor(feature_size=80)
    waves = [sound(300, 1.0), sound(3000, 2.1)]
    inputs = extractor(waves, sampling_rate=16_000, return_tensors="pt",
                       return_attention_mask=True)
    ours = torch.from_numpy(load_member(MemberConfig(str(folder)))(waves, [None] * 2)).float()
    with torch.no_grad():
        torch.testing.assert_close(model(inputs.input_features).logits.sigmoid(), ours)
        torch.testing.assert_close(model(**inputs).logits.sigmoid(), ours)


def test_the_head_is_published_with_the_rest(run):
    from distill.publish.files import published

    names = set(published(run / "run" / "student"))
    assert {"model.safetensors", "tagger.json", "tagger.safetensors"} <= names
