"""Read a CTranslate2 Whisper checkpoint into transformers' names and shapes.

Many fine-tuned Whispers are published only as CTranslate2 folders (`model.bin`, `config.json`,
`tokenizer.json`). `import_folder` writes such a folder in transformers format; every tensor of the
checkpoint must be used and every tensor of the model must be filled, otherwise it refuses.

Layout (little endian): u32 version, string spec, u32 revision, u32 count, then per variable: string
name, u8 rank, u32 dims, u8 type, u32 bytes, data; u32 aliases, then pairs of strings. A string is
a u16 length that includes a closing NUL.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np

from distill.progress import quiet_libraries

BINARY_VERSION = 6
SPEC, REVISION = "WhisperSpec", 3
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_ATTENTION_HEAD_SIZE = 64  # all published Whispers; model.bin stores heads too, which is checked


class _Reader:
    def __init__(self, path: Path):
        self.path = path
        self.data = memoryview(path.read_bytes())
        self.at = 0

    def number(self, code: str) -> int:
        size = struct.calcsize(code)
        if self.at + size > len(self.data):
            raise ValueError(f"{self.path}: the file ends too early (incomplete download?)")
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return value

    def raw(self, size: int) -> memoryview:
        if self.at + size > len(self.data):
            raise ValueError(f"{self.path}: the file ends too early (incomplete download?)")
        self.at += size
        return self.data[self.at - size : self.at]

    def string(self) -> str:
        return bytes(self.raw(self.number("H"))).rstrip(b"\0").decode()


def read_model(path: str | Path) -> dict[str, np.ndarray]:
    """All variables of a `model.bin`, aliases resolved (sharing memory).

    Raises:
        ValueError: not a Whisper checkpoint of a known version, quantised, or cut short.
    """
    reader = _Reader(Path(path))
    version, spec, revision = reader.number("I"), reader.string(), reader.number("I")
    if (version, spec, revision) != (BINARY_VERSION, SPEC, REVISION):
        raise ValueError(
            f"{path}: binary version {version}, {spec} revision {revision}; only version "
            f"{BINARY_VERSION}, {SPEC} revision {REVISION} can be imported"
        )
    variables = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        shape = tuple(reader.number("I") for _ in range(reader.number("B")))
        code, size = reader.number("B"), reader.number("I")
        if code not in _DTYPES:
            raise ValueError(f"{path}: {name} has type {code}; float32 and float16 are supported")
        variables[name] = np.frombuffer(reader.raw(size), dtype=_DTYPES[code]).reshape(shape)
    for _ in range(reader.number("I")):
        alias, target = reader.string(), reader.string()
        variables[alias] = variables[target]
    if reader.at != len(reader.data):
        raise ValueError(f"{path}: {len(reader.data) - reader.at} bytes left over")
    return variables


def _layer_names(side: str, index: int) -> dict[str, list[str]]:
    """{CTranslate2 prefix: [transformers names its axis 0 is split into]} for one layer."""
    ours, theirs = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
    attention = f"{ours}.self_attn"
    names = {
        f"{theirs}/self_attention/layer_norm": [f"{ours}.self_attn_layer_norm"],
        f"{theirs}/self_attention/linear_0": [f"{attention}.{p}_proj" for p in "qkv"],
        f"{theirs}/self_attention/linear_1": [f"{attention}.out_proj"],
        f"{theirs}/ffn/layer_norm": [f"{ours}.final_layer_norm"],
        f"{theirs}/ffn/linear_0": [f"{ours}.fc1"],
        f"{theirs}/ffn/linear_1": [f"{ours}.fc2"],
    }
    if side == "decoder":
        cross = f"{ours}.encoder_attn"
        names |= {
            f"{theirs}/attention/layer_norm": [f"{ours}.encoder_attn_layer_norm"],
            f"{theirs}/attention/linear_0": [f"{cross}.q_proj"],
            f"{theirs}/attention/linear_1": [f"{cross}.k_proj", f"{cross}.v_proj"],
            f"{theirs}/attention/linear_2": [f"{cross}.out_proj"],
        }
    return names


def _name_map(num_encoder_layers: int, num_decoder_layers: int) -> dict[str, list[str]]:
    names = {
        "encoder/conv1": ["model.encoder.conv1"],
        "encoder/conv2": ["model.encoder.conv2"],
        "encoder/layer_norm": ["model.encoder.layer_norm"],
        "decoder/layer_norm": ["model.decoder.layer_norm"],
        "decoder/embeddings": ["model.decoder.embed_tokens"],
        "decoder/projection": ["proj_out"],
        "encoder/position_encodings/encodings": ["model.encoder.embed_positions.weight"],
        "decoder/position_encodings/encodings": ["model.decoder.embed_positions.weight"],
    }
    for side, count in (("encoder", num_encoder_layers), ("decoder", num_decoder_layers)):
        for index in range(count):
            names |= _layer_names(side, index)
    return names


_SUFFIXES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def to_transformers(variables: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict]:
    """Rename and split the variables.

    Returns:
        the float32 state dict (transformers names), and the sizes a `WhisperConfig` needs.

    Raises:
        ValueError: a variable is unknown or missing.
    """
    layers = {
        side: len({n.split("/")[1] for n in variables if n.startswith(f"{side}/layer_")} - {
            "layer_norm"
        })
        for side in ("encoder", "decoder")
    }
    names = _name_map(layers["encoder"], layers["decoder"])
    weights, scalars, unknown = {}, {}, []
    for name, value in variables.items():
        prefix, _, kind = name.rpartition("/")
        if value.ndim == 0:
            scalars[name] = value.item()
        elif name in names:
            weights[names[name][0]] = value.astype(np.float32)
        elif prefix in names and kind in _SUFFIXES:
            parts = names[prefix]
            for target, part in zip(parts, np.split(value, len(parts)), strict=True):
                weights[f"{target}.{_SUFFIXES[kind]}"] = part.astype(np.float32)
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"unknown variables in the checkpoint: {', '.join(sorted(unknown)[:5])}")
    return _drop_zero_key_biases(weights), _sizes(weights, layers, scalars)


def _drop_zero_key_biases(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whisper's key projections have no bias; CTranslate2 stores zeros for them."""
    kept = {}
    for name, value in weights.items():
        if name.endswith("k_proj.bias"):
            if np.any(value):
                raise ValueError(f"{name} is not zero: this is not an OpenAI-style Whisper")
        else:
            kept[name] = value
    return kept


def _sizes(weights: dict, layers: dict[str, int], scalars: dict) -> dict:
    try:
        vocab_size, width = weights["model.decoder.embed_tokens.weight"].shape
        mels = weights["model.encoder.conv1.weight"].shape[1]
        ffn = weights["model.encoder.layers.0.fc1.weight"].shape[0]
        source = weights["model.encoder.embed_positions.weight"].shape[0]
        target = weights["model.decoder.embed_positions.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"the checkpoint lacks {error.args[0]}") from None
    heads = width // _ATTENTION_HEAD_SIZE
    for name, value in scalars.items():
        if name.endswith("num_heads") and value != heads:
            raise ValueError(f"{name} is {value}, expected {heads} for a width of {width}")
    return {
        "vocab_size": vocab_size,
        "d_model": width,
        "num_mel_bins": mels,
        "max_source_positions": source,
        "max_target_positions": target,
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
    }


def import_folder(folder: str | Path, out: str | Path) -> None:
    """Write a CTranslate2 Whisper folder in transformers format (float32 safetensors).

    Raises:
        ValueError: see `read_model` and `to_transformers`; also if any tensor of the transformers
            model stays unfilled, or config.json / tokenizer.json are missing.
    """
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    quiet_libraries()
    folder, out = Path(folder), Path(out)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}")
    weights, sizes = to_transformers(read_model(folder / "model.bin"))
    special = _special_tokens(folder / "tokenizer.json")
    end = special["<|endoftext|>"]
    start = special["<|startoftranscript|>"]
    config = WhisperConfig(
        **sizes,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        # Training must not restart OpenAI's SpecAugment defaults or dropout by accident.
        dropout=0.0,
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: value.shape for name, value in weights.items()}
    if got != expected:
        wrong = sorted(set(expected.items()) ^ set(got.items()))[:3]
        raise ValueError(f"{folder}: tensors do not match a Whisper of these sizes: {wrong}")
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, assign=True)
    model.tie_weights()
    model.generation_config = _generation_config(folder / "config.json", special, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        target = Path(temporary) / "model"
        model.save_pretrained(target)
        _processor(folder / "tokenizer.json", special, sizes["num_mel_bins"]).save_pretrained(
            target
        )
        if out.exists():
            shutil.rmtree(out)
        target.rename(out)


def _special_tokens(path: Path) -> dict[str, int]:
    added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
    return {token["content"]: token["id"] for token in added}


def _processor(tokenizer_file: Path, special: dict[str, int], num_mel_bins: int):
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizerFast

    timestamps = [name for name in special if re.fullmatch(r"<\|\d+\.\d\d\|>", name)]
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[n for n in special if n not in timestamps],
    )
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=num_mel_bins), tokenizer)


def _generation_config(path: Path, special: dict[str, int], config):
    """What `generate` needs to know, as OpenAI's own repositories say it."""
    from transformers import GenerationConfig

    facts = json.loads(path.read_text(encoding="utf-8"))
    languages = {special[name]: name for name in special if name.startswith("<|")}
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        max_length=config.max_target_positions,
        suppress_tokens=facts["suppress_ids"],
        begin_suppress_tokens=facts["suppress_ids_begin"],
        alignment_heads=facts["alignment_heads"],
        is_multilingual=bool(facts["lang_ids"]),
        lang_to_id={languages[i]: i for i in facts["lang_ids"]},
        task_to_id={name: special[f"<|{name}|>"] for name in ("transcribe", "translate")},
        no_timestamps_token_id=special["<|notimestamps|>"],
        prev_sot_token_id=special["<|startofprev|>"],
        max_initial_timestamp_index=50,
        return_timestamps=False,
    )
