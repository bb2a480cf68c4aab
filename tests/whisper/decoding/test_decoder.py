"""The decoder computes what transformers' does, whatever shares a pass or a cache with a row."""

import copy

import pytest
import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distill.whisper.decoding.attention import FloatAttention, IntegerAttention
from distill.whisper.decoding.decoder import Decoder
from distill.whisper.linear import Int8Layer, fused_layer, make_layer

CONTEXT, FRAMES, VOCABULARY = 160, 40, 200
STARTS = [5, 61, 0, 17, 126]  # two rows pass a border of what attention reads at once


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY, d_model=96, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=3, decoder_attention_heads=3, encoder_ffn_dim=32,
        decoder_ffn_dim=136, max_target_positions=CONTEXT, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=1, suppress_tokens=None)
    model = WhisperForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.model.decoder.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(3)


def audio(rows: int, draw) -> torch.Tensor:
    return torch.randn(rows, FRAMES, 96, generator=draw)


def words(rows: int, count: int, draw) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, count), generator=draw)


def expected(model, texts: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.model.decoder(
            input_ids=texts, encoder_hidden_states=states).last_hidden_state


def prefilled(decoder, texts, starts, states):
    """A cache in which each row has read its tokens before its start, one row at a time."""
    cache = decoder.cache(states)
    width = max(*starts, 1)
    decoder(texts[:, :width], [0] * len(starts), cache)  # beyond the starts: what will be rejected
    return cache


def cut(texts, starts, count):
    return torch.stack([text[s : s + count] for text, s in zip(texts, starts, strict=True)])


@pytest.mark.parametrize("starts", [STARTS, [7] * 5, [0, 0, 1, 0, 0]])
def test_equals_transformers(model, draw, starts):
    decoder, states, texts = Decoder(model), audio(5, draw), words(5, CONTEXT, draw)
    cache = prefilled(decoder, texts, starts, states)
    hidden = decoder(cut(texts, starts, 6), starts, cache)
    wanted = expected(model, texts, states)
    wanted = torch.stack([row[s : s + 6] for row, s in zip(wanted, starts, strict=True)])
    torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-4)
    scores = decoder.logits(hidden[:, -1])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, model.proj_out(wanted[:, -1]), rtol=1e-4, atol=1e-4)


def one_by_one(decoder, texts, starts, cache):
    found = [decoder(texts[:, n : n + 1], [s + n for s in starts], cache)
             for n in range(texts.shape[1])]
    return torch.cat(found, 1)


def is_same(found, wanted, int8: bool) -> bool:
    """Bit for bit in int8."""
    return torch.equal(found, wanted) if int8 else torch.allclose(found, wanted, 1e-4, 1e-4)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("rows", range(1, 6))
def test_a_pass_of_many_is_many_passes_of_one(model, draw, int8, rows):
    decoder, states, texts = Decoder(model, int8), audio(rows, draw), words(rows, CONTEXT, draw)
    starts = STARTS[:rows]
    cache = prefilled(decoder, texts, starts, states)
    for count in range(1, 10):
        new = cut(texts, starts, count)
        wanted = one_by_one(decoder, new, starts, cache)
        found = decoder(new, starts, cache)
        assert is_same(found, wanted, int8)
        scores = decoder.logits(found.flatten(0, 1)).view(rows, count, -1)
        for place in range(count):
            assert is_same(scores[:, place], decoder.logits(wanted[:, place]), int8)


@pytest.mark.parametrize("int8", [False, True])
@torch.inference_mode()
def test_rows_are_independent_after_others_left(model, draw, int8):
    """A row computes the same in its new slot, beside fewer rows, and alone in another cache."""
    decoder, states, texts = Decoder(model, int8), audio(5, draw), words(5, CONTEXT, draw)
    cache, slots = prefilled(decoder, texts, STARTS, states), [0, 1, 2, 3, 4]
    whole = decoder(cut(texts, STARTS, 4), STARTS, cache)
    for leaving in (1, 3, 0):
        cache.remove(leaving)
        slots[leaving] = slots[-1]
        slots.pop()
        starts = [STARTS[row] for row in slots]
        assert cache.num_used == len(slots)
        assert is_same(decoder(cut(texts[slots], starts, 4), starts, cache), whole[slots], int8)
        wanted = one_by_one(decoder, cut(texts[slots], starts, 4), starts, cache)
        assert is_same(wanted, whole[slots], int8)
    for row, start in enumerate(STARTS):
        other = Decoder(model, int8)
        alone = prefilled(other, texts[row : row + 1], [start], states[row : row + 1])
        found = other(cut(texts[row : row + 1], [start], 4), [start], alone)
        assert is_same(found, whole[row : row + 1], int8)


@pytest.mark.parametrize("int8", [False, True])
@torch.inference_mode()
def test_what_is_beyond_a_row_is_never_seen(model, draw, int8):
    decoder, states, texts = Decoder(model, int8), audio(3, draw), words(3, CONTEXT, draw)
    starts = [4, 20, 9]
    cache = prefilled(decoder, texts, starts, states)
    wanted = decoder(cut(texts, starts, 3), starts, cache)
    for start in (starts, [5, 22, 11]):  # rejected drafts: all of them, or the last ones
        decoder(words(3, 30, draw), start, cache)
        assert is_same(decoder(cut(texts, starts, 3), starts, cache), wanted, int8)
    for parts in cache.self_attention:
        for part in parts:
            for row, start in enumerate(starts):
                part[row, :, start + 3 :] = 1e4
    assert is_same(decoder(cut(texts, starts, 3), starts, cache), wanted, int8)
    for parts in cache.self_attention:
        parts[0][1, :, 2] += 3  # the check itself: what is before the end does count
    changed = decoder(cut(texts, starts, 3), starts, cache)
    assert [is_same(*pair, int8) for pair in zip(changed, wanted, strict=True)] == [
        True, False, True]


@pytest.mark.parametrize("int8", [False, True])
def test_the_last_places_of_the_context(model, draw, int8):
    """Padding beyond the context goes to its last place, and no row's tokens before it change."""
    decoder, states, texts = Decoder(model, int8), audio(2, draw), words(2, CONTEXT, draw)
    starts = [CONTEXT - 4, 30]
    cache = prefilled(decoder, texts, starts, states)
    new = torch.cat([cut(texts, [CONTEXT - 4, 30], 3), words(2, 6, draw)], 1)
    found = decoder(new, starts, cache)[:, :3]
    wanted = expected(model, texts, states)
    wanted = torch.stack([row[s : s + 3] for row, s in zip(wanted, starts, strict=True)])
    if not int8:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert is_same(decoder(new[:, :3], starts, cache), found, int8)


@pytest.mark.parametrize("int8", [False, True])
def test_memory_of_an_earlier_batch_leaves_no_trace(model, draw, int8):
    states, texts = audio(5, draw), words(5, CONTEXT, draw)
    used, starts = Decoder(model, int8), [3, 70]
    first = used.cache(states)
    used(texts[:, :150], [0] * 5, first)
    small = used.cache(states[3:])
    memory = [cache.cross_attention[0][0].data_ptr() for cache in (small, first)]
    assert memory[0] == memory[1], "used again"
    assert small.num_used == 2 and small.num_bytes == first.num_bytes * 2 // 5
    fresh = Decoder(model, int8)
    for decoder in (used, fresh):
        cache = decoder.cache(states[3:])
        decoder(texts[3:, :70], [0] * 2, cache)
        decoder.found = decoder(cut(texts[3:], starts, 5), starts, cache)
    assert is_same(used.found, fresh.found, int8)
    larger = used.cache(torch.cat([states, states]))
    assert larger.num_used == 10 and len(larger.cross_attention[0][0]) == 10


def test_a_cache_of_one_row_hears_the_same_and_has_read_nothing(model, draw):
    decoder, states, texts = Decoder(model), audio(3, draw), words(3, CONTEXT, draw)
    cache = prefilled(decoder, texts, [9, 9, 9], states)
    before = [part.clone() for parts in cache.self_attention for part in parts]
    found = decoder(texts[1:2, :9], [0], cache.alone(1))
    wanted = expected(model, texts[1:2, :9], states[1:2])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    after = [part for parts in cache.self_attention for part in parts]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


# Layers


@pytest.mark.parametrize("bias", [True, False])
def test_int8_layers(draw, bias):
    layer = nn.Linear(96, 130, bias=bias)
    rows = torch.randn(9, 96, generator=draw) * torch.logspace(-3, 3, 9)[:, None]
    rows[4] = 0
    ours = Int8Layer(layer.weight, layer.bias)
    found = ours(rows)
    with torch.no_grad():
        wanted = layer(rows)
    half_steps = (rows.abs().amax(1, True) / (2 * ours.largest),
                  layer.weight.detach().abs().amax(1) / 254)
    bound = (half_steps[0] * layer.weight.detach().abs().sum(1)
             + half_steps[1] * rows.abs().sum(1, True) + 96 * half_steps[0] * half_steps[1])
    assert ((found - wanted).abs() <= bound * 1.001 + 1e-5).all()
    spread = wanted.std(1)  # and far better than the worst case
    assert ((found - wanted).std(1) <= 0.03 * spread + 1e-6).all()
    assert torch.equal(found, torch.cat([ours(rows[i : i + 1]) for i in range(9)]))
    assert torch.equal(found.flip(0), ours(rows.flip(0)))
    assert torch.equal(found[2:7], ours(rows[2:7]))
    zeros = torch.zeros(130) if layer.bias is None else layer.bias.detach()
    assert torch.equal(found[4], zeros)


def test_integer_attention_is_near_float_attention(draw):
    query = torch.randn(2, 3, 4, 32, generator=draw)
    keys, values = torch.randn(2, 2, 3, 64, 32, generator=draw)
    mask = torch.rand(2, 1, 4, 64, generator=draw) > 0.5
    for seen in (None, mask):
        found, wanted = (
            kind.attend(query.clone(), kind.parts(keys, values), seen)
            for kind in (IntegerAttention, FloatAttention))
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


def linears(count: int = 3) -> list[nn.Linear]:
    modules = [nn.Linear(16, 8, bias=i != 1) for i in range(count)]
    return [module.requires_grad_(False) for module in modules]


def test_fused_float_layers_leave_modules_as_they_were(draw):
    modules, rows = linears(), torch.randn(4, 16, generator=draw)
    before = [module(rows) for module in modules]
    found = fused_layer(modules, int8=False)(rows)
    torch.testing.assert_close(found, torch.cat(before, -1), rtol=1e-5, atol=1e-6)
    for module, wanted in zip(modules, before, strict=True):
        torch.testing.assert_close(module(rows), wanted, rtol=1e-6, atol=1e-6)
    assert len({m.weight.untyped_storage().data_ptr() for m in modules}) == 1, "held once"
    with torch.no_grad():
        modules[2].weight.zero_()
    layer = fused_layer(modules, int8=False)
    modules[0].weight.mul_(2)
    changed = make_layer(modules[0], False)(rows)  # in place
    torch.testing.assert_close(layer(rows)[:, :8], changed, rtol=1e-5, atol=1e-6)


def test_layers_in_training_are_not_touched(draw):
    modules, rows = linears(), torch.randn(4, 16, generator=draw)
    modules[1].weight.requires_grad_(True)
    pointers = [module.weight.data_ptr() for module in modules]
    found = fused_layer(modules, int8=False)
    assert [module.weight.data_ptr() for module in modules] == pointers
    assert modules[1].weight.requires_grad
    wanted = torch.cat([module(rows) for module in modules], -1)
    torch.testing.assert_close(found(rows), wanted, rtol=1e-5, atol=1e-6)


def test_int8_copies(draw):
    modules, rows = linears(), torch.randn(4, 16, generator=draw)
    pointers = [module.weight.data_ptr() for module in modules]
    found = fused_layer(modules, int8=True)(rows)
    assert [module.weight.data_ptr() for module in modules] == pointers
    assert torch.equal(found, torch.cat([make_layer(m, True)(rows) for m in modules], -1))


def test_a_model_can_be_saved_after_decoding(tiny_model, tmp_path):
    tiny_model.requires_grad_(False)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    Decoder(tiny_model)
    tiny_model.save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.state_dict().keys() == before.keys()
    for name, value in again.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("part", "decoders"), [
    ("weight", 1),
    ("bias", 1),
    ("weight", 2),
])
def test_changes_made_in_place_are_followed(model, draw, part, decoders):
    """As the docstring of Decoder says; also when the same model has a second decoder."""
    changed = copy.deepcopy(model)
    decoder, states, texts = Decoder(changed), audio(1, draw), words(1, 8, draw)
    others = [Decoder(changed) for _ in range(decoders - 1)]
    with torch.no_grad():
        getattr(changed.model.decoder.layers[0].self_attn.v_proj, part).add_(0.5)
    wanted = expected(changed, texts, states)
    for each in [decoder, *others]:
        found = each(texts, [0], each.cache(states))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_int8_needs_a_cpu(model):
    with pytest.raises(ValueError, match="int8 decoding needs a CPU"):
        Decoder(model.to("meta"), int8=True)
