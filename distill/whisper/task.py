"""Whisper distillation as a task of the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.config import ConfigError
from distill.data.files import hash_of, read_json, read_jsonl
from distill.data.views import View, ViewStream, draw_view, epoch_order
from distill.data.windows import load_window
from distill.losses import TeacherScores
from distill.task import Batch
from distill.whisper.collate import TokenRow, TokenRules, pad
from distill.whisper.corpus import evaluation_units, load_clips, rebuild_window
from distill.whisper.memory import EncoderStates, ScoredViews
from distill.whisper.model import DistillModule, inner_teacher_layers
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.student import (
    alignment_note,
    choose_layers,
    count_parameters,
    freeze,
    make_student,
    same_encoder,
)
from distill.whisper.teacher import load_teacher
from distill.whisper.transcribe import (
    GreedyDecoder,
    SpecialTokens,
    encode,
    log_mel,
    to_text,
    transcribe,
)
from eval.metrics import error_counts, total
from eval.normalize import error_unit, normalizer


def read_kept(recipe: WhisperRecipe) -> tuple[list[dict], str]:
    """Filtered label rows of a recipe and a hash of them.

    Raises:
        ValueError: nothing is labelled, or the filter ran with another threshold.
    """
    folder = Path(recipe.labels_dir)
    if not (folder / "filter.json").is_file():
        raise ValueError(f"no labels in {folder}: run `make NAME.label` first")
    report = read_json(folder / "filter.json")
    for key in ("max_wer", "keep_unreferenced"):
        wanted = getattr(recipe.pseudo_label, key)
        if report[key] != wanted:
            raise ValueError(
                f"labels were filtered with pseudo_label.{key}={report[key]}, the recipe says "
                f"{wanted}: run `python -m pseudo_label.filter` with the same settings"
            )
    rows = read_jsonl(folder / "kept.jsonl")
    if not rows:
        raise ValueError(f"no label in {folder} passed the filter; see filter.json for the reasons")
    return rows, hash_of(rows)


class WhisperTask:
    """See `distill.task.Task`."""

    def __init__(self, recipe: WhisperRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        self.rows, self.labels_hash = read_kept(recipe)
        self.num_views = len(self.rows)
        self.by_id = {row["id"]: row for row in self.rows}
        self.clips = {row.id: row for row in load_clips(recipe.data.train)[0]}
        teacher = load_teacher(recipe.teacher)
        self.processor = teacher.processor
        self.source = teacher.source
        teacher.model.to(accelerator.device)
        self.student = self._make_student(teacher.model)
        self.rules = TokenRules(
            special=SpecialTokens(self.processor.tokenizer, teacher.model.generation_config),
            language=recipe.language,
            task=recipe.task,
            context=teacher.model.config.max_target_positions,
            timestamps=recipe.pseudo_label.timestamps,
        )
        shared = recipe.student.freeze_encoder and same_encoder(teacher.model, self.student)
        inner = inner_teacher_layers(self.layers) if recipe.loss.hidden_weight else []
        recorded = self._record(teacher.model, shared, inner) if self._in_memory else None
        self.model = DistillModule(
            self.student, teacher.model, recipe.loss, shared, inner, recorded
        )
        self._validation_states: dict[str, Tensor] = {}

    @property
    def _in_memory(self) -> bool:
        return self.recipe.teacher.mode == "memory"

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

    def describe(self) -> str:
        """What will be trained, for the user."""
        trained = sum(p.numel() for p in self.student.parameters() if p.requires_grad)
        config = self.student.config
        return (
            f"Teacher: {self.source}\n"
            f"Student: {config.encoder_layers} encoder and {config.decoder_layers} decoder layers, "
            f"{count_parameters(self.student) / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of "
            f"them trained; {alignment_note(self.model.teacher, self.student)}\n"
            f"Training on {self.num_views} windows "
            f"({sum(row['duration'] for row in self.rows) / 60:.1f} minutes of audio), teacher "
            f"{self.recipe.teacher.mode}"
        )

    # Batches

    def view(self, index: int, epoch: int) -> View:
        """The view of a window in an epoch; a window without a previous text never has one."""
        config, row = self.recipe.views, self.rows[index]
        return draw_view(
            self.recipe.seed,
            row["id"],
            epoch,
            timestamp_probability=config.timestamp_probability,
            previous_text_probability=config.previous_text_probability if row["prompt"] else 0.0,
        )

    def tokens(self, view: View) -> TokenRow:
        return self.rules(self.by_id[view.id], view)

    def collate(self, views: list[tuple[int, int]]) -> Batch:
        drawn = [self.view(index, epoch) for index, epoch in views]
        rows = [self.tokens(view) for view in drawn]
        inputs, labels = pad(rows, self.rules.special.end)
        batch = {
            "views": drawn,
            "decoder_input_ids": inputs,
            "labels": labels,
            "num_valid": sum(row.num_valid for row in rows),
        }
        if not self._in_memory:
            batch["input_features"] = log_mel(self.processor, [self._audio(v.id) for v in drawn])
        return batch

    def _audio(self, name: str):
        return load_window(rebuild_window(self.by_id[name], self.clips))

    def count(self, batch: Batch) -> int:
        return batch["num_valid"]

    # A teacher asked once

    def _record(self, teacher, shared: bool, inner: list[int]):
        if not shared:
            raise ConfigError(
                "teacher.mode=memory needs a frozen encoder equal to the teacher's "
                "(student.freeze_encoder=true, student.encoder_layers=null)"
            )

        def compute(name: str) -> Tensor:
            return encode(teacher, log_mel(self.processor, [self._audio(name)]))[0]

        folder = Path(self.recipe.labels_dir)
        states = EncoderStates(folder, compute)
        train = self.recipe.train
        stream = ViewStream(self.recipe.seed, self.num_views)
        positions = range(train.max_steps * train.batch_size)
        views = [self.view(*stream[position]) for position in positions]
        scored = ScoredViews(
            teacher,
            views,
            self.tokens,
            states,
            self.recipe.teacher.top_k if self.recipe.loss.kl_weight else 0,
            self.recipe.loss.temperature,
            inner,
        )
        device = self.accelerator.device

        def batch_states(batch: Batch) -> Tensor:
            return states([view.id for view in batch["views"]], device)

        def batch_scores(batch: Batch) -> TeacherScores:
            return scored(batch["views"])

        return batch_states, batch_scores

    # Measuring and saving

    @cached_property
    def _units(self):
        rows, _ = load_clips(self.recipe.data.validation)
        config = self.recipe.evaluation
        units = evaluation_units(rows, "validation", config.pack)[0]
        for index in range(1, config.validation_packings):
            order = epoch_order(self.recipe.seed, index, len(rows))
            shuffled = [rows[position] for position in order]
            units += evaluation_units(shuffled, f"validation{index}", config.pack)[0]
        return units

    def validate(self) -> dict[str, float]:
        """Word error rate (CER where words are not spaced) of greedy decoding, this rank's share
        of the units each, summed over ranks."""
        if not self.recipe.data.validation:
            return {}
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        texts = self._transcribe(self._units[rank::world])
        language = self.recipe.language
        normalise = normalizer(self.recipe.evaluation.normalizer, language)
        unit = error_unit(language)
        counts = total(
            error_counts(normalise(u.reference), normalise(text), unit)
            for u, text in zip(self._units[rank::world], texts, strict=True)
        )
        sums = torch.tensor([float(counts.errors), float(counts.num_reference)])
        errors, words = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").tolist()
        rate = errors / max(words, 1.0)
        return {"wer" if unit == "word" else "cer": rate, "num_words": int(words), "score": rate}

    def _transcribe(self, units: Sequence) -> list[str]:
        config = self.recipe.evaluation
        was_training = self.student.training
        self.student.eval()
        decoder = GreedyDecoder(
            self.student,
            self.processor.tokenizer,
            self.recipe.language,
            self.recipe.task,
            # a text that is kept looping would cost a validation its 448 tokens and tell no more
            on_loop="end" if config.on_loop == "keep" else config.on_loop,
        )
        windows = [window for unit in units for window in unit.windows]
        cache = self._validation_states if self.recipe.student.freeze_encoder else None
        found = transcribe(
            decoder, self.processor, windows, config.batch_size, config.max_tokens_per_second, cache
        )
        self.student.train(was_training)
        tokenizer = self.processor.tokenizer
        return [
            " ".join(to_text(tokenizer, found[window.id].tokens) for window in unit.windows)
            for unit in units
        ]

    def save(self, folder: Path) -> None:
        self.student.save_pretrained(folder)
        self.processor.save_pretrained(folder)
