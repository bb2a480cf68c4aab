"""Training of a tagger's head on a Whisper encoder, as a task of the training loop.

The encoder is frozen, so it runs once for every clip; what its layers give is kept in
`<output_dir>/states` (61 kB for 4 s of whisper-base) and the head is trained from there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from distill.data.files import hash_of
from distill.data.manifest import Row, counts_text, load_rows, recordings_of
from distill.data.unreadable import Unreadable
from distill.data.views.batches import FixedBatches
from distill.data.views.draws import generator
from distill.metrics.tagging import mean_average_precision
from distill.metrics.thresholds import at_least, at_precision
from distill.progress import quiet_libraries
from distill.training.task import Batch
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.encoder.level import EVERY, VERSION
from distill.whisper.recipe_sections import TeacherConfig
from distill.whisper.teacher import load_teacher
from distill.whisper_at.heads import LayerSumHead
from distill.whisper_at.joint import HeadSettings, TranscriberStates, save_head
from distill.whisper_at.model import WhisperTaggerExtractor, from_whisper
from distill.whisper_at.recipe import WhisperAtRecipe
from distill.whisper_at.states import EncoderStates, StatesAlone, content_of


class Scores(Protocol):
    """What the teachers of a tagger think of clips."""

    classes: list[str]
    content: str

    def __call__(self, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
        """float32 (rows, classes) probabilities; bool (rows,): whether there are any."""


class WhisperAtTask:
    """See `distill.training.task.Task`.

    Args:
        scores: are learned from rather than labels (`head.scores`), in their classes.

    Raises:
        ValueError: labels that cannot be learned, or no scores of the training clips.
    """

    def __init__(self, recipe: WhisperAtRecipe, accelerator: Accelerator,
                 scores: Scores | None = None):
        quiet_libraries()
        self.recipe, self.accelerator, self.scores = recipe, accelerator, scores
        needs_labels = scores is None or recipe.head.label_weight > 0
        rows, self.drops = read_rows(recipe.data.train, needs_labels)
        validation, self.validation_drops = read_rows(recipe.data.validation)
        if scores is None:
            self.classes = sorted({label for row in rows for label in row.labels})
        else:
            self.classes, rows = scores.classes, self._scored(rows)
        self._check_labels(validation)
        faults = faults_of("training", "data.train", rows, recipe.data.max_unreadable)
        validation_faults = faults_of("validation", "data.validation", validation, 1.0)
        source = recipe.whisper
        teacher = load_teacher(
            TeacherConfig(source.model, source.revision, list(source.fallback_wheels)))
        self.teacher_source, self.revision = teacher.source, teacher.revision
        torch.manual_seed(recipe.seed)
        self.tagger = from_whisper(teacher.model, self.classes, source.layers,
                                   head_type=recipe.head.head_type,
                                   head_size=recipe.head.head_size,
                                   head_dropout=recipe.head.head_dropout)
        extractor = teacher.processor.feature_extractor
        self.extractor = WhisperTaggerExtractor(feature_size=extractor.feature_size)
        self.tagger.to(accelerator.device)
        settings: list[Any] = []
        if source.heard == "transcriber":
            margin = margin_of(teacher.model)
            self.revision = content_of(teacher.model.get_encoder())  # another decoder hears alike
            settings += ["transcriber", margin, *([] if margin is None else [EVERY, VERSION])]
            listen = TranscriberStates(teacher.model.to(accelerator.device), teacher.processor,
                                       self.tagger.config.encoder_layers)
        else:
            listen = StatesAlone(self.tagger, self.extractor)
        del teacher
        settings = [self.revision, self.tagger.config.encoder_layers, *settings]
        encoded = EncoderStates(listen, settings, Path(recipe.output_dir) / "states",
                                recipe.encoder_batch_size, accelerator.is_main_process)
        self.rows, self.states = encoded("train", rows, faults, self.drops)
        self.validation, self._validation_states = encoded(
            "validation", validation, validation_faults, self.validation_drops)
        self._check_labels(self.validation)  # of those that can be read
        self._measure()
        self.targets = self._targets()
        self.batches = FixedBatches(recipe.seed, len(self.rows), recipe.train.batch_size,
                                    recipe.train.micro_batch_size)
        self.model = _HeadModule(self.tagger.head)
        self._thresholds: dict[str, float] = {}  # of the last validation

    def _scored(self, rows: list[Row]) -> list[Row]:
        """Rows that the teachers scored; the others are counted."""
        assert self.scores is not None
        is_there = self.scores(rows)[1]
        if not is_there.any():
            raise ValueError(f"head.scores: {self.recipe.head.scores} has no scores of the clips "
                             "of data.train, which are not those of its recipe")
        if lost := int((~is_there).sum()):
            self.drops["not_scored"] += lost
        return [row for row, is_scored in zip(rows, is_there, strict=True) if is_scored]

    def _targets(self) -> np.ndarray:
        """float32 (clips, classes): labels, scores, or a mean of both."""
        weight = 1.0 if self.scores is None else self.recipe.head.label_weight
        targets = weight * targets_of(self.rows, self.classes) if weight else 0.0
        if self.scores is not None:
            targets = targets + (1 - weight) * self.scores(self.rows)[0]
        return np.asarray(targets, np.float32)

    @property
    def labels_hash(self) -> str:
        states = hashlib.sha256()
        for each in self.states:
            states.update(each.tobytes())
        scores = [] if self.scores is None else [self.scores.content]
        return hash_of([[[row.id, row.labels] for row in self.rows], self.revision,
                        states.hexdigest(), *scores])

    def _check_labels(self, validation: list[Row]) -> None:
        """Raise a ValueError before anything is encoded for labels that cannot be learned."""
        if not self.classes:
            raise ValueError("data.train: not one row has a label")
        if validation and not targets_of(validation, self.classes).any():
            raise ValueError("data.validation: not one row has a label of the training split's "
                             f"({', '.join(self.classes[:5])}, ...); leave it empty, and the last "
                             "weights are the student")

    @property
    def dataset_summary(self) -> dict[str, Any]:
        return {"count": len(self.rows), "hours": sum(row.duration for row in self.rows) / 3600,
                "drops": dict(self.drops)}

    def describe(self) -> str:
        """What will be trained, for the user."""
        head = sum(p.numel() for p in self.tagger.head.parameters())
        encoder = sum(p.numel() for p in self.tagger.encoder.parameters())
        return (
            f"Encoder: {self.teacher_source}\n"
            f"Head: {head / 1e6:.2f} M parameters on {encoder / 1e6:.1f} M frozen ones, "
            f"{len(self.classes)} classes, {len(self.rows)} clips (dropped: "
            f"{counts_text(self.drops)}), from {self._learned()}, "
            f"validated on {len(self.validation)} (dropped: "
            f"{counts_text(self.validation_drops)}){self._unknown_text()}"
            + self._counted_text()
        )

    def _learned(self) -> str:
        head = self.recipe.head
        if head.scores is None:
            return "their labels"
        labels = f" and their labels (weight {head.label_weight:g})" if head.label_weight else ""
        return f"the scores in {head.scores}{labels}"

    def _counted_text(self) -> str:
        """What thresholds count as an example, where that may be wrong, or is too little."""
        if not self.validation:
            return ""
        names = recordings_of(self.validation, [[name] for name in self.classes])
        if not names:
            return ("\nThresholds count each validation clip as an example of its own; rows of "
                    "clips that are mixed of a few recordings should name these (`recordings`)")
        config = self.recipe.head
        counts = dict(zip(self.classes, (len(set().union(*each)) for each in names), strict=True))
        few = {name: count for name, count in counts.items()
               if count and at_least(count, count, config.confidence) < config.precision - 1e-9}
        if not few:
            return ""
        return (f"\nNever heard, as the validation split is mixed of too few of their recordings "
                f"to prove a precision of {config.precision:g} with a confidence of "
                f"{config.confidence:g}: {counts_text(few)}")

    def _unknown_text(self) -> str:
        """Labels of the validation split that nothing is learned about."""
        unknown = Counter(label for row in self.validation for label in row.labels
                          if label not in self.classes)
        if not unknown:
            return ""
        names = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items())[:10])
        return (f"\nNo training row has these labels of the validation split: {names}"
                + ", ..." * (len(unknown) > 10))

    def _measure(self) -> None:
        """Mean and deviation of every layer's states; the mean stands for silence."""
        rows = np.concatenate([each.astype(np.float32) for each in self.states], 1)
        self.silence = torch.from_numpy(rows.mean(1, keepdims=True))
        if isinstance(self.tagger.head, LayerSumHead):
            self.tagger.head.measure(self.silence,
                                     torch.from_numpy(rows.std(1, keepdims=True) + 1e-3))

    # Batches

    def collate(self, samples: list[tuple[int, int]]) -> Batch:
        states, targets = [], []
        for index, epoch in samples:
            draws = generator(self.recipe.seed, self.rows[index].id, epoch)
            mixed, other = draws.random() < self.recipe.head.mixup_probability, draws.random()
            weight = float(draws.beta(5, 5)) if mixed else 1.0
            partner = int(other * len(self.rows))
            first, second = (torch.from_numpy(self.states[n]).float() for n in (index, partner))
            state = self._mixed(first, second, weight) if mixed else first
            states.append(self._masked(state, draws))
            targets.append(torch.from_numpy(
                weight * self.targets[index] + (1 - weight) * self.targets[partner]))
        steps = [state.shape[1] for state in states]
        padded = [F.pad(state, (0, 0, 0, max(steps) - state.shape[1])) for state in states]
        mask = torch.arange(max(steps)) < torch.tensor(steps)[:, None]
        return {"states": torch.stack(padded), "mask": mask, "targets": torch.stack(targets)}

    def _mixed(self, first: Tensor, second: Tensor, weight: float) -> Tensor:
        """Both, as long as the longer one; what the shorter one lacks is silence."""
        steps = max(first.shape[1], second.shape[1])
        first, second = (torch.cat([each, self.silence.expand(-1, steps - each.shape[1], -1)], 1)
                       for each in (first, second))
        return weight * first + (1 - weight) * second

    def _masked(self, state: Tensor, draws: np.random.Generator) -> Tensor:
        """Up to `mask_steps` steps are the mean, which stands for silence."""
        width = int(draws.integers(0, min(self.recipe.head.mask_steps, state.shape[1] - 1) + 1))
        first = int(draws.integers(0, state.shape[1] - width + 1))
        state[:, first : first + width] = self.silence
        return state

    def count(self, batch: Batch) -> int:
        return len(batch["targets"])

    # Measuring and saving

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """mAP over the classes with a positive."""
        if not self.validation:
            return {}
        head, device = self.tagger.head.eval(), self.accelerator.device
        states = (torch.from_numpy(each)[None].float() for each in self._validation_states)
        scores = [head(each.to(device))[1][0].sigmoid().cpu() for each in states]
        head.train()
        targets = targets_of(self.validation, self.classes)
        probabilities = torch.stack(scores).double().numpy()
        value, num_classes = mean_average_precision(probabilities, targets)
        found = at_precision(probabilities, targets, self.recipe.head.precision,
                             self.recipe.head.confidence,
                             recordings_of(self.validation, [[name] for name in self.classes]))
        self._thresholds = {name: round(float(each), 4)
                            for name, each in zip(self.classes, found, strict=True)}
        return {"map": value, "num_classes": num_classes, "num_clips": len(targets),
                "score": -value}

    def save(self, folder: Path) -> None:
        if self.recipe.whisper.heard == "transcriber":
            config = self.tagger.config
            save_head(folder, self.tagger.head, HeadSettings(
                self.classes, config.encoder_layers, config.d_model, config.head_type,
                config.head_size, self._thresholds))
            return
        self.tagger.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


class _HeadModule(nn.Module):
    """The head and its loss: a sum over clips of the mean over classes."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head.train()

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.head(batch["states"], batch["mask"])[1]
        loss = F.binary_cross_entropy_with_logits(logits, batch["targets"], reduction="none")
        return loss.mean(1).sum(), {}


def faults_of(stage: str, where: str, rows: list[Row], max_share: float) -> Unreadable:
    """A counter of rows that cannot be read.

    Raises:
        UnreadableError: files are not there.
    """
    faults = Unreadable(len(rows), max_share, stage)
    faults.stat((row.id, row.audio_filepath) for row in rows)
    faults.begin(where)
    return faults


def read_rows(manifests: list[str], needs_labels: bool = True) -> tuple[list[Row], Counter]:
    """Rows of manifests, and what is dropped by reason.

    Raises:
        ValueError: a row without labels that needs some.
    """
    rows, drops = load_rows(manifests)
    if not needs_labels:
        return rows, drops
    if without := [row.id for row in rows if row.labels is None]:
        raise ValueError(f"row {without[0]} has no `labels` in its manifest; {len(without):,} of "
                         f"{len(rows):,} rows have none")
    return rows, drops


def targets_of(rows: list[Row], classes: list[str]) -> np.ndarray:
    """float32 (clips, classes) of 0 and 1."""
    return np.array([[name in (row.labels or ()) for name in classes] for row in rows], np.float32)
