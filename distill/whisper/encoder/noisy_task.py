"""The encoder learns to hear through noise (`student.learns: encoder`), as a task of the loop.

What the teacher's encoder gives of the clean clip is in the store; the student's hears the view,
with its noise, and learns to give the same: a mean squared error of states. The decoder stays as it
is.
Short clips are encoded at their own length, before the silence of the encoder as it began: to make
it anew at every step would cost more than the step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from distill.data.files import hash_of
from distill.data.model_files import model_stamp
from distill.data.teacher_store import TeacherStore
from distill.training.task import Batch, Parts
from distill.whisper.data.layers import choose_layers
from distill.whisper.data.scoring import read_states, states_folder, states_settings
from distill.whisper.data.view_source import ViewSource
from distill.whisper.encoder.audio import AudioFeatures, all_padded
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.encoder.short import run_short
from distill.whisper.encoder.silence import Silence, silence_of
from distill.whisper.generation import complete
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.student import begin_with, count_parameters, make_student
from distill.whisper.teacher import load_teacher
from distill.whisper.validation import Validation


class EncoderTask:
    """See `distill.training.task.Task`. The loss is a sum over positions of 20 ms.

    Raises:
        StoreError: the store lacks clean states of a window, or is another teacher's.
        ValueError: it is trained by FSDP or DeepSpeed, or `student.start` is another kind of model.
    """

    def __init__(self, recipe: WhisperRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError("student.learns=encoder: FSDP and DeepSpeed cannot run the encoder "
                             "layer by layer; use DDP")
        teacher: Any = load_teacher(recipe.teacher)
        self.processor, sizes = teacher.processor, teacher.model.config
        self.source = ViewSource(recipe, self.processor, teacher.model.generation_config,
                                 sizes.max_target_positions)
        self.batches = self.source.batches
        self.states = TeacherStore(
            states_folder(recipe), states_settings(recipe, teacher.revision))
        clean = {row["id"]: self.source.states_key(self.source.heard_by_teacher(
            self.source.view(index, 0))) for index, row in enumerate(self.source.rows)}
        self._row_of = dict(zip(clean, self.states.rows(list(clean.values())).tolist(),
                                strict=True))
        layers = choose_layers(recipe.student.decoder_layers, sizes.decoder_layers,
                               "student.decoder_layers")
        self.student: Any = make_student(teacher.model, layers, list(range(sizes.encoder_layers)))
        if recipe.student.start is not None:
            begin_with(self.student, Path(recipe.student.start))
        complete(self.student.generation_config, self.source.rules.special, self.source.languages,
                 recipe.task, sizes.max_target_positions)
        self.student.requires_grad_(False).to(accelerator.device)
        encoder = self.student.model.encoder
        for part in (encoder.layers, encoder.layer_norm):
            part.requires_grad_(True)
        self.validation = Validation(recipe, self.processor, accelerator)
        teacher.model.to(accelerator.device)
        self.validation.ask(teacher, shared=False)
        self.model = _EncoderModule(self.student)

    @property
    def labels_hash(self) -> str:
        start = self.recipe.student.start
        return hash_of([self.source.labels_hash, start and model_stamp(Path(start))])

    @property
    def dataset_summary(self) -> dict[str, Any]:
        rows = self.source.rows
        return {"count": len(rows), "hours": sum(row["duration"] for row in rows) / 3600,
                "drops": {}}

    def describe(self) -> str:
        """What will be trained, for the user."""
        trained = sum(p.numel() for p in self.student.parameters() if p.requires_grad)
        return (f"Student: {count_parameters(self.student) / 1e6:.1f} M parameters, of which "
                f"{trained / 1e6:.1f} M, those of its encoder, learn to give of noisy sound what "
                f"the teacher's gives of {self.dataset_summary['count']} clean windows "
                f"({60 * self.dataset_summary['hours']:.1f} minutes)")

    def collate(self, samples: list[tuple[int, int]]) -> Batch:
        views = [self.source.view(index, epoch) for index, epoch in samples]
        stored = [self.states.read(self._row_of[view.id]) for view in views]
        clean = [read_states([each], self.states.settings["dtype"])[0].float() for each in stored]
        return {"input_features": self.source.features(views), "clean": clean,
                "num_positions": sum(map(len, clean))}

    def count(self, batch: Batch) -> int:
        return batch["num_positions"]

    def validate(self) -> dict[str, float]:
        return self.validation(self.student) if self.recipe.data.validation else {}

    def save(self, folder: Path) -> None:
        self.student.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class _EncoderModule(nn.Module):
    """`module(batch) -> (loss_sum, parts)`: the sum over positions of the mean over the width."""

    def __init__(self, student: Any):
        super().__init__()
        self.student = student
        self._silence: list[Silence] = []  # of the encoder as it began
        if margin_of(student) is not None:
            self._silence.append(silence_of(student.model.encoder))

    def forward(self, batch: Batch) -> tuple[Tensor, Parts]:
        """Loss of a batch: `input_features`, as `distill.whisper.model.DistillModule` has them, and
        `clean`, a list of (positions, width)."""
        features, clean = batch["input_features"], batch["clean"]
        if isinstance(features, Tensor):
            features = all_padded(features)
        encoder = self.student.model.encoder
        total = torch.zeros((), device=clean[0].device)
        for clips, states in self._encode(encoder, features):
            for clip, found in zip(clips, states, strict=True):
                size = min(len(found), len(clean[clip]))  # a faint clip is padded once it is noisy
                distance = (found[:size].float() - clean[clip][:size]).square().mean(1)
                total = total + distance.sum()
        return total, {"states": total.detach()}

    def _encode(self, encoder: Any, features: AudioFeatures) -> Any:
        for clips, positions, each in features.groups:
            if positions is None:
                yield clips, encoder(each).last_hidden_state
            else:
                yield clips, run_short(encoder, each, self._silence[0])
