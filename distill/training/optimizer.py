"""What turns gradients into updates: AdamW, or Muon for the matrices of hidden layers.

Muon (K. Jordan et al., 2024, kellerjordan.github.io/posts/muon) makes the momentum of each matrix
orthogonal, so that an update turns all directions alike. PyTorch has one, in bfloat16 and matrix by
matrix: seconds a step on CPUs without bfloat16, and a sum of gradients in another order (ranks,
accumulation) ends elsewhere. Here it is in float32, and matrices of equal shape go together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.config import TrainConfig

_ITERATIONS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # Jordan's, as in PyTorch
_MOMENTUM = 0.95
_RMS = 0.2  # of an update of rate 1, as AdamW's: arXiv:2502.16982, section 2.2


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of what is trained; biases and norms (rank 1) are not decayed.

    Raises:
        ValueError: nothing is trained, or nothing that Muon is for.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("student: nothing is trained; everything is frozen by the recipe")
    matrices = hidden_matrices(model) if config.optimizer == "muon" else {}
    if config.optimizer == "muon" and not matrices:
        raise ValueError("train.optimizer: muon is for the matrices of stacked layers, and this "
                         "student trains none; use adamw")
    rates = relative_rates(model)
    if rates and config.optimizer == "adamw":
        return _with_rates(model, rates, config)
    known = {id(p) for same in matrices.values() for p in same}
    groups = [
        {"params": [p for p in trained if p.ndim > 1 and id(p) not in known],
         "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # one pass over memory instead of ten; elsewhere PyTorch chooses
    fused = True if trained[0].device.type in ("cpu", "cuda") else None
    if not matrices:
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    ratio = (config.muon_learning_rate or config.learning_rate) / config.learning_rate
    groups += [{"params": same, "weight_decay": config.weight_decay, "muon": ratio, "parts": parts}
               for parts, same in matrices.items()]
    return Muon(groups, lr=config.learning_rate, fused=fused)


def relative_rates(model: nn.Module) -> dict[str, float]:
    """Learning rates of parts of a model, as multiples of the recipe's, by the beginning of their
    names: its `relative_rates`. Most models have none."""
    rates: dict[str, float] = getattr(model, "relative_rates", {})
    return {prefix: rate for prefix, rate in rates.items() if rate != 1}


def _with_rates(
    model: nn.Module, rates: dict[str, float], config: TrainConfig
) -> torch.optim.Optimizer:
    """AdamW with a group for each rate, with and without decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            rate = next((r for prefix, r in rates.items() if name.startswith(prefix)), 1.0)
            groups.setdefault((rate, weight.ndim > 1), []).append(weight)
    fused = True if next(model.parameters()).device.type in ("cpu", "cuda") else None
    return torch.optim.AdamW(
        [{"params": same, "weight_decay": config.weight_decay if decays else 0.0, "rate": rate}
         for (rate, decays), same in sorted(groups.items(), key=lambda item: item[0])],
        lr=config.learning_rate, fused=fused)


def hidden_matrices(model: nn.Module) -> dict[int, list[nn.Parameter]]:
    """Trained matrices of layers that are stacked (in a ModuleList): neither embeddings nor heads,
    for which AdamW is better. By how many are on top of each other: queries, keys and values of
    one layer are three (Jordan)."""
    found: dict[int, dict[int, nn.Parameter]] = {}
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for name, weight in module.named_parameters():
                if weight.requires_grad and weight.ndim == 2:
                    parts = 3 if name.endswith("qkv.weight") else 1
                    found.setdefault(parts, {})[id(weight)] = weight
    return {parts: list(same.values()) for parts, same in found.items()}


class Muon(torch.optim.AdamW):
    """Muon for groups with `muon`, AdamW for the others.

    `muon` is how many times the learning rate of all it is to be there, `parts` how many matrices
    are on top of each other in each weight of the group.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # a GradScaler itself has to leave out steps that overflow: fused AdamW would, Muon does not
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        for group in groups:
            if group.get("muon"):
                self._step_matrices(group)
        try:
            self.param_groups = [group for group in groups if not group.get("muon")]
            super().step(closure)
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            momentum = self._momentum(weight).chunk(group["parts"])
            for part, its in zip(weight.chunk(group["parts"]), momentum, strict=True):
                by_shape.setdefault(tuple(_lying(part).shape), []).append(
                    (_lying(part), _lying(its)))
        rate = group["lr"] * group["muon"]
        for (_, longer), items in by_shape.items():
            updates = orthogonal(torch.stack([momentum for _, momentum in items]))
            for (weight, _), update in zip(items, updates, strict=True):
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * _RMS * longer**0.5)

    def _momentum(self, weight: Tensor) -> Tensor:
        """Nesterov's, of all gradients so far."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:  # AdamW's names: it reads them when a checkpoint is loaded
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight)
        state["step"] += 1
        state["exp_avg"].lerp_(weight.grad, 1 - _MOMENTUM)
        return weight.grad.lerp(state["exp_avg"], _MOMENTUM)


def _lying(matrix: Tensor) -> Tensor:
    """With no more rows than columns; a view."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices (n, rows, columns >= rows) whose singular values are all about 1 (0.7 to
    1.2), by Newton and Schulz's iteration X <- (a + b XX' + c (XX')^2) X.

    XX' and the product of the factors are all it needs: half the work where columns are many.
    """
    a, b, c = _COEFFICIENTS
    matrices = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    gram, product = matrices @ matrices.mT, None
    for left in reversed(range(_ITERATIONS)):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if left:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ matrices
