"""A teacher that was asked once: what training reads instead of running it.

Encoder states and token scores come from the teacher store, through memory maps that any number of
DataLoader workers share; `scores.encoder_states: memory` keeps states in this process instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.data.teacher_store import TeacherStore
from distill.data.views.draws import View
from distill.progress import progress
from distill.training.task import Batch
from distill.whisper.data.scoring import (
    read_states,
    scores_folder,
    scores_settings,
    states_folder,
    states_settings,
)
from distill.whisper.data.view_source import ViewSource
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.teacher import Teacher


class RecordedTeacher:
    """Reads what a batch of views needs.

    Args:
        teacher: who was asked; only its revision and config are looked at.
        check: read all files and compare checksums (of files not checked before).

    Raises:
        StoreError: the stores are of another teacher, tokenizer or settings, damaged, or lack
            views of this run.
    """

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher, source: ViewSource, check: bool):
        self.source = source
        self.scores = self.states = None
        self.in_memory: dict[str, Tensor] = {}
        views = source.views_of_run()
        loss = recipe.loss
        if loss.kl_weight or loss.hidden_weight:
            settings = scores_settings(
                recipe, teacher.revision, teacher.processor, teacher.model.config
            )
            self.scores = TeacherStore(scores_folder(recipe), settings)
            self.scores.rows([source.scores_key(view) for view in views])
        if recipe.scores.encoder_states == "disk":
            self.states = TeacherStore(
                states_folder(recipe), states_settings(recipe, teacher.revision)
            )
            self.states.rows(list(dict.fromkeys(source.states_key(view) for view in views)))
        if check:
            for store in filter(None, (self.scores, self.states)):
                store.check(show_progress=True)
        self.keeps_states = recipe.scores.encoder_states != "none"

    def encode_all(self, encode: Callable[[Tensor], Tensor], show_progress: bool) -> None:
        """Fill the memory: float16 states of everything the run hears (scores.encoder_states).

        Args:
            encode: features (1, bands, 3000) -> states (1, frames, width).
        """
        heard = {self.source.states_key(view): view for view in self.source.views_of_run()}
        for key, view in progress(
            heard.items(), len(heard), "encoding", "windows", show_progress
        ):
            states = encode(self.source.features([view]))[0]
            # shared, so that workers that are started later do not copy it
            self.in_memory[key] = states.to("cpu", torch.float16).share_memory_()

    def __call__(self, views: Sequence[View]) -> Batch:
        """Batch entries: `encoder_states` (views, frames, width), unless the encoder is run at
        every step; `teacher`, columns of all tokens that carry loss, one view after the other."""
        batch: Batch = {}
        if self.keeps_states:
            batch["encoder_states"] = torch.stack([self._states(view) for view in views])
        if self.scores is not None:
            rows = self.scores.rows([self.source.scores_key(view) for view in views])
            found = [self.scores.read(row) for row in rows.tolist()]
            batch["teacher"] = {
                name: _column(name, [each[name] for each in found]) for name in found[0]
            }
        return batch

    def _states(self, view: View) -> Tensor:
        key = self.source.states_key(view)
        if self.states is None:
            return self.in_memory[key]
        row = self.states.rows([key]).tolist()[0]
        return read_states(self.states.read(row), self.states.settings["dtype"])


def _column(name: str, parts: list[np.ndarray]) -> Tensor:
    joined = np.concatenate(parts)
    if name == "indices":
        joined = joined.astype(np.int64)  # what torch's gather wants
    if name == "log_rest":
        joined = np.ascontiguousarray(joined[:, -1])  # at the temperature of the loss
    return torch.from_numpy(joined)
