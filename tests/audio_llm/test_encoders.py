"""Encoders other than Whisper's: a CED tagger's, and a function of the user's."""

import json

import numpy as np
import pytest

from distill.audio_llm.data.encoders import load_encoder
from distill.audio_llm.recipe import AdapterConfig, EncoderConfig
from distill.ced.model.extractor import CedFeatureExtractor
from distill.ced.model.modeling import new_model
from distill.config import ConfigError
from distill.train import main as train
from eval.__main__ import main as evaluate
from eval.audio_llm.ask import main as ask
from tests.audio_llm.test_training import load, recipe  # noqa: F401

OWN = """
import numpy as np

class Levels:
    frame_ms, revision = {frame_ms}, "levels-1"

    def encode(self, waves):
        size = 16 * self.frame_ms
        return [np.stack([np.log(np.abs(wave[at : at + size]).mean() + 1e-6) * np.ones(6)
                          for at in range(0, len(wave) - size + 1, size)])
                for wave in waves]

def make(device):
    return Levels()

def broken(device):
    return object()
"""


@pytest.fixture
def ced(tmp_path):
    new_model("tiny", ["a", "b"], hidden_size=16, num_attention_heads=2,
              num_hidden_layers=1).save_pretrained(tmp_path / "ced")
    CedFeatureExtractor().save_pretrained(tmp_path / "ced")
    return str(tmp_path / "ced")


@pytest.fixture
def own(tmp_path, monkeypatch):
    def write(name: str, frame_ms: int = 40) -> None:
        (tmp_path / f"{name}.py").write_text(OWN.format(frame_ms=frame_ms))

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def test_ced(ced):
    encoder = load_encoder(EncoderConfig(ced, "ced"), AdapterConfig(frame_ms=320), "cpu")
    generator = np.random.default_rng(0)
    waves = [generator.standard_normal(n).astype(np.float32) for n in (24_000, 8_000, 1_000)]
    found = encoder.encode(waves)
    assert [each.shape for each in found] == [(9, 16), (3, 16), (1, 16)], "a step is 160 ms"
    (alone,) = encoder.encode(waves[1:2])
    assert np.allclose(found[1], alone, atol=2e-3), "padding is not heard"
    other = load_encoder(EncoderConfig(ced, "ced"), AdapterConfig(), "cpu")
    assert other.revision == encoder.revision != ""


@pytest.mark.parametrize("kind", ["ced", "callable"])
def test_from_training_to_an_answer(recipe, ced, own, tmp_path, kind, capsys):  # noqa: F811
    own("levels_of")
    model, frame = {"ced": (ced, 320), "callable": ("levels_of:make", 120)}[kind]
    run, manifest = tmp_path / "run", recipe.parent / "train.jsonl"
    words = [str(recipe), f"output_dir={run}", f"encoder.model={model}", f"encoder.kind={kind}",
             f"adapter.frame_ms={frame}", f"data.test=[{manifest}]", "evaluation.num_bootstrap=20",
             "train.max_steps=2", "train.validate_every=2",
             "stages=[{name: listen, trains: [adapter, lora], batch_size: 4}]"]
    train(words)
    settings = json.loads((run / "student/audio_llm.json").read_text())
    assert settings["encoder_ms"] == {"ced": 160, "callable": 40}[kind]
    assert settings["encoder"]["kind"] == kind
    evaluate(words)
    found = json.loads((run / "eval/results.json").read_text())
    assert "wer" in found and "cascade_wer" not in found, "these encoders do not write"
    assert ask([str(recipe.parent / "0.wav"), "--model", str(run / "student"),
                "--max-new-tokens", "3"]) == 0
    assert "WER" in capsys.readouterr().out


def test_what_does_not_fit(recipe, ced, own, tmp_path):  # noqa: F811
    own("half_of", frame_ms=30)
    for overrides, message in (
            (["encoder.kind=x"], "encoder.kind must be one of"),
            (["encoder.kind=ced"], "frame_ms must be a multiple of the encoder's 160 ms"),
            (["encoder.kind=ced", "adapter.kind=tltr", "adapter.frame_ms=160"],
             "TLTR is over layers of a Whisper")):
        with pytest.raises(ConfigError, match=message):
            load(recipe, tmp_path, *overrides)
    config = AdapterConfig()
    with pytest.raises(ValueError, match="no_such_module:make cannot be imported"):
        load_encoder(EncoderConfig("no_such_module:make", "callable"), config, "cpu")
    with pytest.raises(ValueError, match="returns has no frame_ms"):
        load_encoder(EncoderConfig("half_of:broken", "callable"), config, "cpu")
    with pytest.raises(ValueError, match="has no .*safetensors; published weights become"):
        load_encoder(EncoderConfig(str(tmp_path), "ced"), config, "cpu")
    words = [str(recipe), f"output_dir={tmp_path}/run", "encoder.kind=callable",
             "encoder.model=half_of:make"]
    with pytest.raises(ValueError, match="multiple of the encoder's 30 ms, got 80"):
        train(words)
