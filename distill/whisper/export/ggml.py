"""A student for whisper.cpp: one `ggml` file, weights in float16.

    pywhispercpp.model.Model("runs/NAME/export/ggml/float16/ggml-model.bin")
    whisper-cli -m runs/NAME/export/ggml/float16/ggml-model.bin audio.wav

Layout (little endian, i32 unless said): magic; 11 sizes; mel filters (bands, bins, f32 data); text
tokens (count, then length and bytes of each); tensors up to the end of the file (dimensions, length
of the name, type, sizes from the fastest on, name, data). Names are those of OpenAI's checkpoints.
Special tokens are not in the file: whisper.cpp knows their ids from the size of the vocabulary.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distill.whisper.export.vocabulary import text_tokens

MAGIC = 0x67676D6C
FLOAT32, FLOAT16 = 0, 1
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


def write_ggml(model, processor, path: Path) -> None:
    """Write a WhisperForConditionalGeneration and its tokenizer.

    Raises:
        ValueError: whisper.cpp, which crashes on what it does not know, has no such vocabulary or
            feed-forward size.
    """
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
        _integers(file, MAGIC, *_sizes(config))
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
                _tensor(file, openai_name(name), value.float().numpy())


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
        FLOAT16,
    )


def _tensor(file: BinaryIO, name: str, value: np.ndarray) -> None:
    if re.fullmatch(r"encoder\.conv\d\.bias", name):
        value = value[:, None]  # added to (channels, frames)
    wide = value.ndim == 1 or name.endswith(("conv1.bias", "conv2.bias", "positional_embedding"))
    value = value.astype(np.float32 if wide else np.float16)
    _integers(file, value.ndim, len(name), FLOAT32 if wide else FLOAT16, *value.shape[::-1])
    file.write(name.encode())
    file.write(np.ascontiguousarray(value).tobytes())


def _integers(file: BinaryIO, *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}i", *values))
