"""Distillation of a tagger as a task of the training loop."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from distill.ced.data.clips import MIN_SAMPLES, ClipError, targets_of
from distill.ced.data.training_faults import TrainingFaults
from distill.ced.data.view_source import ViewSource, pad_features
from distill.ced.evaluation import EvaluationClips, student_probabilities
from distill.ced.recipe import MIN_SECONDS, CedRecipe, uses_store
from distill.ced.student import make_student, measure_features
from distill.ced.tag_loss import TagModule
from distill.ced.targets import Targets
from distill.ced.teachers.ensemble import Ensemble, ensemble_settings
from distill.ced.teachers.recorded import RecordedScores
from distill.ced.teachers.scoring import resolve_classes, store_settings
from distill.data.audio import SAMPLE_RATE
from distill.data.files import hash_of
from distill.data.manifest import counts_text
from distill.data.views.batches import FixedBatches
from distill.metrics.tagging import mean_average_precision
from distill.progress import quiet_libraries
from distill.training.task import Batch

_FEATURE_VIEWS = 256  # that the features' statistics are measured on


class CedTask:
    """See `distill.training.task.Task`."""

    def __init__(self, recipe: CedRecipe, accelerator: Accelerator):
        quiet_libraries()
        self.recipe, self.accelerator = recipe, accelerator
        self.source = ViewSource(recipe)
        scores = Path(recipe.scores.dir) if uses_store(recipe) else None
        self.faults = TrainingFaults(self.source, Path(recipe.output_dir),
                                     accelerator.process_index, scores)
        self.classes = resolve_classes(recipe)
        self.label_weight = recipe.loss.label_weight if recipe.teacher.members else 1.0
        self.labels = self._labels()
        self.batches = FixedBatches(
            recipe.seed, len(self.source.clips), recipe.train.batch_size,
            recipe.train.micro_batch_size, self._weights(),
        )
        self.recorded = None
        if uses_store(recipe):
            self.recorded = RecordedScores(
                recipe, self.source, store_settings(recipe, self.source, self.classes),
                check=accelerator.is_main_process,
            )
        self.targets = Targets(recipe, self.source, self.recorded, self.labels, len(self.classes))
        live = None
        if recipe.teacher.members and not self.recorded:
            live = Ensemble(recipe.teacher, self.classes, str(accelerator.device))
        if recipe.data.validation:
            _ = self._validation  # an error in it appears now, not after an hour
        self.student, is_new = make_student(recipe.student, self.classes, recipe.seed)
        if is_new:
            measure_features(self.student, self._feature_views())
        if recipe.train.gradient_checkpointing:
            self.student.activation_checkpointing_enable()
        self.student.to(accelerator.device)
        self.model = TagModule(self.student, recipe.loss, self.label_weight, live)

    def _labels(self) -> np.ndarray | None:
        """float32 (clips, classes), where they are learned from or balance the clips."""
        if not (self.label_weight or self.recipe.data.balance):
            return None
        why = "there are no teacher.members, loss.label_weight > 0 or data.balance=true"
        return targets_of(self.source.clips, self.classes, why)

    def _weights(self) -> np.ndarray | None:
        """How often each clip comes: every class as often as every other, roughly."""
        if not self.recipe.data.balance:
            return None
        counts = np.maximum(self.labels.sum(axis=0), 1)
        weights = (self.labels / counts).sum(axis=1)
        positive = weights[weights > 0]
        # a clip of no class comes as often as a clip of a common one
        return np.maximum(weights, positive.min() if len(positive) else 1.0).astype(np.float64)

    def _feature_views(self):
        last = len(self.source.clips) - 1
        for index in np.unique(np.linspace(0, last, _FEATURE_VIEWS, dtype=int)).tolist():
            view = self.source.scored_view(index, 0)
            wave = self.source.try_wave(index, view)
            if isinstance(wave, ClipError):
                self.faults.take([wave])
            else:
                yield self.source.features(wave, view)

    @property
    def labels_hash(self) -> str:
        data = self.recipe.data
        labels = None if self.labels is None else [clip.labels for clip in self.source.clips]
        return hash_of([self.source.clips_hash, self.classes, labels, data.balance,
                        data.clip_seconds, ensemble_settings(self.recipe.teacher)])

    @property
    def dataset_summary(self) -> dict[str, Any]:
        unread = self.faults.reasons
        clips = [clip for clip in self.source.clips if clip.key not in unread]
        seconds = sum(clip.num_samples for clip in clips) / SAMPLE_RATE
        return {"count": len(clips), "hours": seconds / 3600,
                "drops": dict(self.source.drops + Counter(unread.values()))}

    def describe(self) -> str:
        """What will be trained, for the user."""
        count = sum(p.numel() for p in self.student.parameters())
        summary = self.dataset_summary
        return (
            f"Student: {count / 1e6:.2f} M parameters, {len(self.classes)} classes\n"
            f"Training on {summary['count']:,} clips ({60 * summary['hours']:.1f} minutes; "
            f"dropped: {counts_text(summary['drops'])}), {self._teacher_text()}{self._label_text()}"
        )

    def _label_text(self) -> str:
        """Classes without a training clip, and clips that are very short; a line each."""
        short = sum(clip.num_samples < MIN_SAMPLES for clip in self.source.clips)
        lines = [f"{short:,} clips are shorter than {MIN_SECONDS} s and followed by silence"]
        lines = lines if short else []
        if self.label_weight and (empty := np.flatnonzero(~self.labels.any(axis=0)).tolist()):
            names = ", ".join(self.classes[index] for index in empty[:10])
            lines.append(f"No training clip has the label of {len(empty)} of {len(self.classes)} "
                         f"classes: {names}{', ...' * (len(empty) > 10)}")
        return "".join(f"\n{line}" for line in lines)

    def _teacher_text(self) -> str:
        members = len(self.recipe.teacher.members)
        if not members:
            return "from their labels"
        if not self.recorded:
            return f"{members} teacher(s) run at every step"
        text = (f"scores of {members} teacher(s) on {self.recorded.num_epochs} views of each from "
                f"{self.recipe.scores.dir}")
        return text if self.recipe.teacher.consistent else text + ", other views than the student's"

    # Batches

    def collate(self, samples: list[tuple[int, int]]) -> Batch:
        views, batch = self.targets.views(samples)
        weight = batch.setdefault("weight", torch.ones(len(samples)))
        waves, unreadable = [], []
        for number, ((index, _), view) in enumerate(zip(samples, views, strict=True)):
            wave = self.source.try_wave(index, view) if weight[number] else None
            if isinstance(wave, ClipError):
                if wave.is_transient:
                    raise wave
                unreadable.append(wave)
            if not isinstance(wave, np.ndarray):
                weight[number] = 0.0
                wave = np.zeros(self.source.clips[index].length, np.float32)
            waves.append(wave)
        # raised by `count`: an exception of a worker would reach the user as pages of traceback
        batch |= {"unreadable": unreadable, "epoch": samples[0][1]}
        features = [self.source.features(wave, view)
                    for wave, view in zip(waves, views, strict=True)]
        batch |= pad_features(features)
        if self.label_weight:
            batch["labels"] = self.targets.labels_of(samples, views)
        if self.recipe.teacher.members and not self.recorded:
            batch["waves"] = [torch.from_numpy(np.ascontiguousarray(wave)) for wave in waves]
            batch["k"] = self.recipe.scores.k
        return batch

    def count(self, batch: Batch) -> int:
        """Clips that could be read.

        Raises:
            ValueError: some could be read when they were scored, or too many cannot.
        """
        errors: list[ClipError] = batch.pop("unreadable", [])
        self.faults.take(errors, batch.pop("epoch", 0))
        if errors and self.recorded and self.recipe.teacher.consistent:
            raise ValueError(f"{errors[0]}; it could be read when it was scored")
        return int(batch["weight"].sum())

    # Measuring and saving

    @cached_property
    def _validation(self) -> EvaluationClips:
        config = self.recipe.data
        clips = EvaluationClips(config.validation, config.clip_seconds, "data.validation")
        if not clips.targets(self.classes).any():
            raise ValueError("data.validation: not one clip has a label; leave it empty, and the "
                             "last weights are the student")
        return clips

    def validate(self) -> dict[str, float]:
        """mAP over the classes with a positive; this rank's share of the clips each."""
        if not self.recipe.data.validation:
            return {}
        clips, accelerator = self._validation, self.accelerator
        local = list(range(len(clips)))[accelerator.process_index :: accelerator.num_processes]
        probabilities = np.zeros((len(clips), len(self.classes)))
        was_training = self.model.training
        self.student.eval()
        for at in range(0, len(local), self.recipe.evaluation.batch_size):
            part = local[at : at + self.recipe.evaluation.batch_size]
            probabilities[part] = student_probabilities(self.student, clips.features(part))
        self.model.train(was_training)
        shares = torch.from_numpy(probabilities).to(accelerator.device)
        probabilities = accelerator.reduce(shares, "sum").cpu().numpy()
        scores, targets = clips.pool(probabilities), clips.targets(self.classes)
        value, num_classes = mean_average_precision(scores, targets)
        return {"map": value, "num_classes": num_classes, "num_clips": len(targets),
                "score": -value}

    def save(self, folder: Path) -> None:
        from distill.ced.model.extractor import CedFeatureExtractor

        self.student.save_pretrained(folder)
        CedFeatureExtractor().save_pretrained(folder)
