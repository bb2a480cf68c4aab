"""Whisper-AT's checkpoints <-> our taggers (github.com/YuanGongND/whisper-at, BSD-2).

    tagger = load_whisper_at("small.en_low.pth", whisper, read_names("class_labels_indices.csv"))
    save_whisper_at(tagger, "mine.pth")

A checkpoint is the head alone, its tensors called `at_model.*`, or `module.*` as training left
them. Every tensor must fit. The encoder's width must be that of `whisper`, an openai/whisper that
transformers loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from distill.data.files import write_atomic
from distill.whisper_at.heads import TltrHead
from distill.whisper_at.model import WhisperTagger, from_whisper

State = dict[str, Tensor]
_PREFIX, _PREFIXES = "at_model.", ("module.at_model.", "at_model.", "module.")
_OUT = "mlp_layer.1.bias"


def load_whisper_at(path: str | Path, whisper: Any, classes: Sequence[str] | None) -> WhisperTagger:
    """A tagger with a published head.

    Args:
        whisper: WhisperForConditionalGeneration, whose encoder the head was trained on.
        classes: names, in the head's order; None: they are numbered.

    Raises:
        ValueError: no Whisper-AT head, another number of classes, or tensors that do not fit.
    """
    state = read_head(Path(path))
    count = len(state[_OUT])
    classes = [f"class {n}" for n in range(count)] if classes is None else list(classes)
    if len(classes) != count:
        raise ValueError(f"{path} has {count} classes, got {len(classes)} names")
    down = state.get("down_layer.1.bias")
    tagger = from_whisper(whisper, classes, head_type="tltr", head_dropout=0.0,
                          head_size=None if down is None else len(down))
    expected = tagger.head.state_dict()
    state = {_ours(name): value for name, value in state.items()}
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} is left over" for name in state if name not in expected]
    wrong += [f"{name} is {tuple(state[name].shape)}, expected {tuple(each.shape)}"
              for name, each in expected.items()
              if name in state and state[name].shape != each.shape]
    if wrong:
        raise ValueError(f"{path} does not fit an encoder of width {whisper.config.d_model}: "
                         f"{'; '.join(wrong[:4])}")
    tagger.head.load_state_dict(state)
    return tagger.eval()


def read_head(path: Path) -> State:
    """Tensors of a head, without a prefix.

    Raises:
        ValueError: it is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path}: no checkpoint that torch reads "
                         f"({str(error).splitlines()[0]})") from None
    found = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        prefix = next((each for each in _PREFIXES if name.startswith(each)), None)
        if prefix and torch.is_tensor(value):
            found[name.removeprefix(prefix)] = value.float()
    if _OUT not in found:
        raise ValueError(f"{path} is no head of Whisper-AT: it has no {_PREFIX}{_OUT}")
    return found


def save_whisper_at(tagger: WhisperTagger, path: str | Path) -> None:
    """Write a file that Whisper-AT loads: the head, in float32.

    Raises:
        ValueError: the head is another one.
    """
    if not isinstance(tagger.head, TltrHead):
        raise ValueError("Whisper-AT knows heads of the type tltr alone, and this one is "
                         f"{tagger.config.head_type}")
    state = {_PREFIX + name.removeprefix("blocks."): value.detach().float().cpu().contiguous()
             for name, value in tagger.head.state_dict().items()}
    write_atomic(Path(path), lambda out: torch.save(state, out))


def _ours(name: str) -> str:
    return name if name.startswith("mlp_layer.") else f"blocks.{name}"
