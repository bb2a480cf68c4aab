"""An int8 copy of the encoder."""

import pytest
import torch

from distill.whisper.encoder.int8 import Int8Linear, with_int8_encoder
from distill.whisper.encoder.padded import encode
from distill.whisper.encoder.short import encode_short
from distill.whisper.encoder.silence import silence_of


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(0))


def test_states_are_nearly_those_of_float(tiny_model, features):
    twin = with_int8_encoder(tiny_model)
    linears = [each for each in twin.get_encoder().modules() if isinstance(each, Int8Linear)]
    assert len(linears) == 6 * len(tiny_model.get_encoder().layers)
    for run in (lambda model: encode(model, features),
                lambda model: encode_short(model.get_encoder(), features[..., :402]),
                lambda model: silence_of(model.get_encoder()).states):
        theirs, ours = run(tiny_model), run(twin)
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05 * theirs.abs().max().item())


def test_a_clip_does_not_depend_on_its_batch(tiny_model, features):
    twin = with_int8_encoder(tiny_model)
    torch.testing.assert_close(encode(twin, features)[:1], encode(twin, features[:1]),
                               rtol=0, atol=2e-2)  # attention adds in another order: a step of int8


def test_the_model_itself_stays_as_it_is(tiny_model, features):
    before = encode(tiny_model, features)
    twin = with_int8_encoder(tiny_model)
    assert torch.equal(encode(tiny_model, features), before)
    assert twin.model.decoder is tiny_model.model.decoder and twin.config is tiny_model.config
    assert not any(isinstance(each, Int8Linear) for each in tiny_model.modules())
    assert {id(each) for each in twin.parameters()} < {id(each) for each in tiny_model.parameters()}
