"""Short clips with silence kept: what is exact, and what is not."""

import math
import shutil

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from distill.data.audio import load_audio
from distill.data.manifest import read_manifest
from distill.whisper.encoder.audio import (
    audio_features,
    complete,
    encode_audio,
    encode_features,
)
from distill.whisper.encoder.layers import attend_with_silence
from distill.whisper.encoder.lengths import positions_of
from distill.whisper.encoder.level import LEVEL, LOUDEST
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.encoder.short import encode_short, short_features
from distill.whisper.encoder.silence import (
    VOICES,
    encode_silence,
    silence_of,
    with_silence,
)


@pytest.fixture
def clip(demo_data) -> np.ndarray:
    row = read_manifest(demo_data / "validation.jsonl")[0][0]
    return load_audio(row.audio_filepath, row.offset, row.duration)


@pytest.mark.parametrize(("seconds", "margin", "positions"), [
    (0.0, 0.0, 0), (0.01, 0.0, 25), (2.0, 1.0, 150), (2.0, None, 1500), (5.01, 1.0, 350),
    (11.1, 0.5, 600), (11.5, 0.51, 700), (22.9, 1.0, 1500), (24.0, 1.0, 1500), (29.0, 1.0, 1500)])
def test_positions(seconds, margin, positions):
    assert positions_of(seconds, margin) == positions


def test_features_are_those_of_the_padded_window_moved(tiny_processor, clip):
    padded = log_mel(tiny_processor, [clip])[0]
    (short,), loud = short_features(tiny_processor, [clip], 200)
    assert loud == [True] and short.shape == (80, 402) and short.max() == pytest.approx(LOUDEST)
    torch.testing.assert_close(short - short.max(), padded[:, :402] - padded.max(),
                               rtol=0, atol=2e-6)
    silent = padded[:, 402:] - padded.max() + LOUDEST  # what is left out is silence
    torch.testing.assert_close(silent, torch.full_like(silent, LEVEL), rtol=0, atol=2e-6)
    assert short_features(tiny_processor, [1e-4 * clip], 150)[1] == [False]
    assert short_features(tiny_processor, [np.zeros(9000, np.float32)], 150)[1] == [False]


def test_nearly_all_positions_are_what_transformers_computes(tiny_model, tiny_processor, clip):
    """Only ten positions of silence are not computed."""
    features, _ = short_features(tiny_processor, [clip, clip[::-1].copy()], 1490)
    whole = torch.cat([features[..., :2980], torch.full((2, 80, 20), LEVEL)], -1)
    theirs = encode(tiny_model, whole)[:, :1490]
    ours = encode_short(tiny_model.get_encoder(), features)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)


def test_a_voice_of_the_silence_is_exact(tiny_model, tiny_processor, clip, tmp_path, monkeypatch):
    """Nothing is neglected of a clip behind which the silence was heard, if all of it is kept."""
    for module in ("level", "silence"):
        monkeypatch.setattr(f"distill.whisper.encoder.{module}.EVERY", 1)
    (voice,) = (file for file in VOICES.glob("0-*.ogg"))
    shutil.copyfile(voice, tmp_path / voice.name)
    other = WhisperForConditionalGeneration(tiny_model.config).eval()  # nothing is kept of it
    monkeypatch.setattr("distill.whisper.encoder.silence.VOICES", tmp_path)
    audio = load_audio(voice)
    positions = math.ceil(50 * (len(audio) / 16_000 + 0.5))
    features, _ = short_features(tiny_processor, [audio], positions)
    frames = features.shape[-1]
    whole = torch.cat([features, torch.full((1, 80, 3000 - frames), LEVEL)], -1)
    states = encode_short(other.get_encoder(), features)
    assert states.shape == (1, positions, 32)
    ours = with_silence(states, silence_of(other.get_encoder()))
    torch.testing.assert_close(ours, encode(other, whole), rtol=0, atol=1e-4)


def test_silence_is_a_mean_over_voices(tiny_model, tiny_processor):
    """Of each position, over those that are silent there; at first there is silence alone."""
    encoder, files = tiny_model.get_encoder(), sorted(VOICES.glob("*.ogg"))
    audios = [load_audio(file) for file in files]
    assert len(audios) == 5 and len({file.stem.split("-")[1] for file in files}) == 5
    states = []
    for audio in audios:
        features, _ = short_features(tiny_processor, [audio], 1499)
        states.append(encode(tiny_model, torch.cat([features[..., :2998], torch.full(
            (1, 80, 2), LEVEL)], -1))[0])
    found = silence_of(encoder).states
    torch.testing.assert_close(found[1000], torch.stack(states)[:, 1000].mean(0),
                               rtol=0, atol=1e-3)
    seconds = sorted(len(audio) / 16_000 + 0.5 for audio in audios)
    first = math.ceil(50 * seconds[0])
    assert first < 50 * seconds[1] - 1  # one voice
    shortest = min(range(5), key=lambda n: len(audios[n]))
    torch.testing.assert_close(found[first], states[shortest][first], rtol=0, atol=1e-3)
    alone = encode(tiny_model, torch.full((1, 80, 3000), LEVEL))[0]
    torch.testing.assert_close(found[: first - 1], alone[: first - 1], rtol=0, atol=1e-3)


def test_silence_is_kept_on_disk(tiny_model, tmp_path, monkeypatch):
    from distill.whisper.encoder import silence, silence_cache

    model = WhisperForConditionalGeneration(tiny_model.config).eval()
    encoder, passes = model.get_encoder(), []
    monkeypatch.setattr(silence, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(silence, "encode_silence",
                        lambda encoder: (passes.append(1), encode_silence(encoder))[1])

    def made_anew() -> int:
        silence._kept.clear()
        before = len(passes)
        found = silence_of(encoder)
        assert all(torch.equal(a, b) for a, b in zip(
            (*found.keys, *found.values, found.states), first, strict=True))
        return len(passes) - before

    first = silence_of(encoder)
    first = (*first.keys, *first.values, first.states)
    assert made_anew() == 1 and not list(tmp_path.iterdir())  # a small one, which also learns
    monkeypatch.setattr(silence_cache, "_WORTH", 0)
    assert made_anew() == 1 and not list(tmp_path.iterdir())
    model.requires_grad_(False)
    assert [made_anew(), made_anew()] == [1, 0]
    with monkeypatch.context() as patch:
        patch.setattr(silence_cache, "Int8Linear", torch.nn.Linear)
        assert made_anew() == 1  # its weights could not be told apart
    (file,) = (tmp_path / "silence").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert [made_anew(), made_anew()] == [1, 0]
    with torch.no_grad():
        encoder.conv1.weight.mul_(1.01)
    silence_of(encoder)
    assert len(list((tmp_path / "silence").iterdir())) == 2  # of other weights


def test_silence_is_made_again_for_other_weights(tiny_model):
    before = silence_of(tiny_model.get_encoder())
    assert silence_of(tiny_model.get_encoder()) is before
    with torch.no_grad():
        tiny_model.model.encoder.layers[0].fc1.weight.mul_(2.0)
    assert not torch.equal(silence_of(tiny_model.get_encoder()).states, before.states)


def test_clips_of_many_lengths(tiny_model, tiny_processor, clip):
    """Each is encoded at its own length; a faint one is padded; all in one tensor."""
    audios = [clip[:8000], clip, 1e-4 * clip, np.tile(clip, 3), clip[:9000]]
    features = audio_features(tiny_processor, audios, 1.0)
    assert [(clips, positions) for clips, positions, _ in features.groups] == [
        ([0], 75), ([4], 100), ([1], 250), ([3], 600), ([2], None)]
    assert features.short == {0, 1, 3, 4}
    states = encode_features(tiny_model.get_encoder(), features)
    assert states.shape == (5, 1500, 32)
    silence = silence_of(tiny_model.get_encoder()).states
    for row, positions in ((0, 75), (1, 250), (4, 100), (3, 600)):
        alone = encode_short(tiny_model.get_encoder(),
                             short_features(tiny_processor, [audios[row]], positions)[0])[0]
        torch.testing.assert_close(states[row, :positions], alone, rtol=0, atol=1e-4)
        assert torch.equal(states[row, positions:], silence[positions:])
    parts = features.split(2)
    assert [part.num_clips for part in parts] == [2, 2, 1]
    first = encode_features(tiny_model.get_encoder(), parts[0])
    assert first.shape == (2, 250, 32)
    torch.testing.assert_close(first, states[:2, :250], rtol=0, atol=1e-4)
    again = features.padded([3, 2])
    padded = torch.cat([each for *_, each in again.groups])
    expected = log_mel(tiny_processor, [audios[3], audios[2]])
    torch.testing.assert_close(padded[1], expected[1])
    torch.testing.assert_close(padded[0] - padded[0].max(), expected[0] - expected[0].max(),
                               rtol=0, atol=2e-6)


def test_nothing_changes_for_a_model_that_pads(tiny_model, tiny_processor, clip):
    states = encode_audio(tiny_model, tiny_processor, [clip])
    again = encode(tiny_model, log_mel(tiny_processor, [clip]))  # other memory, maybe other kernels
    torch.testing.assert_close(states, again, rtol=0, atol=1e-4)
    assert complete(tiny_model, states[:, :100]).shape == (1, 100, 32)
    tiny_model.config.short_audio = {"margin_seconds": 0.5}
    assert encode_audio(tiny_model, tiny_processor, [clip]).shape == (1, 225, 32)
    assert complete(tiny_model, states[:, :100]).shape == (1, 1500, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_in_two_parts(dtype):
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (2 * torch.randn(3, 2, 40, 16, generator=generator) for _ in range(3))
    silent_keys, silent_values = (2 * torch.randn(2, 70, 16, generator=generator)
                                  for _ in range(2))
    every_key, every_value = (torch.cat([own, silent.expand(3, -1, -1, -1)], 2) for own, silent in
                              ((keys, silent_keys), (values, silent_values)))
    weights = torch.zeros(110)
    weights[40:] = 0.7  # of silence
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, every_key, every_value, weights[None])
    found = attend_with_silence(*(each.to(dtype) for each in (
        query, keys, values, silent_keys, silent_values)), 0.7)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)
