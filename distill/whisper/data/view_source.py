"""The views of a recipe's labels: the augmentation drawn for each, its features and its tokens.

Labelling (which scores views), training (which reads the scores) and verifying share this, so that
they cannot disagree about what a view is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.files import hash_of, read_json, read_jsonl
from distill.data.noise.training import TrainingNoises
from distill.data.speech.windows import load_patiently
from distill.data.teacher_store import view_key
from distill.data.views.augment import augment_audio, mask_features
from distill.data.views.batches import FixedBatches, TokenBatches
from distill.data.views.draws import Prompt, View, draw_view, generator
from distill.whisper.data.collate import TokenRow, TokenRules
from distill.whisper.data.corpus import load_clips, rebuild_window
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.encoder.audio import AudioFeatures, audio_features
from distill.whisper.prompting.draws import PromptDraws
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.special import SpecialTokens


def read_kept(recipe: WhisperRecipe) -> list[dict]:
    """Filtered label rows of a recipe.

    Raises:
        ValueError: nothing is labelled, or the labels were filtered in another way.
    """
    folder = Path(recipe.labels_dir)
    if not (folder / "filter.json").is_file():
        raise ValueError(f"no labels in {folder}: run `make NAME.label` first")
    before, wanted = read_json(folder / "filter.json").get("filter", {}), asdict(recipe.filter)
    other = [key for key in wanted.keys() | before.keys() if before.get(key) != wanted.get(key)]
    if other:
        changes = ", ".join(f"filter.{k}={before.get(k)}, the recipe says {wanted.get(k)}"
                            for k in sorted(other))
        raise ValueError(
            f"the labels in {folder} were filtered with {changes}: run `python -m "
            "pseudo_label.filter` with the same settings"
        )
    rows = read_jsonl(folder / "kept.jsonl")
    if not rows:
        raise ValueError(f"no label in {folder} passed the filter; see filter.json for the reasons")
    return rows


def states_key_of(row: dict, augmentation: dict | None = None) -> str:
    """Cache key of the encoder states of a label row's window."""
    audio = {"id": row["id"], "pieces": hash_of(row["pieces"])}
    return view_key(audio | ({"augmentation": augmentation} if augmentation else {}))


def _masked(mels: Tensor, views: Sequence[View]) -> Tensor:
    """Features (views, bands, frames) with what was drawn for each."""
    return torch.stack([
        mel if view.augmentation is None
        else torch.from_numpy(mask_features(mel.numpy(), view.augmentation))
        for mel, view in zip(mels, views, strict=True)
    ])


class ViewSource:
    """Views of the kept labels of a recipe.

    Args:
        processor: of the teacher.
        generation_config: of the teacher.
        context: decoder positions of the teacher.

    Attributes:
        rows: kept label rows, in file order; views count by their index.
    """

    def __init__(self, recipe: WhisperRecipe, processor, generation_config, context: int):
        self.recipe, self.processor = recipe, processor
        self.rows = read_kept(recipe)
        self.by_id = {row["id"]: row for row in self.rows}
        self.clips = {row.id: row for row in load_clips(recipe.data.train)[0]}
        self.rules = TokenRules(
            special=SpecialTokens(processor.tokenizer, generation_config),
            language=recipe.language,
            task=recipe.task,
            context=context,
            timestamps=recipe.pseudo_label.timestamps,
            tokenizer=processor.tokenizer,
        )

    @cached_property
    def labels_hash(self) -> str:
        noise = [self._noises.recordings(kind) for kind in self.recipe.views.augment.noise]
        return hash_of([self.rows, noise] if any(noise) else self.rows)

    @property
    def languages(self) -> set[str | None]:
        """Of the windows that a student learns from; {None} of an English-only teacher's."""
        return {row["language"] or self.recipe.language for row in self.rows}

    def view(self, index: int, epoch: int) -> View:
        """The view of a window in an epoch; a window without a previous text never has one."""
        config, row = self.recipe.views, self.rows[index]
        epoch = epoch if config.epochs is None else epoch % config.epochs
        view = draw_view(
            self.recipe.seed,
            row["id"],
            epoch,
            timestamp_probability=config.timestamp_probability,
            previous_text_probability=config.previous_text_probability if row["prompt"] else 0.0,
            augment=config.augment,
            num_bands=self.processor.feature_extractor.feature_size,
        )
        drawn = view.augmentation
        if drawn and (recordings := self._noises.recordings(drawn.noise)):
            view = replace(view, augmentation=replace(drawn, recordings=recordings))
        return replace(view, prompt=self._prompt(index, epoch)) if self._prompts else view

    def _prompt(self, index: int, epoch: int) -> Prompt | None:
        """What was drawn for a window; None where there is none, or it is dropped."""
        reader = self.recipe.student.prompt_reader
        if reader.layers:
            drawn = generator(self.recipe.seed, f"dropped {self.rows[index]['id']}", epoch).random()
            if drawn < reader.drop_probability:
                return None
        return self._prompts(index, epoch)

    @cached_property
    def _noises(self) -> TrainingNoises:
        config = self.recipe.views.augment
        return TrainingNoises(config.noise, config.recordings, list(self.clips.values()))

    @cached_property
    def _prompts(self) -> PromptDraws | None:
        config = self.recipe.views.prompts
        if not config.probability:
            return None
        phrases = None if config.words is None else read_phrases(config.words)
        return PromptDraws(self.recipe.seed, config, self.rows, phrases, self._previous_text)

    def _previous_text(self, row: dict) -> str:
        return self.processor.tokenizer.decode(row["prompt"], skip_special_tokens=True).strip()

    def heard_by_teacher(self, view: View) -> View:
        """The view as the teacher scores it (`views.teacher_hears`)."""
        if self.recipe.views.teacher_hears == "clean":
            return replace(view, augmentation=None)
        return view

    def tokens(self, view: View) -> TokenRow:
        return self.rules(self.by_id[view.id], view)

    def student_tokens(self, view: View) -> TokenRow:
        """What the student's decoder reads: without a prompt that its encoder reads."""
        reads = not self.recipe.student.prompt_reader.layers
        return self.rules(self.by_id[view.id], view, reads)

    def length(self, view: View) -> int:
        """Decoder positions of a view."""
        return len(self.student_tokens(view).inputs)

    def features(self, views: Sequence[View]) -> AudioFeatures | Tensor:
        """Log-mel features as the teacher hears them: (views, bands, 3000), or those of short
        views at their own length (`teacher.short_audio_margin`)."""
        margin = self.recipe.teacher.short_audio_margin
        return self.padded_features(views) if margin is None else self._features(views, margin)

    def padded_features(self, views: Sequence[View]) -> Tensor:
        """Log-mel features (views, bands, 3000)."""
        return self._features(views, None).groups[0][2]

    def _features(self, views: Sequence[View], margin: float | None) -> AudioFeatures:
        """Masks lie on a short clip's own frames, which are what is computed; the mean of these
        fills them."""
        audios = [self._audio(view) for view in views]
        found = audio_features(self.processor, audios, margin)
        return AudioFeatures(
            [(clips, positions, _masked(mels, [views[clip] for clip in clips]))
             for clips, positions, mels in found.groups], found.num_clips)

    def files(self, window: str) -> list[tuple[str, str]]:
        """(clip, path) of the clips of a window."""
        pieces = self.by_id[window]["pieces"]
        return [(piece["id"], self.clips[piece["id"]].audio_filepath) for piece in pieces
                if piece["id"] in self.clips]

    def _audio(self, view: View) -> np.ndarray:
        audio = load_patiently(rebuild_window(self.by_id[view.id], self.clips))
        drawn = view.augmentation
        if drawn is None:
            return audio
        if drawn.recordings != self._noises.recordings(drawn.noise):
            raise ValueError(f"view of window {view.id}: the recordings that its noise is made of "
                             "have changed")
        return augment_audio(audio, drawn, self._noises.make)

    # Cache keys: views are found in a store by them

    def scores_key(self, view: View) -> str:
        """Everything that the teacher hears of what was drawn, and hashes of audio and tokens:
        windows and labels made anew under the same id are other views."""
        row = self.by_id[view.id]
        tokens = self.tokens(view)
        asked = hash_of([tokens.inputs, tokens.labels])
        heard = self.heard_by_teacher(view)
        return view_key(heard.to_dict() | {"pieces": hash_of(row["pieces"]), "tokens": asked})

    def states_key(self, view: View) -> str:
        """Encoder states do not depend on tokens: all views of a window share them, unless
        its sound is changed."""
        return states_key_of(self.by_id[view.id], view.to_dict().get("augmentation"))

    # What a run asks for

    @cached_property
    def batches(self) -> FixedBatches | TokenBatches:
        """Which views every update of the run holds."""
        train, size = self.recipe.train, len(self.rows)
        if train.batch_tokens is None:
            return FixedBatches(self.recipe.seed, size, train.batch_size, train.micro_batch_size)
        micro = train.micro_batch_tokens or train.batch_tokens
        return TokenBatches(self.recipe.seed, size, self._lengths, train.batch_tokens, micro)

    def _lengths(self, epoch: int) -> list[int]:
        """Decoder tokens of every window's view in an epoch."""
        return [self.length(self.view(index, epoch)) for index in range(len(self.rows))]

    def views_of_run(self) -> list[View]:
        """Every different view of the run, once, in the order of first use."""
        return self.numbered_views()[0]

    def numbered_views(self) -> tuple[list[View], np.ndarray]:
        """`views_of_run`, and for each sample of the run the number of its view among them:
        (epochs, windows) int64, -1 where the run has no such sample."""
        numbers: dict[View, int] = {}
        epochs: list[np.ndarray] = []
        for step in range(self.recipe.train.max_steps):
            for index, epoch in self.batches.update(step):
                while epoch >= len(epochs):
                    epochs.append(np.full(len(self.rows), -1))
                view = self.view(index, epoch)
                epochs[epoch][index] = numbers.setdefault(view, len(numbers))
        return list(numbers), np.stack(epochs)
