"""whisper.cpp files, read back by a reader of our own, and by whisper.cpp."""

import json
import struct

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

from distill.testing import _teach_to_end
from distill.whisper.export.ggml import openai_name, write_ggml
from distill.whisper.export.vocabulary import text_tokens

END, SIZE, WIDTH = 50257, 51865, 64
SPECIAL = {"<|endoftext|>": END, "<|startoftranscript|>": 50258, "<|en|>": 50259,
           "<|translate|>": 50358, "<|transcribe|>": 50359, "<|startoflm|>": 50360,
           "<|startofprev|>": 50361, "<|nospeech|>": 50362, "<|notimestamps|>": 50363}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A random model with the vocabulary's real size, since whisper.cpp knows ids by heart."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = tmp_path_factory.mktemp("full")
    words = [*bytes_to_unicode().values(), *(f"w{n:05d}" for n in range(END - 256))]
    added = [{"id": index, "content": name, "special": True, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False} for name, index in SPECIAL.items()]
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "vocab": {w: n for n, w in enumerate(words)} | SPECIAL,
                  "merges": []}}))
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<|endoftext|>"))
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=SIZE, d_model=WIDTH, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=1, decoder_attention_heads=1, encoder_ffn_dim=256,
        decoder_ffn_dim=256, pad_token_id=END, bos_token_id=END, eos_token_id=END,
        decoder_start_token_id=50258))
    _teach_to_end(model, END)
    model.generation_config = GenerationConfig(
        suppress_tokens=[], begin_suppress_tokens=[220, END], is_multilingual=True)
    return model.eval(), WhisperProcessor(WhisperFeatureExtractor(), tokenizer)


@pytest.fixture(scope="module")
def path(full, tmp_path_factory):
    out = tmp_path_factory.mktemp("ggml") / "ggml-model.bin"
    write_ggml(*full, out)
    return out


def read(path):
    data, at = path.read_bytes(), 0

    def integers(count):
        nonlocal at
        at += 4 * count
        return struct.unpack_from(f"<{count}i", data, at - 4 * count)

    def raw(size):
        nonlocal at
        at += size
        return data[at - size : at]

    head = integers(12)
    bands, bins = integers(2)
    filters = np.frombuffer(raw(4 * bands * bins), np.float32).reshape(bands, bins)
    tokens = [raw(integers(1)[0]) for _ in range(integers(1)[0])]
    tensors = {}
    while at < len(data):
        dims, length, kind = integers(3)
        shape = integers(dims)[::-1]
        name = raw(length).decode()
        dtype = np.dtype((np.float32, np.float16)[kind])
        tensors[name] = np.frombuffer(raw(dtype.itemsize * int(np.prod(shape))), dtype)
        tensors[name] = tensors[name].reshape(shape)
    return head, filters, tokens, tensors


def test_everything_is_in_the_file(full, path):
    model, processor = full
    head, filters, tokens, tensors = read(path)
    assert head == (0x67676D6C, SIZE, 1500, WIDTH, 1, 1, 448, WIDTH, 1, 2, 80, 1)
    np.testing.assert_allclose(filters, processor.feature_extractor.mel_filters.T, rtol=1e-6)
    assert tokens == text_tokens(processor.tokenizer) and len(tokens) == END
    state = {openai_name(n): v for n, v in model.state_dict().items() if n != "proj_out.weight"}
    assert tensors.keys() == state.keys()
    for name, value in state.items():
        assert tensors[name].size == value.numel()
        wide = tensors[name].dtype == np.float32
        assert wide == (value.ndim == 1 or name.endswith("positional_embedding")), name
        np.testing.assert_allclose(tensors[name].ravel().astype(np.float32),
                                   value.numpy().ravel(), atol=0 if wide else 2e-3)
    assert tensors["encoder.conv1.bias"].shape == (WIDTH, 1)


@pytest.mark.parametrize(("ours", "theirs"), [
    ("model.encoder.layers.3.self_attn.k_proj.weight", "encoder.blocks.3.attn.key.weight"),
    ("model.decoder.layers.0.encoder_attn_layer_norm.bias", "decoder.blocks.0.cross_attn_ln.bias"),
    ("model.decoder.layers.0.self_attn_layer_norm.bias", "decoder.blocks.0.attn_ln.bias"),
    ("model.decoder.layers.11.final_layer_norm.weight", "decoder.blocks.11.mlp_ln.weight"),
    ("model.decoder.layers.1.fc2.weight", "decoder.blocks.1.mlp.2.weight"),
    ("model.encoder.layer_norm.weight", "encoder.ln_post.weight"),
    ("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
    ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
])
def test_names_are_openais(ours, theirs):
    assert openai_name(ours) == theirs


def test_other_vocabularies_are_refused(tiny_model, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="whisper.cpp knows vocabularies of"):
        write_ggml(tiny_model, tiny_processor, tmp_path / "out.bin")
    assert not list(tmp_path.iterdir())


def test_other_feed_forward_sizes_are_refused(full, tmp_path):
    import copy
    from types import SimpleNamespace

    model, processor = full
    config = copy.deepcopy(model.config)
    config.decoder_ffn_dim = 128
    with pytest.raises(ValueError, match=r"4 times as wide as the model \(64\), got \(256, 128\)"):
        write_ggml(SimpleNamespace(config=config), processor, tmp_path / "out.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # an export does this by itself, and refuses what differs
def test_whisper_cpp_says_the_same(full, path):
    pytest.importorskip("pywhispercpp")
    from distill.whisper.decoding.whisper_decoder import WhisperDecoder
    from distill.whisper.encoder.padded import encode, log_mel
    from distill.whisper.export.runtimes import whisper_cpp
    from distill.whisper.recognition.transcribe import to_text

    model, processor = full
    audio = np.random.default_rng(0).normal(size=32_000).astype(np.float32) * 0.1
    decoder = WhisperDecoder(model, processor.tokenizer, "en", on_loop="keep")
    (ours,) = decoder(encode(model, log_mel(processor, [audio])), [220])
    runtime = whisper_cpp(path, "float16", "transcribe", 1, 448)
    assert runtime.transcribe(audio, "en") == to_text(processor.tokenizer, ours.tokens)
    assert len(ours.tokens) > 3


def test_blocks_of_eight_bits_are_nearly_the_weights(full, path, tmp_path):
    pytest.importorskip("pywhispercpp")
    model, processor = full
    out = tmp_path / "q8_0.bin"
    write_ggml(model, processor, out, "q8_0")
    wanted = model.model.decoder.layers[1].fc1.weight.detach().numpy()
    name = b"decoder.blocks.1.mlp.0.weight"
    data = out.read_bytes()
    at = data.index(name) + len(name)
    blocks = np.frombuffer(data, np.dtype([("scale", np.float16), ("whole", np.int8, 32)]),
                           wanted.size // 32, at)
    found = blocks["whole"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]
    largest = np.abs(wanted.reshape(-1, 32)).max(1, keepdims=True)
    assert (np.abs(found - wanted.reshape(-1, 32)) <= 0.55 * largest / 127).all()
    assert struct.unpack_from("<12i", data)[-1] == 2007  # blocks of version 2, of kind 7
    assert out.stat().st_size < 0.7 * path.stat().st_size


@pytest.mark.parametrize("weights", ["q8_0", "q5_0"])
def test_whisper_cpp_reads_blocks(full, tmp_path, weights):
    pytest.importorskip("pywhispercpp")
    from distill.whisper.export.runtimes import whisper_cpp

    out = tmp_path / "model.bin"
    write_ggml(*full, out, weights)
    audio = np.random.default_rng(0).normal(size=32_000).astype(np.float32) * 0.1
    assert len(whisper_cpp(out, weights, "transcribe", 1, 448).transcribe(audio, "en")) > 3


_FIVE_BITS = np.dtype([("scale", np.float16), ("fifth", "<u4"), ("four", np.uint8, 16)])


def five_bits(path, name: bytes, shape: tuple[int, int]) -> np.ndarray:
    """A matrix as whisper.cpp reads it from blocks of 5 bits."""
    data = path.read_bytes()
    at = data.index(name) + len(name)
    blocks = np.frombuffer(data, _FIVE_BITS, shape[0] * shape[1] // 32, at)
    four = np.concatenate([blocks["four"] & 15, blocks["four"] >> 4], 1).astype(np.int64)
    fifth = (blocks["fifth"][:, None] >> np.arange(32)) & 1
    whole = four + 16 * fifth - 16
    return (whole * blocks["scale"].astype(np.float64)[:, None]).reshape(shape)


def test_five_bits_are_spent_where_inputs_are_large(full, tmp_path):
    """Errors of outputs are smaller for such inputs, and the scale is searched for in any case."""
    pytest.importorskip("pywhispercpp")
    model, processor = full
    weight = model.model.decoder.layers[1].fc1.weight.detach().double().numpy()
    name, key = b"decoder.blocks.1.mlp.0.weight", "model.decoder.layers.1.fc1.weight"
    squares = np.where(np.arange(WIDTH) % 4, 0.01, 100.0)
    write_ggml(model, processor, alike := tmp_path / "alike.bin", "q5_0")
    write_ggml(model, processor, known := tmp_path / "known.bin", "q5_0", {key: squares})

    def error(found: np.ndarray, by: np.ndarray) -> float:
        return float(((found - weight) ** 2 * by).sum())

    largest = weight.reshape(-1, 32)
    at = np.abs(largest).argmax(1)[:, None]
    scale = (np.take_along_axis(largest, at, 1) / -16).astype(np.float16).astype(np.float64)
    rounded = np.clip(np.floor(largest / scale + 16.5), 0, 31) - 16
    by_largest = (rounded * scale).reshape(weight.shape)
    ones = np.ones(WIDTH)
    found, same = five_bits(known, name, weight.shape), five_bits(alike, name, weight.shape)
    assert error(same, ones) < 0.95 * error(by_largest, ones)
    assert error(found, squares) < 0.9 * error(same, squares)
    other = b"decoder.blocks.0.mlp.0.weight"  # of which nothing is known
    assert np.array_equal(five_bits(known, other, weight.shape),
                          five_bits(alike, other, weight.shape))
