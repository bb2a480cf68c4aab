"""What stored scores say of clips as they are, for a head that learns from a tagger's teachers.

    scores = ClipScores("runs/demo-tagger/scores")     # scores.dir of a tagger's recipe
    targets, is_there = scores(rows)                   # (rows, classes), (rows,)

Of a clip's views those count into which no other clip is mixed, in the mean. A row that is longer
than `data.clip_seconds` was scored in parts: what is heard in one of them is heard in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from distill.ced.data.clips import Clip, cut, read_names
from distill.ced.data.view_source import ViewSource
from distill.ced.recipe import load_recipe
from distill.ced.teachers.recorded import RecordedScores
from distill.ced.teachers.scores import UNREADABLE, decode_scores
from distill.data.manifest import Row

Place = tuple[str, int, int]  # path, first sample, samples


class ClipScores:
    """Reads a store.

    Attributes:
        classes: of the scores.

    Raises:
        ValueError: there is no whole store.
        StoreError: it is damaged, or lacks views.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if missing := [name for name in ("recipe.yaml", "classes.txt")
                       if not (self.folder / name).is_file()]:
            raise ValueError(f"{folder}: no scores of a tagger's teachers: there is no "
                             f"{missing[0]}; python -m pseudo_label of their recipe makes them")
        self.classes = read_names(self.folder / "classes.txt")
        recipe = load_recipe(self.folder / "recipe.yaml", [f"scores.dir={self.folder}"])
        self.seconds, source = recipe.data.clip_seconds, ViewSource(recipe)
        recorded = RecordedScores(recipe, source, None, check=True)
        self._of_places = dict(self._means(source.clips, recorded, recipe.loss.fill))

    def _means(self, clips: Sequence[Clip], recorded: RecordedScores, fill: str
               ) -> Iterable[tuple[Place, np.ndarray]]:
        for index, clip in enumerate(clips):
            views, columns = recorded([(index, epoch) for epoch in range(recorded.num_epochs)])
            counts = np.array([not view.weight for view in views])
            counts &= columns["disagreement"] != UNREADABLE
            if counts.any():
                scores = decode_scores(columns, len(self.classes), fill)
                yield _place(clip), scores[counts].mean(0)

    def __call__(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        """float32 (rows, classes) probabilities, and bool (rows,): whether all of a row was scored
        by itself; zeros where not."""
        targets = np.zeros((len(rows), len(self.classes)), np.float32)
        is_there = np.zeros(len(rows), bool)
        for number, row in enumerate(rows):
            places = [_place(clip) for clip in cut(row, self.seconds)[0]]
            is_there[number] = bool(places) and all(each in self._of_places for each in places)
            if is_there[number]:
                targets[number] = np.max([self._of_places[each] for each in places], axis=0)
        return targets, is_there

    @cached_property
    def content(self) -> str:
        """A digest of everything."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for _, scores in sorted(self._of_places.items()):
            digest.update(scores.tobytes())
        return digest.hexdigest()


def _place(clip: Clip) -> Place:
    return str(Path(clip.path).resolve()), clip.start, clip.num_samples
