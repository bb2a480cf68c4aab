"""A tagger as ONNX files: for sherpa-onnx (features in) and for anything else (sound in).

    export_tagger("runs/mine/student", "my-tagger")

    model.onnx      features (clips, 64, frames) in dB -> probabilities (clips, classes); the layout
                    of sherpa-onnx's CED taggers, which reads class_labels_indices.csv beside it
    wave.onnx       sound (clips, samples) at 16 kHz -> the same; front end and pieces inside
    *.int8.onnx     matrix products in int8, scaled while they run

Clips of a batch are of one length, and any length works: long ones go in pieces inside the graph,
as in `distill.ced.model.modeling`. (The usual export stretches the time positions over 30 s, so
that a clip of 10 s sees a third of them.) An hour takes a few GB: cut it into minutes.

sherpa-onnx's own features are half a hop (5 ms) late, which moves cells by 1.5 dB on average. With
80 zeros before the sound they are the same within 0.01 dB.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distill.ced.model.checkpoint import load_checkpoint
from distill.ced.model.frontend import (
    FLOOR,
    HOP,
    MIN_SAMPLES,
    NUM_BANDS,
    PATCH,
    SAMPLE_RATE,
    TOP_DB,
    WINDOW,
    hann_window,
    mel_filters,
)
from distill.ced.model.modeling import CedForAudioClassification
from distill.data.files import write_atomic

LABELS_FILE = "class_labels_indices.csv"
_OPSET, _IR = 17, 8  # of 2022: runtimes on phones are older than those on desks
FILES = ("model.onnx", "model.int8.onnx", "wave.onnx", "wave.int8.onnx")


class _Graph:
    """Nodes and weights, added one after the other; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, value: Tensor | np.ndarray) -> str:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.weights[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def number(self, value: float | int | Sequence[int], kind: type = np.int64) -> str:
        array = np.array(value, kind)
        return self.weight(f"{kind.__name__}_{'_'.join(map(str, array.flatten()))}_{array.ndim}",
                           array)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def size(self, x: str, axis: int) -> str:
        """A dimension, int64 (1,)."""
        return self("Shape", x, start=axis, end=axis + 1)

    def layer_norm(self, x: str, layer: nn.LayerNorm, name: str) -> str:
        weights = (self.weight(f"{name}.{key}", getattr(layer, key)) for key in ("weight", "bias"))
        return self("LayerNormalization", x, *weights, axis=-1, epsilon=layer.eps)

    def linear(self, x: str, layer: nn.Linear, name: str) -> str:
        x = self("MatMul", x, self.weight(f"{name}.weight", layer.weight.T))
        return x if layer.bias is None else self("Add", x, self.weight(f"{name}.bias", layer.bias))


def _features(g: _Graph, wave: str) -> str:
    """Sound (N, T) at 16 kHz -> features (N, 64, frames) in dB: `log_mel`."""
    lacks = g("Max", g("Sub", g.number([MIN_SAMPLES]), g.size(wave, 1)), g.number([0]))
    x = g("Pad", wave, g("Concat", g.number([0, 0, 0]), lacks, axis=0))
    x = g("Unsqueeze", x, g.number([1]))
    half = WINDOW // 2
    x = g("Pad", x, g.number([0, 0, half, 0, 0, half]), mode="reflect")
    angles = 2 * np.pi * np.outer(np.arange(half + 1), np.arange(WINDOW)) / WINDOW
    waves = np.concatenate([np.cos(angles), np.sin(angles)]) * hann_window()
    fourier = g.weight("fourier", waves[:, None].astype(np.float32))
    x = g("Conv", x, fourier, strides=[HOP])
    x = g("Mul", x, x)
    middle, end = g.number([half + 1]), g.number([2 * half + 2])
    power = g("Add", g("Slice", x, g.number([0]), middle, g.number([1])),
              g("Slice", x, middle, end, g.number([1])))
    x = g("MatMul", g.weight("filters", mel_filters().astype(np.float32)), power)
    x = g("Log", g("Clip", x, g.number(FLOOR, np.float32)))
    x = g("Mul", x, g.number(10 / np.log(10), np.float32))
    loudest = g("ReduceMax", x, axes=[1, 2], keepdims=1)
    return g("Max", x, g("Sub", loudest, g.number(TOP_DB, np.float32)))


def _tags(g: _Graph, feats: str, model: CedForAudioClassification) -> str:
    """Features (N, 64, T) in dB -> probabilities (N, classes)."""
    encoder, norm = model.encoder, model.init_bn
    keys = ("weight", "bias", "running_mean", "running_var")
    x = g("BatchNormalization", feats, *(g.weight(f"init_bn.{k}", getattr(norm, k)) for k in keys),
          epsilon=norm.eps)
    lacks = g("Max", g("Sub", g.number([PATCH]), g.size(x, 2)), g.number([0]))
    x = g("Pad", x, g("Concat", g.number([0] * 5), lacks, axis=0))
    patches = encoder.patch_embed.proj
    weights = g.weight("patch.weight", patches.weight), g.weight("patch.bias", patches.bias)
    x = g("Conv", g("Unsqueeze", x, g.number([1])), *weights, strides=[PATCH, PATCH])
    steps, width, rows = g.size(x, 3), patches.out_channels, NUM_BANDS // PATCH
    size = g("Min", steps, g.number([encoder.max_steps]))
    pieces = g("Div", g("Sub", g("Add", steps, size), g.number([1])), size)
    first = g("Unsqueeze", g("Mul", _count(g, pieces), size), g.number([1]))  # what counts begins
    begin = g("Min", first, g("Sub", steps, size))  # the last piece is moved back to be whole
    places = g("Add", begin, _count(g, size))
    x = g("Gather", x, places, axis=3)  # (N, width, rows, pieces, size)
    positions = g.weight("time_pos_embed", encoder.time_pos_embed[:, :, :, None])
    x = g("Add", x, g("Slice", positions, g.number([0]), size, g.number([4])))
    x = g("Add", x, g.weight("freq_pos_embed", encoder.freq_pos_embed[..., None]))
    x = g("Transpose", x, perm=[0, 3, 2, 4, 1])
    whole = g("Shape", x)
    tokens = g("Mul", size, g.number([rows]))
    x = g("Reshape", x, g("Concat", g.number([-1]), tokens, g.number([width]), axis=0))
    for index, block in enumerate(encoder.blocks):
        x = _block(g, x, block, f"blocks.{index}")
    x = g("Reshape", g.layer_norm(x, encoder.norm, "norm"), whole)
    x = g("ReduceMean", x, axes=[2], keepdims=0)  # (N, pieces, size, width)
    counts = g("Cast", g("GreaterOrEqual", places, first), to=TensorProto.FLOAT)
    counts = g("Unsqueeze", counts, g.number([0, 3]))
    totals = g("ReduceSum", counts, g.number([2]), keepdims=0)  # (1, pieces, 1)
    x = g("Div", g("ReduceSum", g("Mul", x, counts), g.number([2]), keepdims=0), totals)
    x = g.layer_norm(x, model.outputlayer[0], "outputlayer.0")
    x = g.linear(x, model.outputlayer[1], "outputlayer.1")
    is_softmax = model.config.problem_type == "single_label_classification"
    x = g("Softmax", x, axis=-1) if is_softmax else g("Sigmoid", x)
    x = g("Mul", x, g("Div", totals, g("Cast", steps, to=TensorProto.FLOAT)))
    return g("ReduceSum", x, g.number([1]), keepdims=0)


def _count(g: _Graph, number: str) -> str:
    """0, 1, ... of int64 (1,)."""
    end = g("Squeeze", number, g.number([0]))
    return g("Range", g.number(0), end, g.number(1))


def _block(g: _Graph, x: str, block: nn.Module, name: str) -> str:
    own, heads = block.attn, block.attn.heads
    width = own.proj.out_features
    y = g.linear(g.layer_norm(x, block.norm1, f"{name}.norm1"), own.qkv, f"{name}.qkv")
    y = g("Reshape", y, g.number([0, 0, 3, heads, width // heads]))
    query, key, value = (g("Gather", y, g.number(at), axis=2) for at in range(3))
    query = g("Mul", query, g.number((width // heads) ** -0.5, np.float32))
    scores = g("MatMul", g("Transpose", query, perm=[0, 2, 1, 3]),
               g("Transpose", key, perm=[0, 2, 3, 1]))
    y = g("MatMul", g("Softmax", scores, axis=-1), g("Transpose", value, perm=[0, 2, 1, 3]))
    y = g("Reshape", g("Transpose", y, perm=[0, 2, 1, 3]), g.number([0, 0, width]))
    x = g("Add", x, g.linear(y, own.proj, f"{name}.proj"))
    y = g.linear(g.layer_norm(x, block.norm2, f"{name}.norm2"), block.mlp.fc1, f"{name}.fc1")
    # gelu, in the form that runtimes know and fuse
    erf = g("Erf", g("Div", y, g.number(2**0.5, np.float32)))
    y = g("Mul", g("Mul", y, g("Add", erf, g.number(1.0, np.float32))), g.number(0.5, np.float32))
    return g("Add", x, g.linear(y, block.mlp.fc2, f"{name}.fc2"))


def export_tagger(
    folder: str | Path, out: str | Path, files: Sequence[str] = FILES
) -> list[Path]:
    """Write ONNX files of a tagger and the names of its classes.

    Args:
        folder: of `save_pretrained`, or a published checkpoint.
        files: some of FILES.

    Returns:
        what was written, in `out`.

    Raises:
        ValueError: not a CED model, or no such kind of file.
    """
    if unknown := set(files) - set(FILES):
        raise ValueError(f"files must be of {', '.join(FILES)}; got {', '.join(sorted(unknown))}")
    model, out = load_checkpoint(folder).float(), Path(out)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    write_atomic(out / LABELS_FILE, lambda path: write_labels(labels, path))
    with TemporaryDirectory(prefix=".export-", dir=out) as temporary:
        scratch = Path(temporary)
        for kind in ("model", "wave"):
            if any(name.startswith(f"{kind}.") for name in files):
                _write(model, kind, scratch / f"{kind}.onnx")
            if f"{kind}.int8.onnx" in files:
                _quantise(scratch / f"{kind}.onnx", scratch / f"{kind}.int8.onnx")
        for name in files:
            write_atomic(out / name, lambda to, name=name: shutil.copyfile(scratch / name, to))
    return [out / LABELS_FILE, *(out / name for name in files)]


def _write(model: CedForAudioClassification, kind: str, path: Path) -> None:
    """One file; clips and time stay open."""
    g = _Graph()
    given = ("feats", ["N", NUM_BANDS, "T"]) if kind == "model" else ("wave", ["N", "T"])
    feats = given[0] if kind == "model" else _features(g, given[0])
    g.nodes.append(helper.make_node("Identity", [_tags(g, feats, model)], ["prob"], name="prob"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
              for name, shape in (given, ("prob", ["N", model.config.num_labels]))]
    graph = helper.make_graph(g.nodes, "ced", values[:1], values[1:], list(g.weights.values()))
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)],
                              ir_version=_IR, producer_name="audio-distill")
    facts = {
        "model_type": "CED", "version": "1.0", "model_author": "audio-distill",
        "url": "https://arxiv.org/abs/2308.11957", "sample_rate": SAMPLE_RATE, "input": given[0],
        "output": "probabilities", "num_classes": model.config.num_labels,
        "features": "64 HTK mel bands, 0-8000 Hz, Hann 512, hop 160, centred, dB, top_db 120",
    }
    helper.set_model_props(built, {key: str(value) for key, value in facts.items()})
    onnx.checker.check_model(built, full_check=True)
    onnx.save(built, path)


def _quantise(path: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends to preprocess, which changes nothing here
    try:
        quantize_dynamic(path, target, op_types_to_quantize=["MatMul"],
                         weight_type=QuantType.QInt8)
    finally:
        logging.root.setLevel(level)


def write_labels(labels: Sequence[str], path: Path) -> None:
    """AudioSet's table in the one form that sherpa-onnx reads: names quoted, LF alone.

    Raises:
        ValueError: a name with a line break.
    """
    if broken := [name for name in labels if "\n" in name or "\r" in name]:
        raise ValueError(f"names of classes must be one line, got {broken[0]!r}")
    # sherpa-onnx ends a name at its first quote
    names = [name.replace('"', "'") for name in labels]
    lines = ["index,mid,display_name", *(f'{i},/c/{i},"{name}"' for i, name in enumerate(names))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
