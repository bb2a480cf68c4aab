"""The teachers score views; the scores become records of the teacher store.

A record is a block: 128 clips, one after the other, in one epoch, a row each. So the store's own
bookkeeping, 65 bytes a record, is half a byte a view. A row has the classes of the top k and their
probabilities (`distill.ced.teachers.scores`), and everything that was drawn
(`distill.ced.data.views`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import NamedTuple

import numpy as np
from torch import Tensor

from distill.ced.data.clips import ClipError, find_classes
from distill.ced.data.view_source import ViewSource
from distill.ced.data.views import TagView, pack
from distill.ced.recipe import CedRecipe
from distill.ced.teachers.ensemble import Ensemble, ensemble_settings, first_classes
from distill.ced.teachers.frames import STEP_SECONDS, num_steps, pad_steps
from distill.ced.teachers.scores import UNREADABLE, encode_scores
from distill.data.files import hash_of
from distill.data.teacher_store import Record, view_key
from distill.data.unreadable import file_fault

BLOCK_CLIPS = 128
COLUMNS = ("indices", "values", "tail_mean", "disagreement")


class Block(NamedTuple):
    """Clips first..first + BLOCK_CLIPS - 1, or up to the last one, in an epoch."""

    first: int
    epoch: int


class Views(NamedTuple):
    """Some views as teachers get them."""

    views: list[TagView]
    waves: list[np.ndarray]
    features: list[Tensor]
    unreadable: dict[int, ClipError]  # by index in `views`: silence instead, and why


def resolve_classes(recipe: CedRecipe) -> list[str]:
    """The classes of a recipe: of its file, its labels or its first teacher."""
    return find_classes(recipe) or first_classes(recipe.teacher)


class Blocks:
    """The views of a run as blocks of a store."""

    def __init__(self, source: ViewSource):
        self.source, self.num_clips = source, len(source.clips)
        recipe = source.recipe
        views = recipe.train.max_steps * recipe.train.batch_size
        self.num_epochs = min(recipe.scores.epochs, math.ceil(views / self.num_clips))

    def __iter__(self) -> Iterator[Block]:
        for epoch in range(self.num_epochs):
            yield from (Block(first, epoch) for first in range(0, self.num_clips, BLOCK_CLIPS))

    def clips(self, block: Block) -> range:
        return range(block.first, min(block.first + BLOCK_CLIPS, self.num_clips))

    def is_whole(self, block: Block) -> bool:
        """Whether all its files could be read when the run began; else it has no text."""
        return all(content[-1] is not None for content in
                   self.source.contents[block.first : block.first + BLOCK_CLIPS])

    def text(self, block: Block) -> str:
        """What the store knows a block by."""
        return view_key({"clips": self._hashes[block.first // BLOCK_CLIPS],
                           "epoch": block.epoch, "first": block.first})

    @cached_property
    def _hashes(self) -> list[str]:
        contents = self.source.contents
        return [hash_of(contents[at : at + BLOCK_CLIPS])
                for at in range(0, self.num_clips, BLOCK_CLIPS)]


def store_settings(recipe: CedRecipe, source: ViewSource, classes: Sequence[str]) -> dict:
    """What all scores of a store have in common."""
    settings = {
        "kind": "tag scores",
        "scores": "probabilities",
        "teacher": ensemble_settings(recipe.teacher),
        "num_classes": len(classes),
        "classes": hash_of(list(classes)),
        "k": min(recipe.scores.k, len(classes)),
        "values": recipe.scores.values,
        "clip_seconds": recipe.data.clip_seconds,
        "views": asdict(source.scored),
        "view_bytes": source.view_type.itemsize,
    }
    if recipe.scores.frames:
        settings["frame_seconds"] = STEP_SECONDS
    if source.scored.mixup_probability:  # partners are numbers of these
        settings["clips"] = source.clips_hash
    return settings


class Scorer:
    """Asks the teachers about views."""

    def __init__(self, recipe: CedRecipe, source: ViewSource, ensemble: Ensemble):
        self.recipe, self.source, self.ensemble = recipe, source, ensemble
        self.blocks = Blocks(source)
        self.num_steps = num_steps(max(clip.length for clip in source.clips))

    def batches(self, block: Block) -> list[list[tuple[int, int]]]:
        """(index, epoch) of a block's views, in the batches they are scored in: who shares one
        depends on the block alone."""
        clips, size = self.blocks.clips(block), self.recipe.scores.batch_size
        samples = [(index, block.epoch) for index in clips]
        return [samples[at : at + size] for at in range(0, len(samples), size)]

    def lost(self, blocks: Sequence[Block]) -> list[ClipError]:
        """Clips that some blocks need and whose files are not there now."""
        source = self.source
        needed: set[int] = set()
        for block in blocks:
            for index in self.blocks.clips(block):
                view = source.scored_view(index, block.epoch)
                needed |= {index, view.partner} if view.weight else {index}
        faults = {path: file_fault(path) for path in {source.clips[n].path for n in needed}}
        found = [(source.clips[n].key, faults[source.clips[n].path]) for n in sorted(needed)]
        return [ClipError(key, fault) for key, fault in found if fault]

    def prepare(self, samples: Sequence[tuple[int, int]]) -> Views:
        """Views as the teachers get them; what workers do."""
        views = [self.source.scored_view(index, epoch) for index, epoch in samples]
        waves, unreadable = [], {}
        for number, ((index, _), view) in enumerate(zip(samples, views, strict=True)):
            wave = self.source.try_wave(index, view)
            if isinstance(wave, ClipError):
                unreadable[number] = wave
                wave = np.zeros(self.source.clips[index].length, np.float32)
            waves.append(wave)
        features = [self.source.features(wave, view)
                    for wave, view in zip(waves, views, strict=True)]
        return Views(views, waves, features, unreadable)

    def score(self, prepared: Views) -> dict[str, np.ndarray]:
        """Columns of some views, a row each."""
        config = self.recipe.scores
        output = self.ensemble(prepared.waves, prepared.features, config.frames)
        frames = pad_steps(output.frames, self.num_steps) if config.frames else None
        columns = encode_scores(output.probabilities, output.disagreement, config.k,
                                config.values, frames)
        columns["disagreement"][list(prepared.unreadable)] = UNREADABLE
        if self.source.view_type.itemsize:
            columns["drawn"] = pack(prepared.views, self.source.view_type)
        return columns

    def record(self, block: Block, parts: Sequence[dict[str, np.ndarray]]) -> Record:
        """A block of its batches' columns."""
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Record(self.blocks.text(block), columns)


class Rescorer:
    """`score(texts) -> records`: asks the live teachers again about blocks of a store."""

    def __init__(self, recipe: CedRecipe):
        source = ViewSource(recipe)
        self.scorer = Scorer(recipe, source, Ensemble(recipe.teacher, resolve_classes(recipe)))

    def __call__(self, texts: Sequence[str]) -> list[Record]:
        return [self._record(text) for text in texts]

    def _record(self, text: str) -> Record:
        drawn = json.loads(text)
        block, scorer = Block(drawn["first"], drawn["epoch"]), self.scorer
        if block.first >= scorer.blocks.num_clips or scorer.blocks.text(block) != text:
            raise ValueError(f"block {text}: its clips have changed")
        prepared = [scorer.prepare(samples) for samples in scorer.batches(block)]
        for views in prepared:
            for error in views.unreadable.values():
                if error.is_transient:
                    raise error
        return scorer.record(block, [scorer.score(views) for views in prepared])
