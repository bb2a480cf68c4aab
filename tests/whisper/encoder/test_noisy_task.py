"""An encoder that learns to hear through noise: what it should give, and that only it moves."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distill.config import ConfigError
from distill.data.teacher_store import TeacherStore
from distill.methods import build_task
from distill.whisper.data.scoring import scores_folder, states_folder
from distill.whisper.encoder.noisy_task import EncoderTask

LEARNS = ("student.learns=encoder", "student.freeze_encoder=false", "views.teacher_hears=clean",
          "views.augment.probability=1", "views.augment.noise_probability=1",
          "views.augment.snr_db=[0,5]", "train.max_steps=4")


@pytest.fixture(params=["30 s", "own length"])
def task(request, tiny_run) -> EncoderTask:
    short = ("teacher.short_audio_margin=0.5",) * (request.param == "own length")
    recipe = tiny_run.scored(*LEARNS, *short)
    AcceleratorState._reset_state(reset_partial_state=True)
    return build_task(recipe, Accelerator(cpu=True))


def test_only_clean_states_are_stored(task):
    store = TeacherStore(states_folder(task.recipe))
    assert len(list(store.all_rows())) == len(task.source.rows)
    assert not scores_folder(task.recipe).exists()


def test_noise_is_what_it_learns_from(task):
    samples = [(index, 0) for index in range(3)]
    batch = task.collate(samples)
    count = task.count(batch)
    loss, parts = task.model(batch)
    clean = [task.source.heard_by_teacher(task.source.view(*each)) for each in samples]
    silent, _ = task.model(batch | {"input_features": task.source.features(clean)})
    assert silent / count < 1e-5 < 1e-3 < loss / count, "the store has float16"
    assert parts["states"] == loss
    alone = [task.model(task.collate([each]))[0].item() for each in samples]
    assert sum(alone) == pytest.approx(loss.item(), rel=1e-3)

    loss.backward()
    moved = {name for name, each in task.student.named_parameters() if each.grad is not None}
    assert moved and all(name.startswith(("model.encoder.layers", "model.encoder.layer_norm"))
                         for name in moved)
    with torch.no_grad():
        for each in task.student.parameters():
            if each.grad is not None:
                each -= 0.05 * each.grad / count
    assert task.model(batch)[0] < loss


def test_it_is_saved_as_any_student(task, tmp_path):
    from transformers import WhisperForConditionalGeneration

    task.save(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.decoder_layers == len(task.student.model.decoder.layers)
    assert "learn to give of noisy sound" in task.describe()


@pytest.mark.parametrize("other", [
    "student.freeze_encoder=true", "views.teacher_hears=same", "views.augment.probability=0",
    "scores.encoder_states=none", "teacher.mode=live", "student.encoder_layers=1"])
def test_what_it_needs(tiny_run, other):
    with pytest.raises(ConfigError, match="student.learns must be decoder unless|student.learns"):
        tiny_run.recipe(*LEARNS, other)


def test_it_is_another_part_or_none(tiny_run):
    with pytest.raises(ConfigError, match="student.learns must be decoder or encoder"):
        tiny_run.recipe("student.learns=both")
