"""A teacher that is asked once: encoder states and scores of every view, kept in memory.

For training sets that fit (`teacher.mode: memory`); about 1.5 MB a window and 45 kB a view for
whisper-base. Views are scored in fixed groups the first time one of them is needed, so that a
resumed run gets the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from distill.data.views import View
from distill.losses import IGNORE, TeacherScores, top_k_scores
from distill.whisper.collate import TokenRow, pad
from distill.whisper.model import decoder_states

GROUP_VIEWS = 8  # scored together


class EncoderStates:
    """float16 encoder states by window id: from the labelling run's files, else computed once."""

    def __init__(self, label_folder: Path, compute: Callable[[str], Tensor]):
        self.compute = compute
        self.files: dict[str, Path] = {}
        self.states: dict[str, Tensor] = {}
        for path in sorted(label_folder.glob("part-*.safetensors")):
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def __call__(self, ids: Sequence[str], device: torch.device) -> Tensor:
        """float32 (batch, frames, width)."""
        for name in ids:
            if name not in self.states:
                self.states[name] = self._load(name)
        return torch.stack([self.states[name] for name in ids]).to(device, torch.float32)

    def _load(self, name: str) -> Tensor:
        if name in self.files:
            from safetensors import safe_open

            with safe_open(self.files[name], "pt") as file:
                return file.get_tensor(name)
        return self.compute(name).to("cpu", torch.float16)


class ScoredViews:
    """Teacher scores by view.

    Args:
        model: the teacher.
        views: all views of the whole run, in any order.
        tokens: view -> TokenRow.
        states: encoder states by window.
        top_k: scores kept per token; 0 keeps states alone.
        inner_layers: states between layers to record besides; see `inner_teacher_layers`.
    """

    def __init__(
        self,
        model,
        views: Sequence[View],
        tokens: Callable[[View], TokenRow],
        states: EncoderStates,
        top_k: int,
        temperature: float,
        inner_layers: Sequence[int] = (),
    ):
        self.inner_layers = inner_layers
        self.model, self.tokens, self.states = model, tokens, states
        self.top_k, self.temperature = top_k, temperature
        rows = {view: len(tokens(view).inputs) for view in set(views)}
        # views of like length together; the whole view decides ties, so that groups are fixed
        def key(view: View) -> tuple:
            return rows[view], view.id, view.timestamps, view.previous

        ordered = sorted(rows, key=key)
        self.groups = [ordered[i : i + GROUP_VIEWS] for i in range(0, len(ordered), GROUP_VIEWS)]
        self.group_of = {view: index for index, group in enumerate(self.groups) for view in group}
        self.scores: dict[View, dict[str, Tensor]] = {}

    def __call__(self, views: Sequence[View]) -> TeacherScores:
        """Scores of the valid tokens of all views, one view after the other."""
        for view in views:
            if view not in self.scores:
                self._score(self.groups[self.group_of[view]])
        found = [self.scores[view] for view in views]
        joined = {
            name: torch.cat([each[name] for each in found]).to(self.model.device)
            for name in found[0]
        }
        inner = [joined.pop(f"inner{index}") for index in self.inner_layers]
        if "indices" in joined:
            joined["indices"] = joined["indices"].long()
        return TeacherScores(**joined, inner=tuple(inner))

    @torch.no_grad()
    def _score(self, views: list[View]) -> None:
        rows = [self.tokens(view) for view in views]
        inputs, labels = pad(rows, self.model.config.pad_token_id)
        device = self.model.device
        states = self.states([view.id for view in views], device)
        hidden, inner = decoder_states(self.model, inputs.to(device), states, self.inner_layers)
        valid = labels.to(device) != IGNORE
        record = {"hidden": hidden[valid]}
        if self.top_k:
            scores = top_k_scores(
                record["hidden"], self.model.proj_out.weight, self.top_k, self.temperature
            )
            record |= dict(zip(("indices", "values", "lse"), scores, strict=True))
            record["indices"] = record["indices"].int()  # half the memory; ids are below 2^16
        for index, each in zip(self.inner_layers, inner, strict=True):
            record[f"inner{index}"] = each[valid]
        counts = [row.num_valid for row in rows]
        columns = {name: value.cpu().split(counts) for name, value in record.items()}
        for at, view in enumerate(views):
            # clone: a slice would keep the whole group alive
            self.scores[view] = {name: parts[at].clone() for name, parts in columns.items()}
