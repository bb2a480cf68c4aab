"""The largest logits from an int8 copy of the output layer are those of the layer itself."""

import copy
from string import ascii_letters

import pytest
import torch

from distill.whisper.decoding.decoder import Decoder
from distill.whisper.decoding.output import shortlist
from distill.whisper.decoding.output.largest import at_least, largest
from distill.whisper.decoding.output.rough_products import HalfProduct, WholeProduct, best_product
from distill.whisper.decoding.output.shortlist import Shortlist
from distill.whisper.decoding.phrases.raised import Raised, reaching
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.whisper_decoder import WhisperDecoder

pytestmark = pytest.mark.skipif(best_product() is None, reason="no kernel for int8 copies")
KERNELS = [HalfProduct, *([WholeProduct] if best_product() is WholeProduct else [])]
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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("forbidden", [0.0, 0.5, 0.999])
def test_the_two_largest_are_exact(weight, forbidden, kernel):
    rows = torch.cat([30 * numbers(3, WIDTH, seed=2), weight[:1] * 5])
    rough, every = Shortlist(weight, kernel)(rows), rows @ weight.T
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
    rough, every = Shortlist(weight, best_product())(rows), rows @ weight.T
    rough.refine(rough.logits)
    tokens = torch.arange(0, VOCABULARY, 3)
    bonus = most * numbers(1, len(tokens), seed=4)[0].abs()
    enough = rough.logits.topk(2).values[:, 1]
    every[:, tokens] += bonus
    best = two_best(every)[1]
    for split in (4, 1, 0):  # rows that are looked at together
        many = [Raised(list(range(split)), tokens, bonus)] if split else []
        few = [Raised([row], tokens, bonus) for row in range(split, 4)]
        raised = torch.full_like(every, -torch.inf)
        for row, token, value in reaching(many, few, rough.logits, rough, enough):
            raised[row, token] = value
        found = two_best(torch.maximum(rough.logits, raised))
        for values in (found[1], every.gather(1, found[0])):
            torch.testing.assert_close(values, best, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_how_far_off_a_product_may_be(kernel, size):
    """Also for states of which one number is far larger than the others, and for zeros."""
    weight, rows = numbers(5000, 96), size * numbers(4, 96, seed=1)
    rows[1, 3] *= 500
    rows[2] = 0
    rough = Shortlist(weight, kernel)(rows)
    off = (rows.double() @ weight.double().T - rough.logits).abs()
    assert (off <= rough.bound).all()
    assert rough.bound[0].mean() < 0.1 * rows[0].norm()  # logits are about as long as the state


@pytest.mark.parametrize("size", [300, 4096, 5000])
def test_the_largest_by_blocks(size):
    values = numbers(3, size)
    values[0, size // 2 :] = -torch.inf
    values[1, : size - 3] = -torch.inf  # three are left, at the end
    for count in (2, 16):
        found, at = largest(values, count)
        torch.testing.assert_close(found, values.topk(count).values, rtol=0, atol=0)
        torch.testing.assert_close(values.gather(1, at), found, rtol=0, atol=0)
        assert all(len(set(row)) == count for row in at.tolist())
    least = values.topk(3).values[:, 2:]
    found = set(zip(*(each.tolist() for each in at_least(values, least)), strict=True))
    assert found == set(zip(*(e.tolist() for e in (values >= least).nonzero().T), strict=True))
    assert len(found) == 9
    assert not len(at_least(values, torch.full((3, 1), 99.0))[0])


def test_a_single_token_that_is_allowed(weight):
    rough = Shortlist(weight, best_product())(numbers(1, WIDTH))
    rough.logits[:] = -torch.inf
    rough.logits[0, 5] = 1.0  # rough
    rough.refine(rough.logits)
    assert rough.logits.isfinite().sum() == 1, "nothing that is forbidden comes back"
    torch.testing.assert_close(rough.logits[0, 5], numbers(1, WIDTH)[0] @ weight[5])


def test_tokens_of_one_kind(weight):
    rows = numbers(2, WIDTH, seed=2)
    rough, every = Shortlist(weight, best_product())(rows), rows @ weight.T
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
    assert decoder.rough_logits(hidden.repeat(shortlist.most_rows() + 1, 1)) is None, "many rows"
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
    monkeypatch.setattr("distill.whisper.decoding.decoder.most_rows", lambda: 12)
    calls = []
    refine = shortlist.RoughLogits.refine
    monkeypatch.setattr(shortlist.RoughLogits, "refine",
                        lambda *args: (calls.append(1), refine(*args))[1])
    found = texts(**listed)
    assert [each.tokens for each in found] == [each.tokens for each in every] and calls
    for one, other in zip(found, every, strict=True):
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=0.02)
