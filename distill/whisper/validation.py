"""Validation of a student while it is trained: error rate, and agreement with the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from distill.data.speech.windows import Window
from distill.data.unreadable import Unreadable
from distill.data.views.draws import epoch_order
from distill.metrics.error_rates import error_counts, total
from distill.metrics.normalize import check_words, error_unit, normalizer
from distill.whisper.agreement import agreement_counts, agreement_metrics, teacher_tokens
from distill.whisper.data.corpus import (
    EvaluationUtterance,
    evaluation_utterances,
    load_clips,
    readable_rows,
    windows_of,
)
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.prompting.compose import LIMIT, prompt_tokens
from distill.whisper.prompting.draws import PromptDraws
from distill.whisper.prompting.reader_files import texts_of
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.transcribe import by_length, to_text, transcribe
from distill.whisper.teacher import Teacher


class Validation:
    """The validation split of a recipe, which every rank measures its share of.

    Attributes:
        states: {window id: (frames, width)} encoder states, kept where the encoder is frozen.
        tokens: {window id: tokens} of the teacher.
    """

    def __init__(self, recipe: WhisperRecipe, processor: Any, accelerator: Accelerator):
        self.recipe, self.processor, self.accelerator = recipe, processor, accelerator
        self.states: dict[str, Tensor] = {}
        self.tokens: dict[str, list[int]] = {}

    @cached_property
    def utterances(self) -> list[EvaluationUtterance]:
        rows, _ = load_clips(self.recipe.data.validation)
        config = self.recipe.evaluation
        faults = Unreadable(len(rows), self.recipe.data.max_unreadable, "validation")
        rows = readable_rows(rows, faults, "data.validation")
        utterances = evaluation_utterances(rows, "validation", config.pack)[0]
        for index in range(1, config.validation_packings):
            order = epoch_order(self.recipe.seed, index, len(rows))
            shuffled = [rows[position] for position in order]
            utterances += evaluation_utterances(shuffled, f"validation{index}", config.pack)[0]
        references = [utterance.reference for utterance in utterances]
        check_words(references, self._scale(utterances)[1], "data.validation")
        return utterances

    def _scale(self, utterances: Sequence[EvaluationUtterance]) -> tuple[str, Callable[[str], str]]:
        """(unit of errors, normaliser) of the whole split, so that all ranks count the same."""
        language = written_language(self.recipe)
        unit = error_unit(language, " ".join(each.reference for each in utterances))
        return unit, normalizer(self.recipe.evaluation.normalizer, language, unit)

    @property
    def rank_utterances(self) -> list[EvaluationUtterance]:
        """This rank's share."""
        return self.utterances[self.accelerator.process_index :: self.accelerator.num_processes]

    def ask(self, teacher: Teacher, shared: bool) -> None:
        """Take the teacher's tokens of the windows; none where the student learns other texts:
        those of a translation model.

        Args:
            shared: whether the student's encoder is the teacher's, so that states serve both.
        """
        if not self.recipe.data.validation or self.recipe.translation.model:
            return
        self.tokens = teacher_tokens(
            self.recipe, teacher, windows_of(self.utterances), windows_of(self.rank_utterances),
            self.accelerator, self.states if shared else None,
        )

    def __call__(self, student: WhisperForConditionalGeneration) -> dict[str, float]:
        """Word error rate (CER where words are not spaced) of greedy decoding, and how often the
        next token is the teacher's; this rank's share of the utterances each, summed over ranks.
        With words for lists also the rate with these: the score is the mean of both, or where the
        encoder reads them, which without is the teacher's, the latter alone."""
        utterances = self.rank_utterances
        texts, agreed = self._transcribe(student, utterances)
        prompted = self.contents and self._transcribe(student, utterances, self.contents)[0]
        unit, normalise = self._scale(self.utterances)
        counts, with_lists = (total(
            error_counts(normalise(u.reference), normalise(text), unit)
            for u, text in zip(utterances, each or texts, strict=True)
        ) for each in (texts, prompted))
        sums = torch.tensor([float(counts.errors), float(with_lists.errors),
                             float(counts.num_reference), *agreed])
        sums = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        errors, errors_with_lists, words, *agreed = sums.tolist()
        name = "wer" if unit == "word" else "cer"
        rates = {name: errors / max(words, 1.0)}
        if self.contents:
            rates[f"{name}_with_lists"] = errors_with_lists / max(words, 1.0)
        scored = [*rates.values()][-1:] if self._encoder_reads else [*rates.values()]
        return {**rates, "num_words": int(words), **agreement_metrics(*agreed),
                "score": sum(scored) / len(scored)}

    @property
    def _encoder_reads(self) -> bool:
        return self.recipe.student.prompt_reader.layers > 0

    @cached_property
    def contents(self) -> dict[str, str]:
        """{window id: list} of all windows; {} where none are read."""
        student, prompts = self.recipe.student, self.recipe.views.prompts
        words = (student.prompt_reader if self._encoder_reads else prompts).validation_words
        if words is None:
            return {}
        rows = [{"id": window.id, "label": utterance.reference} for utterance in self.utterances
                for window in utterance.windows]
        always = replace(prompts, probability=1.0, styles={"none": 1}, contents={"words": 1})
        draws = PromptDraws(self.recipe.seed, always, rows, read_phrases(words), lambda row: "")
        return {row["id"]: draws(at, 0).content for at, row in enumerate(rows)}

    def _transcribe(
        self, student: WhisperForConditionalGeneration, utterances: Sequence[EvaluationUtterance],
        contents: dict[str, str] | None = None,
    ) -> tuple[list[str], list[float]]:
        """Texts of the utterances, and the sums of `agreement_counts` over their windows.

        Args:
            contents: {window id: list that is read}; None: nothing.
        """
        config = self.recipe.evaluation
        was_training = student.training
        student.eval()
        decoder = WhisperDecoder(
            student,
            self.processor.tokenizer,
            self.recipe.language,
            self.recipe.task,
            # a text that is kept looping would cost a validation its 448 tokens and tell no more
            on_loop="end" if config.on_loop == "keep" else config.on_loop,
        )
        found, agreed = {}, [0.0, 0.0, 0.0]
        for batch in by_length(windows_of(utterances), config.batch_size):
            # an encoder that learns encodes anew at every validation, but once for both measures
            cache = self.states if self.recipe.student.freeze_encoder else {}
            asked = {} if contents is None else self._asked(student, batch, contents)
            found |= transcribe(decoder, self.processor, batch, config.batch_size,
                                config.max_tokens_per_second, cache, **asked)
            if contents is not None:
                continue
            counts = agreement_counts(decoder, batch, cache, self.tokens)
            agreed = [sum(pair) for pair in zip(agreed, counts, strict=True)]
        student.train(was_training)
        tokenizer = self.processor.tokenizer
        texts = [
            " ".join(to_text(tokenizer, found[window.id].tokens) for window in utterance.windows)
            for utterance in utterances
        ]
        return texts, agreed

    def _asked(self, student: WhisperForConditionalGeneration, batch: Sequence[Window],
               contents: dict[str, str]) -> dict[str, dict]:
        """What `transcribe` gives to the encoder, or else to the decoder, of a batch."""
        if self._encoder_reads:
            return {"texts": {window.id: texts_of(student, None, [contents[window.id]])[0]
                              for window in batch}}
        tokenizer = self.processor.tokenizer
        return {"previous": {window.id: prompt_tokens(tokenizer, None, contents[window.id], LIMIT)
                             for window in batch}}
