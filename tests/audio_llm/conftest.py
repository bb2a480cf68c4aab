import pytest
import torch

from distill.audio_llm.language_model import load_language_model
from distill.audio_llm.model import AudioLlm
from distill.audio_llm.recipe import (
    AdapterConfig,
    EncoderConfig,
    LanguageModelConfig,
    LoraSettings,
)
from distill.audio_llm.settings import Settings
from tests.support.tiny_llm import write_tiny_llm

WIDTH = 8  # of an encoder's states


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory):
    return write_tiny_llm(tmp_path_factory.mktemp("llm") / "model")


def settings(llm, revision, **changes) -> Settings:
    return Settings(**{
        "encoder": EncoderConfig(model="encoder"), "encoder_revision": "e", "width": WIDTH,
        "layers": 1,
        "language_model": LanguageModelConfig(model=str(llm)), "language_model_revision": revision,
        "adapter": AdapterConfig(frame_ms=40, hidden_size=16), "layout": "user",
        "lora": LoraSettings(rank=2, alpha=4)} | changes)


@pytest.fixture
def make(tiny_llm):
    def made(**changes) -> AudioLlm:
        found = load_language_model(LanguageModelConfig(model=str(tiny_llm)))
        torch.manual_seed(1)
        return AudioLlm.new(found, settings(tiny_llm, found.revision, **changes))

    return made
