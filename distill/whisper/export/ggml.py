"""A student for whisper.cpp: one `ggml` file, weights in float16, or in blocks of 8 or 5 bits.

    pywhispercpp.model.Model("runs/NAME/export/ggml/q5_0/ggml-model.bin")
    whisper-cli -m runs/NAME/export/ggml/q5_0/ggml-model.bin audio.wav

Blocks (q8_0, q5_0) are 32 weights with a scale; whisper.cpp's own library rounds them. With 5 bits
it chooses the scale by the errors that matter: those of weights whose inputs are large.

Layout (little endian, i32 unless said): magic; 11 sizes; mel filters (bands, bins, f32 data); text
tokens (count, then length and bytes of each); tensors up to the end of the file (dimensions, length
of the name, type, sizes from the fastest on, name, data). Names are those of OpenAI's checkpoints.
Special tokens are not in the file: whisper.cpp knows their ids from the size of the vocabulary.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distill.whisper.export.vocabulary import text_tokens

MAGIC = 0x67676D6C
FLOAT32, FLOAT16 = 0, 1
# weights -> (what the file says they are, of each tensor with two dimensions)
WEIGHTS = {"float16": (1, FLOAT16), "q8_0": (2007, 8), "q5_0": (2008, 6)}
_BLOCK = 32  # weights with one scale
ROUNDING = "by importance"  # of blocks; a file that was rounded otherwise is another one
# what whisper.cpp takes for granted: {size of the vocabulary: id of <|endoftext|>}
VOCABULARIES = {51864: 50256, 51865: 50257, 51866: 50257}
_NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"self_attn\.", "attn."),
    (r"encoder_attn\.", "cross_attn."),
    (r"q_proj", "query"),
    (r"k_proj", "key"),
    (r"v_proj", "value"),
    (r"out_proj", "out"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
    (r"embed_positions\.weight", "positional_embedding"),
    (r"embed_tokens", "token_embedding"),
)


def write_ggml(model, processor, path: Path, weights: str = "float16",
               importance: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a WhisperForConditionalGeneration and its tokenizer.

    Args:
        weights: one of WEIGHTS.
        importance: `export.importance.mean_squares`; of what is not there, all inputs are alike.

    Raises:
        ValueError: whisper.cpp, which crashes on what it does not know, has no such vocabulary or
            feed-forward size, or cannot be asked for blocks.
    """
    file_type, kind = WEIGHTS[weights]
    end = processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    size = model.config.vocab_size
    if VOCABULARIES.get(size) != end:
        raise ValueError(f"to=ggml: whisper.cpp knows vocabularies of {sorted(VOCABULARIES)} "
                         f"tokens with their usual ids, got {size} and <|endoftext|> = {end}")
    config = model.config
    sizes = config.encoder_ffn_dim, config.decoder_ffn_dim
    if sizes != (4 * config.d_model,) * 2:
        raise ValueError(f"to=ggml: whisper.cpp takes for granted that feed-forward layers are 4 "
                         f"times as wide as the model ({config.d_model}), got {sizes}")
    with open(path, "wb") as file:
        _integers(file, MAGIC, *_sizes(config), file_type)
        filters = processor.feature_extractor.mel_filters.T.astype(np.float32)
        _integers(file, *filters.shape)  # (bands, bins)
        file.write(filters.tobytes())
        tokens = text_tokens(processor.tokenizer)
        _integers(file, len(tokens))
        for token in tokens:
            _integers(file, len(token))
            file.write(token)
        for name, value in model.state_dict().items():
            if name != "proj_out.weight":  # the embeddings again
                _tensor(file, openai_name(name), value.float().numpy(), kind,
                        (importance or {}).get(name))


def openai_name(name: str) -> str:
    """`model.decoder.layers.1.encoder_attn.q_proj.weight` ->
    `decoder.blocks.1.cross_attn.query.weight`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _sizes(config) -> tuple[int, ...]:
    return (
        config.vocab_size,
        config.max_source_positions, config.d_model, config.encoder_attention_heads,
        config.encoder_layers,
        config.max_target_positions, config.d_model, config.decoder_attention_heads,
        config.decoder_layers,
        config.num_mel_bins,
    )


def _tensor(file: BinaryIO, name: str, value: np.ndarray, kind: int,
            importance: np.ndarray | None) -> None:
    if re.fullmatch(r"encoder\.conv\d\.bias", name):
        value = value[:, None]  # added to (channels, frames)
    if value.ndim == 1 or name.endswith(("conv1.bias", "conv2.bias", "positional_embedding")):
        kind, data = FLOAT32, value.astype(np.float32).tobytes()
    elif value.ndim == 3 or kind == FLOAT16:  # convolutions have no blocks
        kind, data = FLOAT16, value.astype(np.float16).tobytes()
    else:
        data = _blocks(value, kind, importance)
    _integers(file, value.ndim, len(name), kind, *value.shape[::-1])
    file.write(name.encode())
    file.write(data)


def _blocks(value: np.ndarray, kind: int, importance: np.ndarray | None) -> bytes:
    """(rows, columns) in blocks, by the library that whisper.cpp reads them with.

    Without any importance it would take the scale of the largest weight; with one, even one that is
    the same for all, it searches for the scale with the smallest error.
    """
    rows, columns = value.shape
    if columns % _BLOCK:
        raise ValueError(f"to=ggml: blocks are of {_BLOCK} weights, which do not divide a row of "
                         f"{columns}")
    library = _library()
    library.ggml_row_size.restype = library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = ctypes.c_int, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p)
    source = np.ascontiguousarray(value, np.float32)
    counts = np.ones(columns, np.float32) if importance is None else importance.astype(np.float32)
    assert counts.shape == (columns,), counts.shape
    found = np.empty(rows * library.ggml_row_size(kind, columns), np.uint8)
    written = library.ggml_quantize_chunk(
        kind, source.ctypes.data, found.ctypes.data, 0, rows, columns, counts.ctypes.data)
    assert written == found.nbytes, (written, found.nbytes)
    return found.tobytes()


def _library() -> ctypes.CDLL:
    """ggml, as it lies beside pywhispercpp."""
    module = importlib.util.find_spec("_pywhispercpp")
    places = sorted(Path(module.origin).parent.glob("libggml-base.*")) if module else []
    if not places:
        raise ValueError("to=ggml: pywhispercpp is not installed, or brings no libggml-base: "
                         "pip install 'audio-distill[export]'")
    return ctypes.CDLL(str(places[0]))


def _integers(file: BinaryIO, *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}i", *values))
