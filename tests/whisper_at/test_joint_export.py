"""One encoder file with two answers: keys and values for the decoder, and what is heard."""

import json

import numpy as np
import pytest
import torch

from distill.whisper.encoder.audio import audio_features, complete, encode_features
from distill.whisper.encoder.layer_means import LayerMeans
from distill.whisper.encoder.lengths import set_margin
from distill.whisper.encoder.padded import log_mel
from distill.whisper.export.encoder_graph import Encoder, ShortEncoder, Sounds
from distill.whisper.export.sherpa import ENCODER_OUTPUTS, SOUND_OUTPUTS, write_sherpa
from distill.whisper_at.heads import make_head
from distill.whisper_at.joint import HeadSettings, SoundHead

HEADS = [(0, 1), (1, 0)]


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def sounds_of(kind: str, size: int | None) -> SoundHead:
    torch.manual_seed(0)
    head = make_head(kind, 1, 32, size, 3, 0.0)
    return SoundHead(HeadSettings(["a", "b", "c"], 1, 32, kind, size), head)


@torch.no_grad()
def compare(ours: SoundHead, model, processor, seconds: float, found) -> None:
    """Outputs of a graph with what we say, which transcribe."""
    keys, _, clip, steps = (torch.as_tensor(each) for each in found)
    audio, heard = noise(seconds), LayerMeans()
    margin = (getattr(model.config, "short_audio", None) or {}).get("margin_seconds")
    states = encode_features(model.get_encoder(), audio_features(processor, [audio], margin), heard)
    expected_steps, expected = ours(heard[0], seconds)
    # keys and values of silence are float16 in a graph of short audio
    torch.testing.assert_close(clip[0], expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(steps[0, : len(expected_steps)], expected_steps, atol=2e-3, rtol=0)
    assert not steps[0, len(expected_steps) :].any(), "behind the clip nothing is heard"
    attention = model.model.decoder.layers[1].encoder_attn
    torch.testing.assert_close(keys[1], attention.k_proj(complete(model, states)), atol=5e-3,
                               rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("margin", [None, 1.0])
@pytest.mark.parametrize("kind, size", [("layer_sum", 8), ("tltr", None)])
def test_the_graph_hears_what_we_hear(tiny_model, tiny_processor, kind, size, margin):
    set_margin(tiny_model, margin)
    ours = sounds_of(kind, size)
    graph = (Encoder if margin is None else ShortEncoder)(
        tiny_model, Sounds(ours.head, 1, ours.classes)).eval()
    for seconds in (0.7, 2.0, 28.0):
        mel = log_mel(tiny_processor, [noise(seconds)])
        compare(ours, tiny_model, tiny_processor, seconds, graph(mel))


@pytest.mark.slow
@pytest.mark.parametrize("kind, size", [("layer_sum", 8), ("tltr", None)])
def test_the_file_hears_what_we_hear(tiny_model, tiny_processor, tmp_path, kind, size):
    onnxruntime = pytest.importorskip("onnxruntime")
    set_margin(tiny_model, 1.0)
    ours = sounds_of(kind, size)
    write_sherpa(tiny_model, tiny_processor.tokenizer, tmp_path, HEADS,
                 Sounds(ours.head, 1, ours.classes))
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    assert [each.name for each in session.get_outputs()] == [*ENCODER_OUTPUTS, *SOUND_OUTPUTS]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["sound_classes"]) == ["a", "b", "c"]
    for seconds in (2.0, 28.0):
        mel = log_mel(tiny_processor, [noise(seconds)]).numpy()
        compare(ours, tiny_model, tiny_processor, seconds, session.run(None, {"mel": mel}))


@pytest.mark.slow
def test_sherpa_onnx_leaves_the_sounds_alone(tiny_model, tiny_processor, tmp_path):
    """It reads the same file, and says what it says without them."""
    from distill.whisper.export.runtimes import sherpa_onnx

    pytest.importorskip("sherpa_onnx")
    ours, said = sounds_of("layer_sum", 8), []
    for name, sounds in (("plain", None), ("both", Sounds(ours.head, 1, ours.classes))):
        (tmp_path / name).mkdir()
        write_sherpa(tiny_model, tiny_processor.tokenizer, tmp_path / name, HEADS, sounds)
        runtime = sherpa_onnx(tmp_path / name, "float32", "transcribe", 1)
        said.append(runtime.transcribe(noise(2.0), "en"))
    assert said[0] == said[1]
