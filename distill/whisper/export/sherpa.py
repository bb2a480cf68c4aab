"""A student for sherpa-onnx, or for onnxruntime alone: encoder, decoder step, tokens.

    sherpa_onnx.OfflineRecognizer.from_whisper(
        encoder="encoder.onnx", decoder="decoder.onnx", tokens="tokens.txt", language="en")

The layout is sherpa-onnx's own: the encoder gives every decoder layer's keys and values of the
audio, the decoder reads some tokens at an offset and keeps its own keys and values in caches that
are passed in and out. sherpa-onnx decodes greedily without any rule, so the tokens that Whisper
must not say are forbidden by the graph: always, and first (at offset 0). What lacks of the 30 s is
silence by the graph, too, so that no `tail_paddings` are needed.
"""

from __future__ import annotations

import base64
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill.whisper.encoder.lengths import margin_of
from distill.whisper.export.encoder_graph import Encoder, ShortEncoder, Sounds, attend
from distill.whisper.export.vocabulary import text_tokens
from distill.whisper.special import SpecialTokens

_ONE_FILE_BYTES = 2**31 - 2**26  # a protobuf holds 2 GiB; what is larger has its data beside it
_INTEGER_PRODUCTS = 4  # onnxruntime's name for them
ENCODER_OUTPUTS = ("n_layer_cross_k", "n_layer_cross_v")
SOUND_OUTPUTS = ("sound_probabilities", "sound_step_probabilities")
DECODER_INPUTS = ("tokens", "in_n_layer_self_k_cache", "in_n_layer_self_v_cache",
                  *ENCODER_OUTPUTS, "offset")
DECODER_OUTPUTS = ("logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache",
                   "cross_attention_weights")


class Decoder(nn.Module):
    """Some tokens (batch, n) at an offset (1,) -> logits (batch, n, vocabulary), the caches
    (layers, batch, context, width) with these tokens in them, and the alignment heads' attention to
    the audio (batch, heads, n, frames)."""

    def __init__(self, model, heads: Sequence[Sequence[int]]):
        super().__init__()
        self.decoder = model.model.decoder
        self.heads = [list(pair) for pair in heads]
        always = torch.zeros(model.config.vocab_size)
        always[model.generation_config.suppress_tokens or []] = -torch.inf
        first = always.clone()
        first[model.generation_config.begin_suppress_tokens or []] = -torch.inf
        self.register_buffer("always", always)
        self.register_buffer("first", first)

    def forward(self, tokens: Tensor, own_k: Tensor, own_v: Tensor, cross_k: Tensor,
                cross_v: Tensor, offset: Tensor):
        places = offset + torch.arange(tokens.shape[1])
        x = self.decoder.embed_tokens(tokens) + self.decoder.embed_positions.weight[places]
        unseen = torch.arange(own_k.shape[2]) > places[:, None]
        mask = torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min)
        keys, values, looks = [], [], []
        for index, layer in enumerate(self.decoder.layers):
            own, normed = layer.self_attn, layer.self_attn_layer_norm(x)
            keys.append(own_k[index].index_copy(1, places, own.k_proj(normed)))
            values.append(own_v[index].index_copy(1, places, own.v_proj(normed)))
            x = x + attend(own, own.q_proj(normed), keys[-1], values[-1], mask)[0]
            cross, normed = layer.encoder_attn, layer.encoder_attn_layer_norm(x)
            mixed, weights = attend(cross, cross.q_proj(normed), cross_k[index], cross_v[index],
                                     None)
            x = x + mixed
            looks += [weights[:, head] for at, head in self.heads if at == index]
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        logits = self.decoder.layer_norm(x) @ self.decoder.embed_tokens.weight.T
        logits = logits + torch.where(offset == 0, self.first, self.always)
        return logits, torch.stack(keys), torch.stack(values), torch.stack(looks, 1)


def write_sherpa(
    model, tokenizer, out: Path, heads: Sequence[Sequence[int]], sounds: Sounds | None = None
) -> None:
    """Write `encoder.onnx`, `decoder.onnx` and `tokens.txt` of a Whisper to a folder; they take one
    window at a time, as sherpa-onnx decodes.

    Args:
        model: WhisperForConditionalGeneration in float32.
        heads: (layer, head) pairs that word timestamps come from; sorted by layer in the file.
        sounds: a head that tags: the encoder's file then has SOUND_OUTPUTS, too, and the names of
            their classes, as JSON, in its metadata (`sound_classes`).
    """
    config = model.config
    frames = torch.export.Dim("frames", max=2 * config.max_source_positions)
    count = torch.export.Dim("count", max=config.max_target_positions)
    mel = torch.zeros(1, config.num_mel_bins, 200)
    graph = Encoder if margin_of(model) is None else ShortEncoder
    encoder, decoder = graph(model, sounds).eval(), Decoder(model, heads).eval()
    metadata, outputs = _metadata(model, tokenizer, len(heads)), ENCODER_OUTPUTS
    if sounds is not None:
        metadata["sound_classes"] = json.dumps(sounds.classes, ensure_ascii=False)
        outputs = (*ENCODER_OUTPUTS, *SOUND_OUTPUTS)
    _export(encoder, (mel,), out / "encoder.onnx", ("mel",), outputs, {"mel": {2: frames}},
            metadata)
    with torch.no_grad():
        cross_k, cross_v = encoder(mel)[:2]
    cache = torch.zeros(config.decoder_layers, 1, config.max_target_positions, config.d_model)
    inputs = (torch.zeros(1, 3, dtype=torch.int64), cache, cache.clone(), cross_k, cross_v,
              torch.tensor([1]))
    shapes = {"tokens": {1: count}, **dict.fromkeys(
        ("own_k", "own_v", "cross_k", "cross_v", "offset"))}
    _export(decoder, inputs, out / "decoder.onnx", DECODER_INPUTS, DECODER_OUTPUTS, shapes, {})
    lines = (f"{base64.b64encode(text).decode()} {index}\n"
             for index, text in enumerate(text_tokens(tokenizer)))
    (out / "tokens.txt").write_text("".join(lines))


def quantise(folder: Path, out: Path) -> None:
    """An int8 copy of what `write_sherpa` wrote: a scale for every 32 weights of a matrix product
    and, while it runs, for every 32 of its inputs.

    With a scale per tensor, as `quantize_dynamic` has it, the encoder's states of whisper-base are
    7.6 % off, at best; here 3.1 %.
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    for name in ("encoder.onnx", "decoder.onnx"):
        with _quiet():
            quantizer = MatMulNBitsQuantizer(
                onnx.load(folder / name), bits=8, block_size=32, is_symmetric=True,
                accuracy_level=_INTEGER_PRODUCTS)
            quantizer.process()
        large = (folder / f"{name}.data").exists()
        quantizer.model.save_model_to_file(str(out / name), large)
    shutil.copyfile(folder / "tokens.txt", out / "tokens.txt")


def _export(module: nn.Module, inputs: tuple, path: Path, names: Sequence[str],
            outputs: Sequence[str], shapes: dict, metadata: dict[str, str]) -> None:
    kept = [*module.parameters(), *module.buffers()]
    size = sum(p.numel() * p.element_size() for p in kept)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module, inputs, input_names=list(names), output_names=list(outputs),
            dynamic_shapes=shapes, dynamo=True, verbose=False)
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=size > _ONE_FILE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on packages, names of axes and steps that are optional."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _metadata(model, tokenizer, num_heads: int) -> dict[str, str]:
    """What sherpa-onnx reads from the encoder's file."""
    config, generation = model.config, model.generation_config
    special = SpecialTokens(tokenizer, generation)
    find = tokenizer.convert_tokens_to_ids
    languages = special.languages
    sequence = [special.start]
    if special.multilingual:  # sherpa-onnx puts the language and the task that it was asked for
        sequence += [min(languages.values()), find("<|transcribe|>")]
    facts = {
        "model_type": "whisper", "version": 1, "n_mels": config.num_mel_bins,
        "n_audio_ctx": config.max_source_positions, "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads, "n_audio_layer": config.encoder_layers,
        "n_vocab": config.vocab_size, "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model, "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers, "n_alignment_heads": num_heads,
        "is_multilingual": int(special.multilingual), "sot_sequence": _joined(sequence),
        "all_language_tokens": _joined(languages.values()),
        "all_language_codes": _joined(name.strip("<|>") for name in languages),
        "sot": special.start, "eot": special.end, "sot_index": 0, "blank_id": find("\u0120"),
        "no_speech": special.no_speech, "no_timestamps": special.no_timestamps,
        "sot_prev": special.previous, "transcribe": find("<|transcribe|>"),
        "translate": find("<|translate|>"),
    }
    return {key: str(value) for key, value in facts.items()}


def _joined(values) -> str:
    return ",".join(map(str, values))


class SherpaSession:
    """The folder in onnxruntime, without sherpa-onnx."""

    def __init__(self, folder: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx"))
        facts = self.encoder.get_modelmeta().custom_metadata_map
        self.context = int(facts["n_text_ctx"])
        self.shape = (int(facts["n_text_layer"]), 1, self.context, int(facts["n_text_state"]))

    def read(self, mel: np.ndarray, prefix: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Logits (tokens, vocabulary) from which each token of a text was to be said."""
        cross = self.encoder.run(list(ENCODER_OUTPUTS), {"mel": mel})
        own = [np.zeros(self.shape, np.float32)] * 2
        found, offset = [], 0
        for new in (list(prefix), list(tokens[:-1])):
            if new:
                values = (np.array([new]), *own, *cross, np.array([offset]))
                logits, *own, _ = self.decoder.run(
                    None, dict(zip(DECODER_INPUTS, values, strict=True)))
                found.append(logits[0] if offset else logits[0, -1:])
                offset += len(new)
        return np.concatenate(found)[: len(tokens)]

    def sounds(self, mel: np.ndarray) -> np.ndarray:
        """(classes,) probabilities of a window, where the file has them."""
        return self.encoder.run([SOUND_OUTPUTS[0]], {"mel": mel})[0][0]

    def greedy(self, mel: np.ndarray, prefix: Sequence[int], end: int) -> list[int]:
        """Tokens that a window of log-mel (1, bands, frames) says, without prefix and end."""
        cross = self.encoder.run(list(ENCODER_OUTPUTS), {"mel": mel})
        own = [np.zeros(self.shape, np.float32)] * 2
        said, new, offset = [], list(prefix), 0
        while True:
            values = (np.array([new]), *own, *cross, np.array([offset]))
            logits, *own, _ = self.decoder.run(
                None, dict(zip(DECODER_INPUTS, values, strict=True)))
            offset += len(new)
            token = int(logits[0, -1].argmax())
            if token == end or len(said) == self.context // 2:
                return said
            said.append(token)
            new = [token]
