"""Cross-attention of text into the encoder: what is exact, and that the rest learns."""

import copy

import numpy as np
import pytest
import torch

from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.layer_means import LayerMeans
from distill.whisper.encoder.layers import attend_with_silence
from distill.whisper.encoder.lengths import set_margin
from distill.whisper.encoder.prompt_reader import (
    GatedCrossAttention,
    PromptReader,
    encode_about,
    entered_states,
)

WIDTH = 24  # of the text's states


@pytest.fixture
def audios() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    return [0.1 * noise.standard_normal(16_000 * seconds, dtype=np.float32)
            for seconds in (2, 5, 2)]


def texts(*lengths: int) -> list[torch.Tensor | None]:
    torch.manual_seed(1)
    return [torch.randn(length, WIDTH) if length else None for length in lengths]


def trained(model, layers: int):
    """As after a training: with gates that are open."""
    model = copy.deepcopy(model)
    torch.manual_seed(2)
    model.prompt_reader = PromptReader(2, layers, 32, WIDTH)
    for layer in model.prompt_reader.layers:
        layer.gate.data.fill_(0.5)
    return model


@pytest.mark.parametrize("margin", [None, 1.0])
@pytest.mark.parametrize("layers", [1, 2])
def test_without_a_text_the_encoder_is_the_teachers(tiny_model, tiny_processor, audios, layers,
                                                    margin):
    """Bit for bit, trained or not, alone or beside rows that have one."""
    model = trained(tiny_model, layers)
    set_margin(model, margin)
    features = audio_features(tiny_processor, audios, margin)
    plain = encode_features(model.get_encoder(), features)
    assert torch.equal(encode_about(model, features, [None] * 3), plain)
    assert torch.equal(encode_about(model, features, None), plain)
    found = encode_about(model, features, texts(0, 7, 3))
    assert torch.equal(found[0], plain[0])
    assert not torch.allclose(found[1], plain[1]) and not torch.allclose(found[2], plain[2])
    if margin is not None:  # behind a short clip is the silence that was there before
        own = 150
        assert torch.equal(found[2][own:], plain[2][own:])
        assert not torch.allclose(found[2][:own], plain[2][:own])
    for layer in model.prompt_reader.layers:  # untrained, with a text
        layer.gate.data.zero_()
    torch.testing.assert_close(encode_about(model, features, texts(4, 7, 3)), plain,
                               rtol=0, atol=1e-4)


@pytest.mark.parametrize("margin", [None, 1.0])
def test_a_row_is_what_it_is_alone(tiny_model, tiny_processor, audios, margin):
    """Padding of texts is not read, nor what other rows read."""
    model, given = trained(tiny_model, 2), texts(3, 9, 0)
    set_margin(model, margin)
    both = encode_about(model, audio_features(tiny_processor, audios, margin), given)
    for row, audio in enumerate(audios):
        alone = encode_about(model, audio_features(tiny_processor, [audio], margin),
                             given[row : row + 1])[0]
        torch.testing.assert_close(both[row][: len(alone)], alone, rtol=0, atol=1e-4)
    heard = LayerMeans()
    encode_about(model, audio_features(tiny_processor, audios, margin), given, heard)
    assert len(heard[0]) == 2  # other listeners hear the layers, too


def test_nothing_to_read_adds_exactly_nothing():
    layer = GatedCrossAttention(32, WIDTH)
    layer.gate.data.fill_(3.0)
    text, mask = torch.randn(2, 5, WIDTH), torch.zeros(2, 5, dtype=torch.bool)
    mask[0, :2] = True
    found = layer(torch.randn(2, 7, 32), text, mask)
    assert found[0].abs().min() > 0 and not found[1].any()
    assert not [name for name, _ in layer.named_parameters() if "bias" in name]
    assert sum(p.numel() for p in layer.parameters()) == 2 * 32 * 32 + 2 * 32 * WIDTH + 32 + 2


def test_the_gate_opens_first_and_only_readers_get_a_gradient(tiny_model, tiny_processor, audios):
    model = trained(tiny_model, 2)
    model.requires_grad_(False).prompt_reader.requires_grad_(True)
    reader, encoder = model.prompt_reader, model.get_encoder()
    for layer in reader.layers:
        layer.gate.data.zero_()
    features = audio_features(tiny_processor, audios, 1.0)
    entered = entered_states(encoder, features, reader)
    weights = torch.randn(300, 32)

    def backward(given) -> dict[str, torch.Tensor]:
        reader.zero_grad()
        found = reader.finish_each(encoder, entered, given)
        sum((states * weights[: len(states)]).sum() for states in found).backward()
        return {name: p.grad for name, p in reader.named_parameters()}

    first = backward(texts(2, 4, 0))
    assert all(first[name].any() == ("gate" in name) for name in first)
    for layer in reader.layers:
        layer.gate.data.fill_(0.1)
    assert all(each.any() for each in backward(texts(2, 4, 0)).values())
    without = backward([None] * 3)  # in training the reader is passed anyway: every rank has one
    assert not any(each.any() for each in without.values())
    assert all(p.grad is None for p in encoder.parameters())


def test_gradients_reach_through_silence():
    """The two halves of a short clip's attention are joined by what has no gradient."""
    torch.manual_seed(0)
    query, keys, values = (torch.randn(2, 2, 6, 8, requires_grad=True) for _ in range(3))
    silence = torch.randn(2, 2, 5, 8)
    with torch.no_grad():
        apart = attend_with_silence(query, keys, values, *silence, 0.7)
    joined = attend_with_silence(query, keys, values, *silence, 0.7)
    torch.testing.assert_close(apart, joined, rtol=1e-5, atol=1e-5)
    (given,) = torch.autograd.grad(joined.sum(), keys)
    step = 1e-2 * torch.ones_like(keys)
    with torch.no_grad():
        up, down = (attend_with_silence(query, keys + s, values, *silence, 0.7).sum()
                    for s in (step, -step))
    assert (up - down) / 2e-2 == pytest.approx(given.sum().item(), rel=0.05, abs=1e-3)
