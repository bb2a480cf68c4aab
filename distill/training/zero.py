"""DeepSpeed ZeRO: its settings, parts of weights, and checkpoints for any number of ranks.

DeepSpeed's own checkpoints hold what each rank had and want as many ranks again. Here weights and
optimiser states are gathered whole.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.config import TrainConfig

_STATES = ("exp_avg", "exp_avg_sq")  # AdamW's
_FILE = "zero.pt"


def configure(plugin: Any, config: TrainConfig) -> None:
    """What DeepSpeed wants to know of the recipe; the loop makes batches and accumulates.

    All of it: a command that trains twice has the numbers of the first time in its plugin.
    """
    plugin.deepspeed_config.update(
        train_batch_size=config.micro_batch_size * torch.distributed.get_world_size(),
        train_micro_batch_size_per_gpu=config.micro_batch_size,
        gradient_accumulation_steps=1,
        gradient_clipping=config.max_grad_norm,
    )


def build_whole() -> None:
    """Models that are loaded from now on are so on every rank, also for ZeRO-3: teachers and
    students are looked at before training begins."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def part(weight: Any) -> Tensor:
    """ZeRO-3: this rank's part, flat; the last one is padded."""
    return weight.ds_tensor.data


def join(weight: Any, own: Tensor) -> Tensor:
    world = torch.distributed.get_world_size()
    flat = own.new_empty(world * own.numel())
    torch.distributed.all_gather_into_tensor(flat, own.contiguous())
    return flat[: weight.ds_numel].view(weight.ds_shape)


def cut(weight: Any, whole: Tensor) -> Tensor:
    size = weight.ds_tensor.numel()
    own = whole.flatten()[size * torch.distributed.get_rank() :][:size]
    return nn.functional.pad(own, (0, size - own.numel()))


def save(trained: list[nn.Parameter], optimizer: Any, accelerator: Accelerator, folder: Path) \
        -> None:
    """Whole weights, optimiser states and this rank's random generators, into `folder`."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    weights, states = [], []
    _link(optimizer)
    for weight in trained:
        weights.append(safe_get_full_fp32_param(weight).cpu())
        states.append([safe_get_full_optimizer_state(weight, key).cpu() for key in _STATES])
    if accelerator.is_main_process:
        torch.save({"weights": weights, "states": states, "step": _step(optimizer)},
                   folder / _FILE)
    generators = {"python": random.getstate(), "numpy": np.random.get_state(),
                  "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    torch.save(generators, _generators(accelerator, folder))


@torch.no_grad()
def load_weights(trained: list[nn.Parameter], folder: Path) -> None:
    """Into a model that is still whole: what DeepSpeed is given it cuts itself."""
    for weight, saved in zip(trained, _read(folder)["weights"], strict=True):
        weight.copy_(saved)


def load_optimizer(
    trained: list[nn.Parameter], optimizer: Any, accelerator: Accelerator, folder: Path
) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    saved = _read(folder)
    for flat in _flat(optimizer):  # AdamW makes them at its first step
        _adamw(optimizer).state[flat] = {
            "step": torch.tensor(saved["step"], dtype=torch.float32, device=flat.device),
            **{key: torch.zeros_like(flat) for key in _STATES}}
    _link(optimizer)
    for weight, states in zip(trained, saved["states"], strict=True):
        for key, whole in zip(_STATES, states, strict=True):
            if hasattr(weight, "ds_tensor"):
                safe_set_local_optimizer_state(weight, cut(weight, whole), key)
            else:
                safe_set_full_optimizer_state(weight, whole, key)
    path = _generators(accelerator, folder)
    if not path.is_file():
        return  # there are more ranks now
    generators = torch.load(path, weights_only=False)
    random.setstate(generators["python"])
    np.random.set_state(generators["numpy"])
    torch.set_rng_state(generators["torch"])
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["cuda"])


def _generators(accelerator: Accelerator, folder: Path) -> Path:
    return folder / f"random_states_{accelerator.process_index}.pt"


def _read(folder: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: another launcher made the checkpoint.
    """
    if not (folder / _FILE).is_file():
        raise ValueError(f"{folder} was not written by DeepSpeed; go on with the launch file that "
                         f"the run began with, or remove {folder.parent} to start over")
    return torch.load(folder / _FILE, weights_only=True, mmap=True)


def _adamw(optimizer: Any) -> torch.optim.Optimizer:
    """Inside of accelerate's wrapper and of DeepSpeed's."""
    return optimizer.optimizer.optimizer


def _flat(optimizer: Any) -> list[Tensor]:
    """What AdamW sees: this rank's parts of all weights in a row."""
    inner = optimizer.optimizer
    if hasattr(inner, "fp32_partitioned_groups_flat"):
        return inner.fp32_partitioned_groups_flat
    return inner.single_partition_of_fp32_groups


def _step(optimizer: Any) -> float:
    """How many updates AdamW has made."""
    return float(_adamw(optimizer).state[_flat(optimizer)[0]]["step"])


def _link(optimizer: Any) -> None:
    """ZeRO-2 of DeepSpeed 0.19.8 tells weights where their states are after the first group of
    parameters has made its first step, when the others have no states yet."""
    inner = optimizer.optimizer
    if hasattr(inner, "single_partition_of_fp32_groups"):
        inner._hp_optimizer_states_linked = False
        inner._lazy_init_hp_params_optimizer_state()
