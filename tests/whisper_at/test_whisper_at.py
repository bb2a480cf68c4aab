"""A head on a frozen Whisper encoder: shapes, lengths, Auto classes, training and its resume."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator

from distill.config import ConfigError
from distill.data.manifest import Row, write_manifest
from distill.methods import build_task, load_recipe
from distill.train import main as train
from distill.whisper_at.heads import pool
from distill.whisper_at.model import (
    FRAMES_PER_STEP,
    WhisperTagger,
    WhisperTaggerExtractor,
    from_whisper,
    num_steps,
)
from tests.support.rounding import assert_same_but_rounding

RECIPE = """\
method: whisper_at
num_threads: 1
encoder_batch_size: 4
data: {{train: [train.jsonl], validation: [train.jsonl], allow_overlap: true}}
whisper: {{model: {whisper}}}
head: {{head_size: 16}}
train: {{max_steps: 30, batch_size: 8, micro_batch_size: 4, learning_rate: 1e-2, warmup_steps: 1,
        log_every: 10, save_every: 10, validate_every: 10}}
"""


@pytest.fixture(scope="module")
def whisper(tiny_teacher):
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(tiny_teacher).eval()


@pytest.fixture(scope="module")
def recipe(tiny_teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tagger")
    rows, generator = [], np.random.default_rng(0)
    for number in range(8):
        time = np.arange(16_000 + 3_200 * (number % 2)) / 16_000
        pitch = (300, 3000)[number % 2]
        sound = 0.5 * np.sin(2 * np.pi * pitch * time) + 0.01 * generator.standard_normal(len(time))
        soundfile.write(folder / f"{number}.wav", sound, 16_000)
        rows.append(Row(str(number), f"{number}.wav", len(time) / 16_000,
                        labels=[("low", "high")[number % 2]]))
    write_manifest(folder / "train.jsonl", rows)
    (folder / "recipe.yaml").write_text(RECIPE.format(whisper=tiny_teacher), encoding="utf-8")
    return folder / "recipe.yaml"


def test_states_are_the_encoders_own(whisper):
    """Against transformers' encoder on its full window."""
    tagger = from_whisper(whisper, ["a", "b"])
    features = torch.randn(1, 80, 3000)
    with torch.no_grad():
        hidden = whisper.model.encoder(features, output_hidden_states=True).hidden_states
        states = tagger.states(features)
    assert states.shape == (1, 2, 75, 32)
    first = hidden[1][0].view(75, 20, 32).mean(1)  # the last one comes after a norm
    torch.testing.assert_close(states[0, 0], first, atol=1e-5, rtol=1e-4)


def test_first_layers_alone(whisper):
    tagger, whole = from_whisper(whisper, ["a"], layers=1), from_whisper(whisper, ["a"])
    features = torch.randn(1, 80, 200)
    assert_same_but_rounding(tagger.states(features), whole.states(features)[:, :1])
    with pytest.raises(ValueError, match="at most 2, got 3"):
        from_whisper(whisper, ["a"], layers=3)


@pytest.mark.parametrize("samples", [2_400, 16_000, 64_123, 16_000 * 65])
def test_audio_of_any_length(whisper, samples):
    tagger = from_whisper(whisper, ["a", "b", "c"])
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    inputs = WhisperTaggerExtractor()(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        output = tagger(**inputs)
    steps = -(-inputs["input_features"].shape[2] // FRAMES_PER_STEP)
    assert output.frame_logits.shape == (1, steps, 3) and output.logits.isfinite().all()
    valid = output.frame_logits[0][output.frame_mask[0]]
    expected = torch.logit(1 - 1 / (1 + valid.exp().mean(0)))
    torch.testing.assert_close(output.logits[0], expected, atol=1e-4, rtol=1e-3)


def test_pool_hears_a_short_sound_and_leaves_padding_out():
    steps = torch.full((1, 10, 1), -8.0)
    steps[0, 3] = 6.0
    assert pool(steps).item() > 3.5 > steps.mean().item()
    padded = torch.cat([steps, torch.full((1, 5, 1), 50.0)], 1)
    torch.testing.assert_close(pool(padded, torch.arange(15)[None] < 10), pool(steps))


def test_trains_from_kept_states_and_loads_by_auto_classes(recipe, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

    train([str(recipe), f"output_dir={tmp_path}"])
    student = tmp_path / "student"
    model = AutoModelForAudioClassification.from_pretrained(student)
    assert isinstance(model, WhisperTagger)
    assert isinstance(AutoFeatureExtractor.from_pretrained(student), WhisperTaggerExtractor)
    assert model.config.id2label == {0: "high", 1: "low"}
    tagger = pipeline("audio-classification", str(student))
    for number, label in enumerate(("low", "high")):
        wave = soundfile.read(recipe.parent / f"{number}.wav", dtype="float32")[0]
        found = tagger(wave, top_k=2)
        assert found[0]["label"] == label
        assert found[0]["score"] > 0.5 > found[1]["score"]  # sigmoid, not applied twice
    weights = model.encoder.layers[0].fc1.weight
    task = build_task(load_recipe(str(recipe), [f"output_dir={tmp_path}"]), Accelerator())
    torch.testing.assert_close(task.tagger.encoder.layers[0].fc1.weight.cpu(), weights)


def test_states_are_read_again_and_not_computed(recipe, tmp_path, monkeypatch):
    arguments = load_recipe(str(recipe), [f"output_dir={tmp_path}"])
    first = build_task(arguments, Accelerator())
    monkeypatch.setattr(WhisperTagger, "states", None)
    again = build_task(arguments, Accelerator())
    for one, two in zip(first.states, again.states, strict=True):
        np.testing.assert_array_equal(one, two)
    one, two = first.collate([(0, 3), (1, 3)]), again.collate([(0, 3), (1, 3)])
    torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("override, key", [
    ("head.head_dropout=1", "head.head_dropout"), ("head.mixup_probability=2", "mixup_probability"),
    ("head.head_size=0", "head.head_size"), ("head.head_type=big", "head.head_type"),
    ("encoder_batch_size=0", "encoder_batch_size"),
    ("head.mask_step=1", "mask_steps"), ("train.batch_tokens=9", "train.batch_tokens"),
    ("train.gradient_checkpointing=true", "train.gradient_checkpointing"),
])
def test_errors_name_the_key(recipe, override, key):
    with pytest.raises(ConfigError, match=key):
        load_recipe(str(recipe), [override])


def test_rows_without_labels_are_refused(recipe, tmp_path):
    write_manifest(recipe.parent / "none.jsonl", [Row("x", "0.wav", 1.0)])
    with pytest.raises(ValueError, match="row x has no `labels`"):
        build_task(load_recipe(str(recipe), ["data.train=[none.jsonl]"]), Accelerator())


def test_a_clip_is_heard_as_if_it_were_alone(whisper):
    """Whatever else is in the batch: something louder, something longer."""
    tagger = from_whisper(whisper, ["a", "b"])
    torch.nn.init.normal_(tagger.head.out.weight)
    noise = np.random.default_rng(0).standard_normal(49_000).astype(np.float32)
    alone = WhisperTaggerExtractor()(noise, sampling_rate=16_000, return_tensors="pt")
    features = alone["input_features"]
    loud = features * 5 - 10
    assert features.shape[2] % FRAMES_PER_STEP and loud.min() < features.min()
    assert_same_but_rounding(tagger.states(torch.cat([features, loud]))[:1],
                             tagger.states(features))
    padded = torch.nn.functional.pad(features, (0, 400))
    mask = torch.ones(2, padded.shape[2])
    mask[0, features.shape[2] :] = 0
    with torch.no_grad():
        both = tagger(torch.cat([padded, torch.randn_like(padded)]), mask)
        torch.testing.assert_close(both.logits[:1], tagger(features).logits)


def test_a_last_half_step_counts_and_less_does_not():
    assert [num_steps(frames) for frames in (1, 59, 60, 499, 500, 520)] == [1, 1, 2, 12, 13, 13]


def test_lengths_are_those_of_use_and_what_cannot_be_read_is_named(recipe, tmp_path, capsys):
    folder = recipe.parent
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 31)
    soundfile.write(folder / "long.wav", noise, 16_000)
    (folder / "bad.wav").write_bytes(b"RIFF, but nothing more")
    soundfile.write(folder / "none.wav", noise[:0], 16_000)
    rows = [Row("long", "long.wav", 31.0, labels=["low"]),
            Row("bad", "bad.wav", 1.0, labels=["low"]), Row("odd", "long.wav", 4.9, labels=["a"]),
            Row("odd", "long.wav", 4.9, labels=["a"]), Row("none", "none.wav", 1.0, labels=["a"]),
            Row("half", "long.wav", 5.0, offset=2.0, labels=["a"])]
    write_manifest(folder / "mixed.jsonl", rows)
    arguments = load_recipe(str(recipe), [
        f"output_dir={tmp_path}", "data.train=[mixed.jsonl]", "data.validation=[mixed.jsonl]",
        "head.mixup_probability=1", "head.mask_steps=0", "data.max_unreadable=0.5"])
    for _ in range(2):  # found, and read again
        task = build_task(arguments, Accelerator())
        assert [row.id for row in task.rows] == ["long", "odd", "half"]
        assert [each.shape[1] for each in task.states] == [78, 12, 13]
        assert task.drops == {"duplicate_clip": 1, "unreadable": 1, "empty": 1}
        said = capsys.readouterr().out
        assert said.count("Cannot read clip bad: unreadable") == 2, "in both splits"
        assert "3 clips (dropped: 1 duplicate_clip, 1 empty, 1 unreadable)" in task.describe()
    with pytest.raises(ValueError, match="training stops: 2 of 5 .*data.max_unreadable"):
        arguments.data.max_unreadable = 0.05
        build_task(arguments, Accelerator())
    with torch.no_grad():
        inputs = task.extractor(noise[: 16_000 * 5], sampling_rate=16_000, return_tensors="pt")
        assert task.tagger(**inputs).frame_mask.sum() == 13
    mixed = task._mixed(*(torch.from_numpy(task.states[n]).float() for n in (1, 0)), 0.75)
    assert mixed.shape[1] == 78  # a label of half a minute is not learned from five seconds of it
    rest = torch.from_numpy(task.states[0][:, 12:]).float()
    torch.testing.assert_close(mixed[:, 12:], 0.75 * task.silence + 0.25 * rest)


def test_other_sound_in_a_file_of_the_same_name_is_noticed(recipe, tmp_path):
    folder = recipe.parent
    time = np.arange(16_000) / 16_000

    def labels_hash(pitch: int, offset: float) -> str:
        soundfile.write(folder / "same.wav", 0.5 * np.sin(2 * np.pi * pitch * time), 16_000)
        write_manifest(folder / "same.jsonl",
                       [Row("x", "same.wav", 0.5, offset=offset, labels=["a"])])
        return build_task(load_recipe(str(recipe), [
            f"output_dir={tmp_path}", "data.train=[same.jsonl]", "data.validation=[]"]),
            Accelerator()).labels_hash

    hashes = [labels_hash(*each) for each in ((300, 0.0), (300, 0.0), (301, 0.0), (301, 0.3))]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_a_validation_split_without_a_positive_is_refused_first(recipe, tmp_path, monkeypatch):
    write_manifest(recipe.parent / "none.jsonl", [Row("x", "0.wav", 1.0, labels=["zebra"])])
    monkeypatch.setattr(WhisperTagger, "states", None)
    with pytest.raises(ValueError, match="data.validation: not one row has a label of the train"):
        build_task(load_recipe(str(recipe), [
            f"output_dir={tmp_path}", "data.validation=[none.jsonl]"]), Accelerator())


def test_a_plan_is_refused_in_a_sentence(recipe):
    from distill.plan import main as plan

    with pytest.raises(ConfigError, match="no plan of method 'whisper_at'"):
        plan([str(recipe)])


def test_a_validation_split_whose_positives_cannot_be_read_is_refused(recipe, tmp_path):
    (recipe.parent / "lost.wav").write_bytes(b"RIFF, but nothing more")
    write_manifest(recipe.parent / "lost.jsonl", [Row("x", "lost.wav", 1.0, labels=["low"]),
                                                  Row("y", "0.wav", 1.0, labels=[])])
    with pytest.raises(ValueError, match="data.validation: not one row has a label"):
        build_task(load_recipe(str(recipe), [
            f"output_dir={tmp_path}", "data.validation=[lost.jsonl]"]), Accelerator())
