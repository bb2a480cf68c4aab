"""A student is made of the teacher's own layers (arXiv:2311.00430 sec. 4.1).

Encoder copied, decoder layers maximally spaced with the first and the last always in. Embeddings,
positions and final norms are copied; the generation config stays right: alignment heads of removed
layers go, those of kept layers are renumbered (`distill.whisper.generation` does the rest).
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
from torch import nn

from distill.whisper.generation import later_half


def make_student(teacher, decoder_layers: list[int], encoder_layers: list[int]):
    """A float32 student with copies of the teacher's chosen layers.

    Args:
        teacher: WhisperForConditionalGeneration; not changed, no tensor is shared.

    Returns:
        WhisperForConditionalGeneration in float32, in training mode.
    """
    config = copy.deepcopy(teacher.config)
    config.encoder_layers, config.decoder_layers = len(encoder_layers), len(decoder_layers)
    config.num_hidden_layers = config.encoder_layers
    config.dtype = torch.float32
    with torch.device("meta"):
        student = type(teacher)(config)
    chosen = {"encoder": encoder_layers, "decoder": decoder_layers}
    source = teacher.state_dict()
    weights = {}
    for name in student.state_dict():
        match = re.match(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.*)", name)
        if match:
            side, index, rest = match.groups()
            origin = f"model.{side}.layers.{chosen[side][int(index)]}.{rest}"
        else:
            origin = name
        weights[name] = source[origin].detach().to(torch.float32).clone()
    student.load_state_dict(weights, assign=True)  # strict: every tensor is accounted for
    student.tie_weights()
    student.generation_config = student_generation_config(teacher, decoder_layers)
    return student.train()


def begin_with(student, folder: Path) -> None:
    """Give a student the weights of another one with the same layers.

    Raises:
        ValueError: `student.start` is no folder with a model, or with other layers.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"student.start: no model in {folder}")
    weights = type(student).from_pretrained(folder, dtype=torch.float32).state_dict()
    wanted = {name: value.shape for name, value in student.state_dict().items()}
    other = sorted(name for name in wanted.keys() | weights.keys()
                   if name not in weights or weights[name].shape != wanted.get(name))
    if other:
        raise ValueError(f"student.start: the model in {folder} has other layers than the student "
                         f"({len(other)} tensors differ, such as {other[0]})")
    student.load_state_dict(weights)


def student_generation_config(teacher, decoder_layers: list[int]):
    """The teacher's generation config with its alignment heads renumbered. Without any of them
    word timestamps would be an error: all heads of the later half of the layers take their place.
    """
    config = copy.deepcopy(teacher.generation_config)
    config.alignment_heads = _kept_heads(teacher, decoder_layers) or later_half(
        len(decoder_layers), teacher.config.decoder_attention_heads)
    config.forced_decoder_ids = None
    return config


def _kept_heads(teacher, decoder_layers: list[int]) -> list[list[int]]:
    heads = getattr(teacher.generation_config, "alignment_heads", None) or []
    position = {layer: new for new, layer in enumerate(decoder_layers)}
    return [[position[layer], head] for layer, head in heads if layer in position]


def alignment_note(teacher, decoder_layers: list[int]) -> str:
    """What became of the alignment heads, for the user."""
    before = getattr(teacher.generation_config, "alignment_heads", None) or []
    kept = _kept_heads(teacher, decoder_layers)
    others = "word timestamps come from all heads of the later half of the layers"
    if not before:
        return f"the teacher has no alignment heads: {others}"
    if not kept:
        return f"none of the teacher's {len(before)} alignment heads is in a kept layer: {others}"
    return f"{len(kept)} of {len(before)} alignment heads kept and renumbered"


def freeze(
    student, encoder: bool, embeddings: bool, positions: bool, feed_forward: bool = False
) -> None:
    """Stop gradients. Token embeddings are also the output layer (tied)."""
    if encoder:
        student.model.encoder.requires_grad_(False)
    decoder = student.model.decoder
    decoder.embed_tokens.requires_grad_(not embeddings)
    decoder.embed_positions.requires_grad_(not positions)
    for layer in decoder.layers:
        for linear in (layer.fc1, layer.fc2):
            linear.requires_grad_(not feed_forward)


def same_encoder(teacher, student) -> bool:
    """Whether both encoders are equal tensor for tensor, so that one run serves both."""
    teacher_state = teacher.model.encoder.state_dict()
    student_state = student.model.encoder.state_dict()
    return teacher_state.keys() == student_state.keys() and all(
        torch.equal(state.float(), student_state[name].float())
        for name, state in teacher_state.items()
    )


def count_parameters(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
