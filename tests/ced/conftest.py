"""A tiny tagger, sounds and features; `tiny_tags` has corpora and recipes."""

import numpy as np
import pytest
import torch

from distill.ced.model.modeling import CedForAudioClassification, new_model
from tests.ced.tiny_tags import make_tags, tags, toys  # noqa: F401

LABELS = ["bark", "rain", "bell", "siren", "speech"]


def wave(seconds: float, gain: float = 0.3, seed: int = 0) -> np.ndarray:
    """Noise and a tone, float32 (samples,) at 16 kHz."""
    count = round(seconds * 16_000)
    noise = np.random.default_rng(seed).standard_normal(count)
    tone = np.sin(2 * np.pi * 440 * np.arange(count) / 16_000)
    return (gain * (tone + 0.3 * noise)).astype(np.float32)


def spectrogram(frames: int, seed: int = 0) -> torch.Tensor:
    """Features (64, frames) in dB."""
    return 20 * torch.randn(64, frames, generator=torch.Generator().manual_seed(seed)) - 30


def make_tagger(**overrides) -> CedForAudioClassification:
    """A random tagger of width 128, as trained: its normalisation is not the initial one."""
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = new_model("tiny", LABELS, **(shape | overrides)).eval()
    with torch.no_grad():
        model.init_bn.running_mean.normal_(-30, 5)
        model.init_bn.running_var.uniform_(200, 600)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def tagger() -> CedForAudioClassification:
    return make_tagger()


@pytest.fixture(scope="session")
def tagger_folder(tmp_path_factory):
    """The same as a folder that the Auto classes load; not to be changed."""
    from distill.ced.model.extractor import CedFeatureExtractor

    folder = tmp_path_factory.mktemp("tagger")
    make_tagger().save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return folder
