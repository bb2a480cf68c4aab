"""Whisper distillation as a task of the training loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from distill.data.files import hash_of
from distill.data.model_files import model_stamp
from distill.data.unreadable import Unreadable
from distill.data.views.draws import View
from distill.training.task import Batch
from distill.whisper.data.collate import pad
from distill.whisper.data.layers import choose_layers, inner_teacher_layers
from distill.whisper.data.recorded import RecordedTeacher
from distill.whisper.data.view_source import ViewSource
from distill.whisper.decoding.phrases.files import read_phrases
from distill.whisper.encoder.lengths import margin_of, set_margin
from distill.whisper.encoder.prompt_reader import has_reader
from distill.whisper.generation import complete
from distill.whisper.model import DistillModule, states_to_keep
from distill.whisper.prompting.reader_files import add_reader, save_student
from distill.whisper.prompting.reader_start import start_copying
from distill.whisper.prompting.text_states import pieces_of
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.student import (
    alignment_note,
    begin_with,
    count_parameters,
    freeze,
    make_student,
    same_encoder,
)
from distill.whisper.teacher import load_teacher
from distill.whisper.validation import Validation


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
        self._check_shards()
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
        self.encoder_note = _pad_for_another_encoder(teacher.model, self.student, shared)
        inner = inner_teacher_layers(self.layers) if recipe.loss.hidden_weight else []
        self.validation = Validation(recipe, self.processor, accelerator)
        self.validation.ask(teacher, shared)
        live = output = None
        if self.recorded is None:
            live = teacher.model
        elif needs_output(recipe):
            output = self._output_of(teacher.model)
        del teacher  # its answers are in the store
        shared = shared and recipe.views.teacher_hears == "same"  # one pass serves both
        self.model = DistillModule(self.student, live, recipe.loss, shared, inner, output)
        if recipe.teacher.mode == "store" and recipe.scores.encoder_states == "memory":
            self.student.model.encoder.eval()
            self.recorded.encode_all(partial(states_to_keep, self.student),
                                     accelerator.is_main_process)

    def _check_audio(self) -> None:
        """Look for the files that training will read, if it reads any, before hours have passed.

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

    def _check_shards(self) -> None:
        """Short audio runs the encoder layer by layer, whose weights FSDP and DeepSpeed give back
        only inside of the whole model.

        Raises:
            ValueError: the encoder would run so in training.
        """
        stored = self.recipe.teacher.mode == "store" and self.recipe.scores.encoder_states != "none"
        sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED)
        short = self.recipe.teacher.short_audio_margin is not None
        if self.recipe.student.prompt_reader.layers and (
                self.accelerator.distributed_type in sharded):
            raise ValueError("student.prompt_reader.layers: FSDP and DeepSpeed cannot run a part "
                             "of the encoder; use DDP")
        if short and not stored and self.accelerator.distributed_type in sharded:
            raise ValueError(
                "teacher.short_audio_margin: FSDP and DeepSpeed cannot run the encoder on short "
                "audio while training; use DDP, or scores.encoder_states=disk with teacher.mode="
                "store")

    @property
    def labels_hash(self) -> str:
        started = self.recipe.student.start
        found = self.source.labels_hash
        return found if started is None else hash_of([found, model_stamp(Path(started))])

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
        if config.start is not None:
            begin_with(student, Path(config.start))
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
        if config.prompt_reader.layers:
            if not config.prompt_reader.train_decoder:
                student.requires_grad_(False)
            add_reader(student, config.prompt_reader, lambda: self.processor.tokenizer)
            start_copying(student, self.processor, self._start_words())
        if self.recipe.train.gradient_checkpointing:
            student.model.decoder.gradient_checkpointing_enable()
        return student.to(self.accelerator.device)

    def _start_words(self) -> list[str]:
        """Words by which a reader learns how the text model writes the student's tokens."""
        words = self.recipe.views.prompts.words
        return [] if words is None else read_phrases(words)

    def _output_of(self, teacher) -> Tensor:
        """The teacher's output layer; the student's own where that one stays as it is."""
        if self.recipe.student.freeze_embeddings:
            return self.student.proj_out.weight.detach()
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
            f"them trained; {self.alignment}{self.encoder_note}"
            f"{f'; begun as {start}' if (start := self.recipe.student.start) else ''}\n"
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
        rows = [self.source.student_tokens(view) for view in views]
        inputs, labels = pad(rows, self.source.rules.special.end)
        batch = {
            "decoder_input_ids": inputs,
            "labels": labels,
            "num_valid": sum(row.num_valid for row in rows),
        }
        if self.recorded:
            batch |= self.recorded(samples)
        if "encoder_states" not in batch:
            batch |= self._features(views)
        if has_reader(self.student):
            batch["prompts"] = [self._read(view) for view in views]
        return batch

    def _read(self, view: View) -> Tensor | None:
        """States of a view's prompt, which the student's encoder reads."""
        asked = view.prompt
        return asked and self.student.prompt_reader.read(pieces_of(asked.style, asked.content))

    def _features(self, views: list[View]) -> Batch:
        """As the student's encoder hears them, and a live teacher's where it hears others."""
        alike = margin_of(self.student) == self.recipe.teacher.short_audio_margin
        hear = self.source.features if alike else self.source.padded_features
        features: Batch = {"input_features": hear(views)}
        heard = [self.source.heard_by_teacher(view) for view in views]
        if self.recorded is None and (not alike or heard != views):
            features["teacher_features"] = self.source.features(heard)
        return features

    def count(self, batch: Batch) -> int:
        return batch["num_valid"]

    # Measuring and saving

    def validate(self) -> dict[str, float]:
        return self.validation(self.student) if self.recipe.data.validation else {}

    def save(self, folder: Path) -> None:
        save_student(self.student, folder)
        self.processor.save_pretrained(folder)


def needs_output(recipe: WhisperRecipe) -> bool:
    """Whether recorded decoder states must become scores again."""
    loss = recipe.loss
    is_compared = loss.teacher_tokens == "agreeing" and loss.hidden_weight > 0
    return is_compared or (loss.kl_weight > 0 and recipe.scores.method == "decoder_state")


def _pad_for_another_encoder(teacher, student, shared: bool) -> str:
    """Short audio was measured with the teacher's encoder: a student with another pads its clips.
    What became of it, for the user."""
    margin = margin_of(teacher)
    if margin is None or shared:
        return ""
    set_margin(student, None)
    return (f"; its encoder is not the teacher's, so it pads short audio to 30 s, whose margin "
            f"({margin:g} s) holds for the teacher alone")
