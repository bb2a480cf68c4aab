"""A teacher that ran once: what training reads instead of running it.

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
from distill.whisper.data.layers import choose_layers, states_to_learn
from distill.whisper.data.scoring import (
    column_of,
    read_states,
    scores_folder,
    settings_of_store,
    states_folder,
    states_settings,
)
from distill.whisper.data.view_source import ViewSource
from distill.whisper.encoder.audio import AudioFeatures
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.teacher import Teacher


class RecordedTeacher:
    """Reads what a batch needs.

    Args:
        teacher: whose stores they are; only its revision and config are looked at.
        check: read all files and compare checksums (of files not checked before).

    Raises:
        StoreError: the stores are of another teacher, tokenizer or settings, damaged, or lack
            views of this run.
    """

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher, source: ViewSource, check: bool):
        self.source = source
        self.scores = self.states = None
        self.unused: set[str] = set()  # columns of scores that other students learn from
        self.score_rows = self.state_rows = np.empty((0, 0), np.int64)  # of each sample of the run
        self.to_encode: list[View] = []
        self.in_memory: list[Tensor] = []
        views, numbers = source.numbered_views()
        loss = recipe.loss
        if loss.kl_weight or loss.hidden_weight:
            facts = recipe, teacher.revision, teacher.processor, teacher.model.config
            self.scores = TeacherStore(scores_folder(recipe), settings_of_store(*facts))
            self.unused = self._unused_columns(recipe, teacher.model.config.decoder_layers)
            rows = self.scores.rows([source.scores_key(view) for view in views])
            self.score_rows = _of_samples(rows, numbers)
        if recipe.scores.encoder_states != "none":
            keys = [source.states_key(view) for view in views]
            unique = dict(zip(keys, views, strict=True))
            if recipe.scores.encoder_states == "disk":
                self.states = TeacherStore(
                    states_folder(recipe), states_settings(recipe, teacher.revision)
                )
                rows = self.states.rows(list(unique)).tolist()
            else:
                self.to_encode = list(unique.values())
                rows = range(len(unique))
            row_of = dict(zip(unique, rows, strict=True))
            self.state_rows = _of_samples(np.array([row_of[key] for key in keys]), numbers)
        if check:
            for store in filter(None, (self.scores, self.states)):
                store.check(show_progress=True)

    def _unused_columns(self, recipe: WhisperRecipe, total: int) -> set[str]:
        layers = choose_layers(recipe.student.decoder_layers, total, "student.decoder_layers")
        stored = self.scores.settings.get("decoder_states", [])
        return {column_of(state) for state in stored} - {
            column_of(state) for state in states_to_learn(recipe, layers)}

    def encode_all(self, encode: Callable[[AudioFeatures | Tensor], list[Tensor]],
                   show_progress: bool) -> None:
        """Fill the memory: float16 states of all windows of the run (scores.encoder_states).

        Args:
            encode: gives (frames, width) of each clip.
        """
        views = self.to_encode
        for view in progress(views, len(views), "encoding", "windows", show_progress):
            (states,) = encode(self.source.features([view]))
            # shared, so that workers that are started later do not copy it
            self.in_memory.append(states.to("cpu", torch.float16).share_memory_())

    def __call__(self, samples: Sequence[tuple[int, int]]) -> Batch:
        """Batch entries of (index, epoch)s of the run: `encoder_states` (samples, frames, width),
        or a list of (frames, width) where short ones have fewer frames, unless the encoder is run
        at every step; `teacher`, columns of all tokens that carry loss, one sample after the
        other."""
        batch: Batch = {}
        if self.state_rows.size:
            batch["encoder_states"] = self._states(_rows(self.state_rows, samples))
        if self.scores is not None:
            found = [self.scores.read(row) for row in _rows(self.score_rows, samples)]
            batch["teacher"] = {
                name: _column(name, [each[name] for each in found]) for name in found[0]
                if name not in self.unused
            }
        return batch

    def _states(self, rows: Sequence[int]) -> Tensor | list[Tensor]:
        if self.states is None:
            found = [self.in_memory[row] for row in rows]
            return found if len(set(map(len, found))) > 1 else torch.stack(found)
        return read_states([self.states.read(row) for row in rows], self.states.settings["dtype"])


def _of_samples(rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rows of views -> rows of samples (epochs, windows), see `ViewSource.numbered_views`."""
    return np.where(numbers < 0, -1, rows[numbers])


def _rows(rows: np.ndarray, samples: Sequence[tuple[int, int]]) -> list[int]:
    found = [int(rows[epoch, index]) for index, epoch in samples]
    assert min(found) >= 0, f"{samples}: not all of them are samples of this run"
    return found


def _column(name: str, parts: list[np.ndarray]) -> Tensor:
    joined = np.concatenate(parts)
    if name == "indices":
        joined = joined.astype(np.int64)  # what torch's gather wants
    if name == "log_rest":
        joined = np.ascontiguousarray(joined[:, -1])  # at the temperature of the loss
    return torch.from_numpy(joined)
