"""Average of the weights over the last updates."""

from __future__ import annotations

from typing import Any

import torch


class Average:
    """Exponential moving average of the trained weights (Polyak & Juditsky, 1992)."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.model, self.decay, self.updates = model, decay, 0
        self.weights = [p.detach().clone() for p in self._trained()]

    def _trained(self) -> list[torch.Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))  # forget the start sooner
        for average, weight in zip(self.weights, self._trained(), strict=True):
            average.lerp_(weight, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; twice is nothing."""
        for average, weight in zip(self.weights, self._trained(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for average, saved in zip(self.weights, state["weights"], strict=True):
            average.copy_(saved)
