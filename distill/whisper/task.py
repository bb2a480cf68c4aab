"""Whisper distillation as a task of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.data.unreadable import Unreadable
from distill.data.views.draws import epoch_order
from distill.metrics.error_rates import error_counts, total
from distill.metrics.normalize import check_words, error_unit, normalizer
from distill.training.task import Batch
from distill.whisper.agreement import agreement_counts, agreement_metrics, teacher_tokens
from distill.whisper.data.collate import pad
from distill.whisper.data.corpus import (
    EvaluationUtterance,
    evaluation_utterances,
    load_clips,
    readable_rows,
    windows_of,
)
from distill.whisper.data.recorded import RecordedTeacher
from distill.whisper.data.view_source import ViewSource
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.generation import complete
from distill.whisper.model import DistillModule, inner_teacher_layers
from distill.whisper.recipe import WhisperRecipe, written_language
from distill.whisper.recognition.transcribe import by_length, encode, to_text, transcribe
from distill.whisper.student import (
    alignment_note,
    choose_layers,
    count_parameters,
    freeze,
    make_student,
    same_encoder,
)
from distill.whisper.teacher import Teacher, load_teacher


class WhisperTask:
    """See `distill.training.task.Task`."""

    def __init__(self, recipe: WhisperRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        teacher = load_teacher(recipe.teacher)
        self.processor, self.teacher_source = teacher.processor, teacher.source
        config = teacher.model.config
        self.source = ViewSource(
            recipe, self.processor, teacher.model.generation_config, config.max_target_positions
        )
        self._check_audio()
        self.batches = self.source.batches
        self.recorded = None
        if recipe.teacher.mode == "store":
            self.recorded = RecordedTeacher(
                recipe, teacher, self.source, check=accelerator.is_main_process
            )
        self.student = self._make_student(teacher.model)
        self.alignment = alignment_note(teacher.model, self.layers)
        teacher.model.to(accelerator.device)  # compared with the student there, and asked
        shared = recipe.student.freeze_encoder and same_encoder(teacher.model, self.student)
        inner = inner_teacher_layers(self.layers) if recipe.loss.hidden_weight else []
        self._validation_states: dict[str, Tensor] = {}
        self._teacher_tokens = self._ask_teacher(teacher, shared)
        live = output = None
        if self.recorded is None:
            live = teacher.model
        elif recipe.loss.kl_weight and recipe.scores.method == "decoder_state":
            output = self._output_of(teacher.model)
        del teacher  # its answers are in the store
        self.model = DistillModule(self.student, live, recipe.loss, shared, inner, output)
        if recipe.teacher.mode == "store" and recipe.scores.encoder_states == "memory":
            self.student.model.encoder.eval()
            self.recorded.encode_all(
                lambda features: encode(self.student, features), accelerator.is_main_process
            )

    def _check_audio(self) -> None:
        """Look for the files that training will read, if it reads any: sooner said than in hours.

        Raises:
            UnreadableError: some are not there.
        """
        recipe = self.recipe
        if recipe.teacher.mode == "store" and recipe.scores.encoder_states == "disk":
            return
        files = dict(pair for row in self.source.rows for pair in self.source.files(row["id"]))
        faults = Unreadable(len(files), recipe.data.max_unreadable, "training")
        faults.stat(files.items())
        faults.begin("data.train")

    @property
    def labels_hash(self) -> str:
        return self.source.labels_hash

    def _make_student(self, teacher):
        config, sizes = self.recipe.student, teacher.config
        self.layers = choose_layers(
            config.decoder_layers, sizes.decoder_layers, "student.decoder_layers"
        )
        student = make_student(
            teacher,
            self.layers,
            choose_layers(config.encoder_layers, sizes.encoder_layers, "student.encoder_layers"),
        )
        complete(
            student.generation_config, self.source.rules.special, self.source.languages,
            self.recipe.task, sizes.max_target_positions,
        )
        freeze(
            student,
            config.freeze_encoder,
            config.freeze_embeddings,
            config.freeze_positions,
            config.freeze_feed_forward,
        )
        if self.recipe.train.gradient_checkpointing:
            student.model.decoder.gradient_checkpointing_enable()
        return student.to(self.accelerator.device)

    def _output_of(self, teacher) -> Tensor:
        """The teacher's output layer; the student's own where that one stays as it is."""
        if self.recipe.student.freeze_embeddings:
            return self.student.proj_out.weight
        return teacher.proj_out.weight.detach()

    @property
    def dataset_summary(self) -> dict[str, Any]:
        rows = self.source.rows  # what the filter left out is in filter.json
        return {"count": len(rows), "hours": sum(row["duration"] for row in rows) / 3600,
                "drops": {}}

    def describe(self) -> str:
        """What will be trained, for the user."""
        trained = sum(p.numel() for p in self.student.parameters() if p.requires_grad)
        config, summary = self.student.config, self.dataset_summary
        return (
            f"Teacher: {self.teacher_source}\n"
            f"Student: {config.encoder_layers} encoder and {config.decoder_layers} decoder layers, "
            f"{count_parameters(self.student) / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of "
            f"them trained; {self.alignment}\n"
            f"Training on {summary['count']} windows ({60 * summary['hours']:.1f} minutes of "
            f"audio), " + self._teacher_text()
        )

    def _teacher_text(self) -> str:
        if self.recorded is None:
            return "the teacher runs at every step"
        states = self.recipe.scores.encoder_states
        where = {"disk": "encoder states from disk", "memory": "encoder states in memory",
                 "none": "the encoder runs at every step"}
        return f"the teacher's scores from {self.recipe.scores.dir}, {where[states]}"

    # Batches

    def collate(self, samples: list[tuple[int, int]]) -> Batch:
        views = [self.source.view(index, epoch) for index, epoch in samples]
        rows = [self.source.tokens(view) for view in views]
        inputs, labels = pad(rows, self.source.rules.special.end)
        batch = {
            "decoder_input_ids": inputs,
            "labels": labels,
            "num_valid": sum(row.num_valid for row in rows),
        }
        if self.recorded:
            batch |= self.recorded(samples)
        if "encoder_states" not in batch:
            batch["input_features"] = self.source.features(views)
        return batch

    def count(self, batch: Batch) -> int:
        return batch["num_valid"]

    # Measuring and saving

    @cached_property
    def _utterances(self):
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
    def _rank_utterances(self):
        """This rank's share."""
        return self._utterances[self.accelerator.process_index :: self.accelerator.num_processes]

    def _ask_teacher(self, teacher: Teacher, shared: bool) -> dict[str, list[int]]:
        """Its tokens of the validation windows; empty where the student learns other texts:
        those of a translation model."""
        if not self.recipe.data.validation or self.recipe.translation.model:
            return {}
        return teacher_tokens(
            self.recipe, teacher, windows_of(self._utterances), windows_of(self._rank_utterances),
            self.accelerator, self._validation_states if shared else None,
        )

    def validate(self) -> dict[str, float]:
        """Word error rate (CER where words are not spaced) of greedy decoding, and how often the
        next token is the teacher's; this rank's share of the utterances each, summed over ranks."""
        if not self.recipe.data.validation:
            return {}
        utterances = self._rank_utterances
        texts, agreed = self._transcribe(utterances)
        unit, normalise = self._scale(self._utterances)
        counts = total(
            error_counts(normalise(u.reference), normalise(text), unit)
            for u, text in zip(utterances, texts, strict=True)
        )
        sums = torch.tensor([float(counts.errors), float(counts.num_reference), *agreed])
        sums = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        errors, words, *agreed = sums.tolist()
        rate = errors / max(words, 1.0)
        return {"wer" if unit == "word" else "cer": rate, "num_words": int(words),
                **agreement_metrics(*agreed), "score": rate}

    def _transcribe(
        self, utterances: Sequence[EvaluationUtterance]
    ) -> tuple[list[str], list[float]]:
        """Texts of the utterances, and the sums of `agreement_counts` over their windows."""
        config = self.recipe.evaluation
        was_training = self.student.training
        self.student.eval()
        decoder = WhisperDecoder(
            self.student,
            self.processor.tokenizer,
            self.recipe.language,
            self.recipe.task,
            # a text that is kept looping would cost a validation its 448 tokens and tell no more
            on_loop="end" if config.on_loop == "keep" else config.on_loop,
        )
        found, agreed = {}, [0.0, 0.0, 0.0]
        for batch in by_length(windows_of(utterances), config.batch_size):
            # an encoder that learns encodes anew at every validation, but once for both measures
            cache = self._validation_states if self.recipe.student.freeze_encoder else {}
            found |= transcribe(decoder, self.processor, batch, config.batch_size,
                                config.max_tokens_per_second, cache)
            counts = agreement_counts(decoder, batch, cache, self._teacher_tokens)
            agreed = [sum(pair) for pair in zip(agreed, counts, strict=True)]
        self.student.train(was_training)
        tokenizer = self.processor.tokenizer
        texts = [
            " ".join(to_text(tokenizer, found[window.id].tokens) for window in utterance.windows)
            for utterance in utterances
        ]
        return texts, agreed

    def save(self, folder: Path) -> None:
        self.student.save_pretrained(folder)
        self.processor.save_pretrained(folder)
