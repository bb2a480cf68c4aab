"""Mean squares of the inputs of linear layers."""

import numpy as np
import pytest
import soundfile
import torch

from distill.data.manifest import Row
from distill.whisper.export.importance import mean_squares


@pytest.fixture
def rows(tmp_path):
    noise = np.random.default_rng(0).normal(size=(3, 16_000)) * 0.1
    for number, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
    return [Row(id=str(number), audio_filepath=str(tmp_path / f"{number}.wav"), duration=1.0,
                text=f"text {number}", language="en") for number in range(3)]


def test_inputs_of_every_linear_layer(tiny_model, tiny_processor, rows):
    found = mean_squares(tiny_model, tiny_processor, rows, "en", "transcribe")
    layers = {f"{name}.weight": module for name, module in tiny_model.named_modules()
              if isinstance(module, torch.nn.Linear)}
    assert set(found) == {*layers, "model.decoder.embed_tokens.weight"}
    for name, module in layers.items():
        assert found[name].shape == (module.in_features,) and (found[name] > 0).all()
    # after its norm, an input has the norm's weight and bias as its spread and mean
    norm = tiny_model.model.decoder.layer_norm
    wanted = float((norm.weight.detach().square() + norm.bias.detach().square()).mean())
    assert found["proj_out.weight"].mean() == pytest.approx(wanted, rel=1e-3)
    assert not tiny_model.proj_out._forward_pre_hooks


def test_nothing_is_known_without_transcripts(tiny_model, tiny_processor, rows):
    silent = [Row(**{**vars(row), "text": None}) for row in rows]
    assert mean_squares(tiny_model, tiny_processor, silent, "en", "transcribe") == {}
