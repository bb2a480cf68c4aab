"""The largest logits from an int8 copy of the output layer are those of the layer itself."""

import copy
from string import ascii_letters

import pytest
import torch

from distill.whisper.decoding import shortlist
from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.shortlist import Shortlist
from distill.whisper.decoding.whisper_decoder import WhisperDecoder

pytestmark = pytest.mark.skipif(not shortlist._has_kernel(), reason="no kernel for int8 copies")
VOCABULARY, WIDTH = 900, 64


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def weight() -> torch.Tensor:
    """With tokens that no int8 copy tells apart."""
    weight = numbers(VOCABULARY, WIDTH)
    weight[1:40] = weight[0] + 1e-4 * numbers(39, WIDTH, seed=1)
    return weight


@pytest.fixture
def small_layers_too(monkeypatch):
    monkeypatch.setattr(shortlist, "_SMALLEST_LAYER", 0)


def two_best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = logits.topk(2)
    return found.indices, found.values


@pytest.mark.parametrize("forbidden", [0.0, 0.5, 0.999])
def test_the_two_largest_are_exact(weight, forbidden):
    rows = torch.cat([30 * numbers(3, WIDTH, seed=2), weight[:1] * 5])
    rough, every = Shortlist(weight)(rows), rows @ weight.T
    assert ((rough.logits - every).abs() <= rough.bound).all()
    off = torch.rand(4, VOCABULARY, generator=torch.Generator().manual_seed(3)) < forbidden
    off[:, 7:9] = False  # two are left
    for logits in (rough.logits, every):
        logits.masked_fill_(off, -torch.inf)
    rough.refine(rough.logits)
    tokens, values = two_best(rough.logits)
    best = two_best(every)[1]
    for found in (values, every.gather(1, tokens)):  # which of two equal ones, rounding decides
        torch.testing.assert_close(found, best, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(rough.logits.logsumexp(-1), every.logsumexp(-1), atol=0.05, rtol=0)


@pytest.mark.parametrize("most", [1.0, 60.0, 400.0])  # of logits up to about 900
def test_the_two_largest_with_boosts_are_exact(weight, most):
    rows = torch.cat([30 * numbers(3, WIDTH, seed=2), weight[:1] * 5])
    rough, every = Shortlist(weight)(rows), rows @ weight.T
    rough.refine(rough.logits)
    tokens = torch.arange(0, VOCABULARY, 3)[None]
    bonus = most * numbers(1, tokens.shape[1], seed=4).abs()
    least = rough.logits.topk(2).values[:, 1:]
    rough.refine_raised(rough.logits, torch.arange(4)[:, None], tokens, bonus, least)
    for logits in (rough.logits, every):
        logits[:, tokens[0]] += bonus
    found, best = two_best(rough.logits), two_best(every)[1]
    for values in (found[1], every.gather(1, found[0])):
        torch.testing.assert_close(values, best, atol=1e-3, rtol=1e-5)


def test_a_single_token_that_is_allowed(weight):
    rough = Shortlist(weight)(numbers(1, WIDTH))
    rough.logits[:] = -torch.inf
    rough.logits[0, 5] = 1.0  # rough
    rough.refine(rough.logits)
    assert rough.logits.isfinite().sum() == 1, "nothing that is forbidden comes back"
    torch.testing.assert_close(rough.logits[0, 5], numbers(1, WIDTH)[0] @ weight[5])


def test_tokens_of_one_kind(weight):
    rows = numbers(2, WIDTH, seed=2)
    rough, every = Shortlist(weight)(rows), rows @ weight.T
    rough.settle(600)
    torch.testing.assert_close(rough.logits[:, 600:], every[:, 600:])
    rough.refine(rough.logits[:, :600])
    torch.testing.assert_close(rough.logits[:, :600].amax(-1), every[:, :600].amax(-1))


def test_a_layer_that_is_trained_is_copied_again(tiny_model, small_layers_too):
    model = copy.deepcopy(tiny_model)
    weight, decoder = model.proj_out.weight, Decoder(model)
    first = decoder.shortlist()
    assert decoder.shortlist() is first
    with torch.no_grad():
        weight.mul_(1.5)
    second = decoder.shortlist()
    assert second is not first
    weight.data = weight.data + 1.0
    assert decoder.shortlist() is not second and decoder.shortlist().is_of(weight)


def test_where_the_layer_itself_is_read(tiny_model, monkeypatch):
    hidden = numbers(1, tiny_model.config.d_model)
    assert Decoder(tiny_model).rough_logits(hidden) is None, "small"
    monkeypatch.setattr(shortlist, "_SMALLEST_LAYER", 0)
    assert Decoder(tiny_model, int8=True).rough_logits(hidden) is None
    decoder = Decoder(tiny_model)
    assert decoder.rough_logits(hidden) is not None
    assert decoder.rough_logits(hidden.repeat(shortlist.MOST_ROWS + 1, 1)) is None, "many rows"
    shared = Decoder(tiny_model, share_weights_with=decoder)
    assert shared.shortlist() is decoder.shortlist()
    assert Shortlist.of(tiny_model.proj_out.weight.half()) is None


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize(("student", "boost"), [(False, 0.0), (True, 0.0), (False, 9.0),
                                                (True, 9.0)])
def test_texts_are_those_of_all_logits(tiny_model, tiny_processor, monkeypatch, timestamps,
                                       student, boost):
    states = numbers(3, 100, tiny_model.config.d_model)
    options, listed = {"timestamps": timestamps, "on_loop": "break"}, {}
    if boost:
        words = [one + two + one for one in ascii_letters for two in ascii_letters]
        listed = {"phrases": PhraseList(tiny_processor.tokenizer, words, boost)}
    if student:
        options |= {"student": tiny_model, "draft_length": 2}

    def texts(**listed) -> list:
        decoder = WhisperDecoder(tiny_model, tiny_processor.tokenizer, "en", **options, **listed)
        return decoder(states, [30] * 3)

    every = texts(**listed)
    assert ([each.tokens for each in every] != [each.tokens for each in texts()]) == bool(boost)
    monkeypatch.setattr(shortlist, "_SMALLEST_LAYER", 0)
    monkeypatch.setattr("distill.whisper.decoding.decoder.MOST_ROWS", 12)
    calls = []
    refine = shortlist.RoughLogits.refine
    monkeypatch.setattr(shortlist.RoughLogits, "refine",
                        lambda *args: (calls.append(1), refine(*args))[1])
    found = texts(**listed)
    assert [each.tokens for each in found] == [each.tokens for each in every] and calls
    for one, other in zip(found, every, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=0.02)
