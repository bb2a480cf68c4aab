"""What is trained, and where a launch keeps it: whole on every rank, or a part on each.

DDP leaves the weights whole. FSDP 2 cuts weights, gradients and optimiser states into one part a
rank; DeepSpeed ZeRO-2 cuts the last two, ZeRO-3 all three. Weights that are cut cannot decode or be
saved, so there the loop trains a copy of `task.model`, and fills the task's own from all ranks when
it validates. Weights stay float32 everywhere; lower precision is a matter of autocast, so that
every launch computes the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from distill.config import TrainConfig
from distill.training import zero
from distill.training.optimizer import make_optimizer


def plugins(mixed_precision: str) -> dict[str, Any]:
    """Arguments of an Accelerator that keep weights float32, whatever the launch file says."""
    if _asked("DEEPSPEED"):
        return {"mixed_precision": "no"}  # it would cast the weights; `Weights.precision` does it
    if _asked("FSDP"):
        from accelerate import FullyShardedDataParallelPlugin
        from torch.distributed.fsdp import MixedPrecisionPolicy

        plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())
        return {"mixed_precision": mixed_precision, "fsdp_plugin": plugin}
    return {"mixed_precision": mixed_precision}


def check_launch(accelerator: Accelerator) -> None:
    """Before models are loaded.

    Raises:
        ValueError: accelerate left out in silence what the launch file asks for.
    """
    kind = accelerator.distributed_type
    for name in ("FSDP", "DEEPSPEED"):
        if _asked(name) and kind != DistributedType[name]:
            raise ValueError(f"the launch file asks for {name}, and accelerate gives {kind.value} "
                             f"on {accelerator.device.type}; launch with ddp.yaml or cpu2.yaml")
    if kind == DistributedType.DEEPSPEED:
        zero.build_whole()


def check(config: TrainConfig, accelerator: Accelerator) -> None:
    """
    Raises:
        ValueError: the launch cannot train as the recipe asks.
    """
    kind = accelerator.distributed_type
    if config.optimizer == "muon" and kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError("train.optimizer: muon needs whole matrices, and FSDP and DeepSpeed give "
                         "each rank a part; use adamw, or launch without them")
    if config.mixed_precision == "fp16" and kind == DistributedType.DEEPSPEED:
        raise ValueError("train.mixed_precision: DeepSpeed's fp16 has no float32 weights here; use "
                         "bf16 or no, or launch without DeepSpeed")


def _asked(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"


class Weights:
    """The module, and its optimiser, that a launch trains.

    Args:
        plain: `task.model`, whole.
        found: a checkpoint's folder, whose weights DeepSpeed has to begin with.

    Attributes:
        model: what is called and trained; prepared.
        optimizer: prepared.
        trained: parameters that are trained, in the order of `plain.parameters()`.
    """

    def __init__(
        self, plain: nn.Module, config: TrainConfig, accelerator: Accelerator, found: Path | None
    ):
        self.config, self.accelerator, self.plain = config, accelerator, plain
        kind = accelerator.distributed_type
        self.is_deepspeed = kind == DistributedType.DEEPSPEED
        self.stage = accelerator.state.deepspeed_plugin.zero_stage if self.is_deepspeed else 0
        self.is_cut = kind == DistributedType.FSDP or self.stage == 3
        if self.is_deepspeed:
            zero.configure(accelerator.state.deepspeed_plugin, config)
            if found:
                zero.load_weights(_trained(plain), found)
        copy = _apart(plain) if self.is_cut else plain
        if kind == DistributedType.FSDP:
            _set_layers(accelerator.state.fsdp_plugin, copy)
        self.model, self.optimizer = accelerator.prepare(copy, make_optimizer(copy, config))
        self.trained = _trained(copy)
        if self.is_cut:
            plain.to("cpu")

    def backward(self, loss: Tensor, is_last: bool) -> None:
        """Add gradients; DeepSpeed also clips and steps after the last micro-batch."""
        if self.is_deepspeed:  # `accelerator.backward` would step after every one
            self.accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=is_last)
        else:
            self.accelerator.backward(loss)

    def precision(self) -> AbstractContextManager[Any]:
        """For forward passes that accelerate does not see to."""
        if self.is_deepspeed and self.config.mixed_precision == "bf16":
            return torch.autocast(self.accelerator.device.type, torch.bfloat16)
        return nullcontext()

    def parts(self) -> list[Tensor]:
        """This rank's part of every trained weight; what is written there is trained on from."""
        if not self.is_cut:
            return [weight.data for weight in self.trained]
        if self.is_deepspeed:
            return [zero.part(weight) for weight in self.trained]
        return [weight.data.to_local() for weight in self.trained]  # type: ignore[attr-defined]

    def join(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """Whole tensors of such parts, one by one; on every rank, which all have to ask."""
        for weight, own in zip(self.trained, parts, strict=True):
            if not self.is_cut:
                yield own
            elif self.is_deepspeed:
                yield zero.join(weight, own)
            else:
                yield _as_dtensor(weight, own).full_tensor()

    def cut(self, whole: list[Tensor]) -> Iterator[Tensor]:
        """This rank's parts of whole tensors."""
        for weight, tensor in zip(self.trained, whole, strict=True):
            if not self.is_cut:
                yield tensor
            elif self.is_deepspeed:
                yield zero.cut(weight, tensor)
            else:
                yield _cut(weight, tensor)

    @contextmanager
    def shown(self, parts: list[Tensor] | None = None) -> Iterator[None]:
        """Inside, `task.model` has these weights, or those of now; for a look, not to train."""
        if self.is_cut:
            self.plain.to(self.accelerator.device)
            self._fill(self.parts() if parts is None else parts)
            yield
            self.plain.to("cpu")
            return
        if parts is not None:
            _exchange(self.parts(), parts)
        yield
        if parts is not None:
            _exchange(self.parts(), parts)

    @torch.no_grad()
    def _fill(self, parts: list[Tensor]) -> None:
        for weight, whole in zip(_trained(self.plain), self.join(parts), strict=True):
            weight.copy_(whole)

    def save(self, folder: Path) -> None:
        """Weights, optimiser and random generators, on every rank."""
        if self.is_deepspeed:
            zero.save(self.trained, self.optimizer, self.accelerator, folder)
        else:
            self.accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        """What `save` wrote, on any number of ranks."""
        if self.is_deepspeed:
            zero.load_optimizer(self.trained, self.optimizer, self.accelerator, folder)
        else:
            self.accelerator.load_state(str(folder))


def _set_layers(plugin: Any, model: nn.Module) -> None:
    """What FSDP gathers at a time: layers that the launch file names and that this model has, and
    those that its parts name themselves."""
    names = {*(plugin.transformer_cls_names_to_wrap or ())}.union(
        *(getattr(part, "_no_split_modules", None) or () for part in model.modules()))
    plugin.transformer_cls_names_to_wrap = sorted(
        names & {type(part).__name__ for part in model.modules()})


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _apart(model: nn.Module) -> nn.Module:
    """A copy with weights of its own. What a module keeps out of its tree, such as a teacher, is
    shared."""
    own = vars(nn.Module())
    shared = {id(value): value for name, value in vars(model).items() if name not in own}
    return deepcopy(model, shared)


def _as_dtensor(weight: Any, own: Tensor) -> Any:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(own, weight.device_mesh, weight.placements, run_check=False,
                              shape=weight.shape, stride=weight.stride())


def _cut(weight: Any, whole: Tensor) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    mesh = weight.device_mesh
    return distribute_tensor(whole, mesh, weight.placements, src_data_rank=None).to_local()


@torch.no_grad()
def _exchange(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
