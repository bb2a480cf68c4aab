"""Average of the weights over the last updates."""

from __future__ import annotations

from typing import Any

import torch

from distill.training.sharding import Weights


class Average:
    """Exponential moving average of the trained weights (Polyak & Juditsky, 1992); where weights
    are cut, each rank has that of its parts."""

    def __init__(self, weights: Weights, decay: float):
        self.weights, self.decay, self.updates = weights, decay, 0
        self.parts = [part.clone() for part in weights.parts()]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))  # forget the start sooner
        for average, weight in zip(self.parts, self.weights.parts(), strict=True):
            average.lerp_(weight, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors; every rank has to ask."""
        whole = [tensor.cpu() for tensor in self.weights.join(self.parts)]
        return {"updates": self.updates, "weights": whole}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for average, saved in zip(self.parts, self.weights.cut(state["weights"]), strict=True):
            average.copy_(saved)
