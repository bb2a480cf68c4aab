"""Backends that run the teacher: PyTorch (`transformers`), or CTranslate2 in integers
(`ctranslate2`).

Both get windows with their log-mel features and give the same fields. The first is the reference:
training compares with it. The second needs `pip install audio-distill[ct2]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from distill.data.audio import AudioError
from distill.data.speech.windows import Window
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import (
    AudioFeatures,
    audio_features,
    encode_features,
    stack_states,
)
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.recipe import WhisperRecipe, teacher_task
from distill.whisper.recognition.assistant import OldLabels, load_assistant
from distill.whisper.recognition.fallback import GREEDY, Fallback, decode_with_fallback, seed_of
from distill.whisper.recognition.guard import decode_guarded, outran
from distill.whisper.recognition.labelled import Labelled, limits_of, timestamps_of
from distill.whisper.recognition.sequential import LongAudio, transcribe_long
from distill.whisper.special import SpecialTokens
from distill.whisper.teacher import Teacher

_BATCHES = 4  # of a group; its encoder states are in memory: 1 GB for 256 windows of large-v3


class Backend(Protocol):
    """Runs a teacher.

    Attributes:
        group_size: windows it wants at a time, of like length, the longest first.
        margin: seconds of silence that it encodes behind short audio; None pads to 30 s.
    """

    group_size: int
    margin: float | None

    def inputs(self, audios: list[np.ndarray]) -> AudioFeatures:
        """What `label` needs of the audio of windows; needs no model, and is called by a thread
        that reads ahead.

        Args:
            audios: float32 (samples,) at 16 kHz each.
        """

    def label(
        self, windows: Sequence[Window], features: AudioFeatures
    ) -> tuple[list[Labelled], Tensor | None]:
        """Labels of windows.

        Args:
            windows: up to `group_size`.
            features: of `inputs`: (windows, bands, 3000) log-mel, float32, on the CPU.

        Returns:
            a `Labelled` for each window, and the teacher's encoder states (windows, 1500, width);
            None if they are not equal to those that training would compute.
        """

    def describe(self) -> str:
        """A summary of all windows so far, for the user; may be empty."""


def load_backend(recipe: WhisperRecipe, teacher: Teacher) -> Backend:
    """The backend a recipe names.

    Raises:
        ValueError: it is not installed, knows no such compute type here, or the teacher cannot
            tell languages apart and was asked to.
    """
    special = SpecialTokens(teacher.processor.tokenizer, teacher.model.generation_config)
    if recipe.pseudo_label.detect_language and not special.languages:
        raise ValueError("pseudo_label.detect_language needs a multilingual teacher")
    if recipe.pseudo_label.backend == "ctranslate2":
        from distill.whisper.recognition.ct2_backend import Ct2Backend

        return Ct2Backend(recipe, teacher)
    return TransformersBackend(recipe, teacher)


class TransformersBackend:
    """PyTorch, in the model's type: float32 on CPUs, float16 on GPUs.

    `pseudo_label.batch_size` windows are in the caches at a time; where one ends, another of its
    group begins.
    """

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher):
        self.recipe, self.model = recipe, teacher.model
        self.batch_size = recipe.pseudo_label.batch_size
        self.group_size = _BATCHES * self.batch_size
        self.margin = margin_of(teacher.model)
        self.processor = teacher.processor
        self.tokenizer = teacher.processor.tokenizer
        self.fallback = Fallback(tuple(recipe.pseudo_label.temperatures))
        student, phrases = load_assistant(recipe, teacher.model), self._phrases()
        first, *others = timestamps_of(recipe.pseudo_label)

        def decoder(timestamps: bool, **options) -> WhisperDecoder:
            return WhisperDecoder(
                teacher.model, self.tokenizer, recipe.language, teacher_task(recipe), timestamps,
                exact=recipe.decoding.exact, max_slots=self.batch_size, phrases=phrases,
                **options)

        self.decoders = [decoder(first, student=student,
                                 detect_language=recipe.pseudo_label.detect_language)]
        self.decoders += [decoder(timestamps, share_weights_with=self.decoders[0])
                          for timestamps in others]
        self.old = OldLabels(recipe.decoding.old_labels) if recipe.decoding.old_labels else None

    def _phrases(self) -> PhraseList | None:
        """Of `decoding.phrases`."""
        decoding = self.recipe.decoding
        if decoding.phrases is None:
            return None
        return PhraseList(self.tokenizer, read_phrases(decoding.phrases), decoding.phrase_boost)

    def inputs(self, audios: list[np.ndarray]) -> AudioFeatures:
        """See `Backend`."""
        return audio_features(self.processor, audios, self.margin)

    def label(
        self, windows: Sequence[Window], features: AudioFeatures
    ) -> tuple[list[Labelled], Tensor | None]:
        """See `Backend`."""
        encoder = self.model.get_encoder()
        parts = features.split(self.batch_size)
        encoded = [encode_features(encoder, part) for part in parts]
        states = stack_states(self.model, [each for part in encoded for each in part])
        calls = [(windows, features, states)]
        if len({each.shape[1] for each in encoded}) > 1:  # none is as long as a group's longest
            starts = range(0, len(windows), self.batch_size)
            calls = [(windows[at : at + self.batch_size], part, each)
                     for at, part, each in zip(starts, parts, encoded, strict=True)]
        found = [[each for call in calls for each in self._decode(number, *call)]
                 for number in range(len(self.decoders))]
        labelled = [Labelled(*each) for each in zip(*found, strict=True)]
        if self.recipe.pseudo_label.detect_language:
            for each in labelled:
                each.language = each.hypothesis.language
                each.language_prob = each.hypothesis.language_prob
        return labelled, states

    def _decode(self, number: int, windows: Sequence[Window], features: AudioFeatures,
                states: Tensor) -> list[Hypothesis]:
        """By one of the decoders: the first, or that of the second decoding, which is greedy."""
        decoder, fallback = self.decoders[number], GREEDY if number else self.fallback
        limits, languages = limits_of(self.recipe, windows), [w.language for w in windows]
        seeds = [seed_of(window.id, self.recipe.seed) for window in windows]
        drafts = self.old and self.old(windows, decoder)

        def decode(states: Tensor, rows: list[int]) -> list[Hypothesis]:
            return decode_with_fallback(
                decoder, self.tokenizer, fallback, states, [limits[row] for row in rows],
                [seeds[row] for row in rows], languages=[languages[row] for row in rows],
                drafts=drafts and [drafts[row] for row in rows])

        def padded(rows: list[int]) -> Tensor:
            return encode_features(self.model.get_encoder(), features.padded(rows))

        return decode_guarded(decode, states, features.short, padded, decoder.report,
                              lambda found: outran(found) or found.temperature > 0)

    def label_recordings(
        self,
        recordings: Sequence[LongAudio],
        on_window: Callable[[LongAudio, float, float, Labelled], None],
        on_finished: Callable[[LongAudio, list, AudioError | None], None],
    ) -> None:
        """Label recordings of any length by the sequential algorithm (`pseudo_label.long_audio`).

        Args:
            on_window, on_finished: as of `transcribe_long`, but with labels.
        """
        def found(audio: LongAudio, start: float, seconds: float, hypothesis: Hypothesis) -> None:
            labelled = Labelled(hypothesis)
            if self.recipe.pseudo_label.detect_language:
                labelled.language = hypothesis.language
                labelled.language_prob = hypothesis.language_prob
            on_window(audio, start, seconds, labelled)

        transcribe_long(
            self.decoders[0], self.processor, recordings, self.batch_size, self.fallback,
            previous_text=self.recipe.pseudo_label.packing == "sequential",
            on_window=found, on_finished=on_finished)

    def describe(self) -> str:
        """Counts of drafts, also if none were worth reading; empty without any source of drafts."""
        drafted = self.old is not None or self.decoders[0].drafter is not None
        if not drafted and not any(decoder.report.padded for decoder in self.decoders):
            return ""
        return "; ".join(f"Decoding: {decoder.report}" for decoder in self.decoders)
