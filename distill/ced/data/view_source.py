"""The views of a recipe: what is drawn for each clip, what it sounds and looks like.

Scoring (which asks the teachers about views), training (which reads their answers) and verifying
share this, so that they cannot disagree about what a view is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distill.ced.data.clips import Clip, ClipError, load_clips, load_sound
from distill.ced.data.views import TagView, augment, draw_view, mask, view_type
from distill.ced.model.frontend import log_mel
from distill.ced.recipe import CedRecipe
from distill.data.audio import AudioError
from distill.data.files import hash_of
from distill.data.formats.places import fingerprints
from distill.data.unreadable import Unreadable


class SoundCache:
    """Sounds of clips; kept in memory, in each process, until there are `megabytes` of them."""

    def __init__(self, clips: Sequence[Clip], megabytes: int):
        self.clips, self.room = clips, megabytes * 1_000_000
        self._kept: dict[int, np.ndarray] = {}

    def __call__(self, index: int) -> np.ndarray:
        """float32 (samples,); not to be changed."""
        sound = self._kept.get(index)
        if sound is None:
            sound = load_sound(self.clips[index])
            if sound.nbytes <= self.room:
                self.room -= sound.nbytes
                self._kept[index] = sound
        return sound


class ViewSource:
    """Views of the training clips of a recipe.

    Attributes:
        clips: in the manifests' order; views count by their index.
        drops: what is no clip, by reason.
    """

    def __init__(self, recipe: CedRecipe):
        self.recipe = recipe
        self.clips, self.drops = load_clips(recipe.data.train, recipe.data.clip_seconds)
        if not self.clips:
            raise ValueError(f"data.train: no clip in {', '.join(recipe.data.train)}; "
                             f"dropped: {dict(self.drops) or 'nothing'}")
        self.sound = SoundCache(self.clips, recipe.data.cache_megabytes)
        # of an inconsistent student, whose teacher gets views that are not mixed
        unmixed = replace(recipe.views, mixup_probability=0.0)
        self.scored = recipe.views if recipe.teacher.consistent else unmixed
        self.view_type = view_type(self.scored)

    @cached_property
    def contents(self) -> list[list]:
        """What tells each clip from another one of its name: its place, and its file's content."""
        files = fingerprints(clip.path for clip in self.clips)
        return [[c.key, c.start, c.num_samples, files[c.path]] for c in self.clips]

    @cached_property
    def clips_hash(self) -> str:
        return hash_of(self.contents)

    def scored_view(self, index: int, epoch: int) -> TagView:
        """The view of a clip in an epoch that the teachers score."""
        return self._draw(self.scored, index, epoch, "")

    def student_view(self, index: int, epoch: int) -> TagView:
        """The view of an inconsistent student, which is not the one that teachers scored."""
        return self._draw(self.recipe.views, index, epoch, "student/")

    def _draw(self, config, index: int, epoch: int, prefix: str) -> TagView:
        clip = self.clips[index]
        return draw_view(config, config.seed, prefix + clip.key, epoch, index, len(self.clips),
                         clip.length)

    def wave(self, index: int, view: TagView) -> np.ndarray:
        """float32 (samples,) at 16 kHz; not to be changed."""
        return augment(self.sound(index), view, self.sound)

    def try_wave(self, index: int, view: TagView) -> np.ndarray | ClipError:
        """`wave`, or why the clip, or the one that is mixed in, cannot be read."""
        try:
            return self.wave(index, view)
        except ClipError as error:
            return ClipError(error.clip, error.error)  # without a traceback, which holds audio

    def faults(self, stage: str) -> Unreadable:
        """A counter of clips that cannot be read; those whose files are not there are counted.

        Raises:
            UnreadableError: too many are not.
        """
        found = Unreadable(len(self.clips), self.recipe.data.max_unreadable, stage)
        found.stat((clip.key, clip.path) for clip in self.clips)
        for clip, content in zip(self.clips, self.contents, strict=True):
            if content[-1] is None:  # it is there, but a read failed
                found.add(clip.key, AudioError("cannot_open", clip.path))
        found.check()
        return found

    def features(self, wave: np.ndarray, view: TagView) -> Tensor:
        """float32 (64, frames), masked."""
        mel = log_mel(torch.from_numpy(wave))
        if not view.time_masks and not view.frequency_masks:
            return mel
        return torch.from_numpy(mask(mel.numpy(), view))


def pad_features(features: Sequence[Tensor]) -> dict[str, Tensor]:
    """`input_values` (clips, 64, frames), with zeros after the shorter ones, and their
    `attention_mask` (clips, frames)."""
    longest = max(each.shape[1] for each in features)
    values = torch.zeros(len(features), features[0].shape[0], longest)
    valid = torch.zeros(len(features), longest, dtype=torch.bool)
    for number, each in enumerate(features):
        values[number, :, : each.shape[1]] = each
        valid[number, : each.shape[1]] = True
    return {"input_values": values, "attention_mask": valid}
