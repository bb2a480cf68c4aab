"""Published CED weights <-> folders that `from_pretrained` loads.

    model = load_checkpoint("audiotransformer_tiny.pt", read_labels("class_labels_indices.csv"))
    save_published(model, "tiny.pt")

Reads the state dicts of CED's code (bare, or under "model"), the port on the Hub (a folder or its
safetensors), and our own. Every tensor must fit: one that is missing, left over or of another shape
is an error. The shape of the model follows from its tensors. `distill.ced.convert` is the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.ced.data.clips import read_names
from distill.ced.model.configuration import SIZES, CedConfig
from distill.ced.model.extractor import CedFeatureExtractor
from distill.ced.model.frontend import PATCH, hann_window, mel_filters
from distill.ced.model.modeling import CedForAudioClassification
from distill.data.files import read_json, write_atomic, write_json

State = dict[str, Tensor]
_WEIGHTS = "model.safetensors"


def load_checkpoint(
    path: str | Path, labels: Sequence[str] | None = None, target_length: int | None = None
) -> CedForAudioClassification:
    """A model from any of the layouts.

    Args:
        path: a .pt, .pth, .bin or .safetensors file, or a folder of transformers.
        labels: names of the classes; None: those of the folder's configuration, or numbers.
        target_length: frames the model shall have time positions for: fewer are cut, more are
            interpolated. None: as many as the checkpoint has.

    Raises:
        ValueError: not a CED model, tensors that do not fit, another number of labels.
    """
    path = Path(path)
    weights = path / _WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise ValueError(f"no file {weights}; expected a file of weights, or a folder with "
                         f"{_WEIGHTS}")
    config = read_json(path / "config.json") if path.is_dir() else {}
    state = rename(read_state(weights), str(path))
    if labels is None and "id2label" in config:
        labels = [name for _, name in sorted(config["id2label"].items(), key=lambda i: int(i[0]))]
    shape = shape_of(state, str(path))
    for key in ("num_heads", "num_attention_heads"):  # tensors do not tell
        shape["num_attention_heads"] = config.get(key, shape["num_attention_heads"])
    number = len(state["outputlayer.1.bias"])
    labels = [f"class {index}" for index in range(number)] if labels is None else list(labels)
    if len(labels) != number:
        raise ValueError(f"{path} has {number} classes, got {len(labels)} labels")
    if len(set(labels)) < number:
        twice = sorted({name for name in labels if labels.count(name) > 1})
        raise ValueError(f"{path}: labels must differ, twice there: {', '.join(twice)}; give the "
                         "right ones (--labels)")
    if target_length is not None:
        key, shape["target_length"] = "encoder.time_pos_embed", target_length
        state[key] = resize_positions(state[key], target_length // PATCH)
    names = dict(enumerate(labels))
    model = CedForAudioClassification(CedConfig(
        **shape, id2label=names, label2id={name: index for index, name in names.items()},
        problem_type=config.get("problem_type"),
    ))
    _check_fit(model.state_dict(), state, str(path))
    model.load_state_dict(state)
    return model.eval()


def read_state(path: Path) -> State:
    """Tensors of a file; those under "model" if it has that."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise ValueError(f"{path}: expected a state dict, bare or under 'model'")
    return state


def rename(state: State, path: str) -> State:
    """Names of any layout -> ours."""
    renamed: State = {}
    for key, value in state.items():
        if key.startswith("front_end."):
            continue  # window and filters: always the same
        name = key.removeprefix("encoder.").replace("init_bn.1.", "init_bn.")
        name = name if name.startswith("outputlayer.") else f"encoder.{name}"
        if name in renamed:
            raise ValueError(f"{path}: {name} is there twice")
        renamed[name] = value
    return renamed


def shape_of(state: State, path: str) -> dict[str, int | float | bool]:
    """Keys of `CedConfig` from the tensors."""
    needed = ("encoder.time_pos_embed", "encoder.blocks.0.mlp.fc1.weight", "outputlayer.1.bias")
    if missing := [key for key in needed if key not in state]:
        raise ValueError(f"{path} is not a CED model with a mean-pooling head: no "
                         f"{', '.join(missing)}; it has {', '.join(sorted(state)[:5])}, ...")
    _, width, _, steps = state["encoder.time_pos_embed"].shape
    depth = len({key.split(".")[2] for key in state if key.startswith("encoder.blocks.")})
    return {
        "hidden_size": width, "num_attention_heads": max(1, width // 64),  # as published
        "num_hidden_layers": depth, "qkv_bias": "encoder.blocks.0.attn.qkv.bias" in state,
        "mlp_ratio": len(state["encoder.blocks.0.mlp.fc1.weight"]) / width,
        "target_length": 1012 if steps == 63 else steps * PATCH,
    }


def resize_positions(positions: Tensor, steps: int) -> Tensor:
    """(1, width, 1, n) -> (1, width, 1, steps), as CED does."""
    if steps <= positions.shape[-1]:
        return positions[..., :steps].clone()
    return F.interpolate(positions, size=(1, steps), mode="bilinear", align_corners=False)


def _check_fit(expected: State, state: State, path: str) -> None:
    wrong = [f"{key} is missing" for key in expected if key not in state]
    wrong += [f"{key} is left over" for key in state if key not in expected]
    wrong += [f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
              for key in expected if key in state and expected[key].shape != state[key].shape]
    if wrong:
        more = f"; {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{path} does not fit: {'; '.join(wrong[:5])}{more}")


def published_state(model: CedForAudioClassification) -> State:
    """Names of CED's code, with the buffers of its front end."""
    state = {"front_end.0.spectrogram.window": torch.from_numpy(hann_window().copy()),
             "front_end.0.mel_scale.fb": torch.from_numpy(mel_filters().T.copy()).float()}
    for key, value in model.state_dict().items():
        name = key.removeprefix("encoder.").replace("init_bn.", "init_bn.1.")
        state[name] = value.detach().cpu().contiguous()
    return state


def save_published(model: CedForAudioClassification, path: str | Path, bare: bool = False) -> None:
    """Write a file that CED's code loads."""
    state = published_state(model)
    write_atomic(path, lambda out: torch.save(state if bare else {"model": state}, out))


def save_port(model: CedForAudioClassification, folder: str | Path) -> None:
    """Write a folder that the port on the Hub loads, and we as well."""
    folder, config = Path(folder), model.config
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomic(folder / _WEIGHTS, lambda out: save_file(state, out, {"format": "pt"}))
    shape = (config.hidden_size, config.num_attention_heads)
    size = next((name for name, published in SIZES.items() if published == shape), None)
    size = size if config.num_hidden_layers == 12 and config.mlp_ratio == 4 else None
    write_json(folder / "config.json", {
        "architectures": ["CedForAudioClassification"], "model_type": "ced",
        **({"name": f"ced-{size}"} if size else {}),
        "embed_dim": config.hidden_size, "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads, "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias, "target_length": config.target_length, "patch_size": 16,
        "patch_stride": 16, "outputdim": config.num_labels, "pooling": "logit",
        "problem_type": config.problem_type, "n_fft": 512, "win_size": 512, "hop_size": 160,
        "n_mels": 64, "f_min": 0, "f_max": 8000, "center": True,
        "id2label": {str(index): name for index, name in sorted(config.id2label.items())},
        "label2id": config.label2id,
    })
    CedFeatureExtractor().save_pretrained(folder)


def read_labels(path: str | Path) -> list[str]:
    """Names of classes: AudioSet's table, or a name a line.

    Raises:
        ValueError: indices that do not count from 0.
    """
    return read_names(Path(path))
