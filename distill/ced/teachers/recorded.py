"""Stored scores of the views of a run, read in microseconds.

    recorded = RecordedScores(recipe, source, settings, check=True)
    views, columns = recorded([(17, 3), (4, 3)])    # of (clip, epoch)s

Epochs go round: with 10 of them stored, epoch 10 of the training is epoch 0 of the store again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.ced.data.view_source import ViewSource
from distill.ced.data.views import TagView, unpack
from distill.ced.recipe import CedRecipe
from distill.ced.teachers.scoring import BLOCK_CLIPS, COLUMNS, Blocks
from distill.data.teacher_store import TeacherStore


class RecordedScores:
    """Reads a store.

    Args:
        settings: what the store has to be of; see `scoring.store_settings`. None: whatever it is.
        check: compare checksums (of files not checked before).

    Raises:
        StoreError: it is of other teachers, classes or settings, damaged, or lacks views.
    """

    def __init__(self, recipe: CedRecipe, source: ViewSource, settings: dict | None,
                 check: bool):
        self.source = source
        blocks = Blocks(source)
        self.num_epochs = blocks.num_epochs
        self.store = TeacherStore(Path(recipe.scores.dir), settings)
        rows = self.store.rows([blocks.text(block) for block in blocks])
        self.rows = rows.reshape(self.num_epochs, -1)  # (epochs, blocks)
        if check:
            self.store.check(show_progress=True)

    def __call__(
        self, samples: Sequence[tuple[int, int]]
    ) -> tuple[list[TagView], dict[str, np.ndarray]]:
        """Views and columns (views, ...) of (clip, epoch of the training)."""
        found = [self._row(index, epoch) for index, epoch in samples]
        columns = {name: np.stack([row[name] for row in found])
                   for name in (*COLUMNS, "frames") if name in found[0]}
        if "drawn" not in found[0]:
            return [TagView()] * len(found), columns
        drawn = np.stack([row["drawn"] for row in found])
        return unpack(drawn, self.source.view_type), columns

    def _row(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        block, place = divmod(index, BLOCK_CLIPS)
        columns = self.store.read(self.rows[epoch % self.num_epochs, block])
        return {name: values[place] for name, values in columns.items()}
