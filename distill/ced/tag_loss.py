"""Student and teachers' scores -> loss: binary cross-entropy of logits, a sum over clips.

With logits z, teachers' probabilities p, labels y, temperature T, classes C (means over classes):

    soft = T^2 * BCE(z / T, sigmoid(logit(p) / T))      CED (arXiv:2308.11957) has T = 1
    loss = w * BCE(z, y) + (1 - w) * soft               EfficientAT (arXiv:2211.04772) has w = 0.1

and, with a frame_weight f, + (1 - w) * f * the mean over steps of 0.4 s of BCE(h, q), where h are
the logits of a head of its own (`distill.ced.teachers.frames`) and q the teachers' probabilities of
a step.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.ced.model.modeling import CedOutput
from distill.ced.recipe_sections import LossConfig
from distill.ced.teachers.ensemble import Ensemble
from distill.ced.teachers.frames import overlaps, pad_steps
from distill.ced.teachers.scores import MAX_DISAGREEMENT, mean_of_top
from distill.losses.matmul import fast_linears
from distill.training.task import Batch, Parts


class TagModule(nn.Module):
    """What the loop trains.

    Args:
        student: a CedForAudioClassification.
        teachers: asked at every step; None where the batch has their scores, or there are none.
        label_weight: 1 where there are no teachers.
    """

    def __init__(self, student: nn.Module, loss: LossConfig, label_weight: float,
                 teachers: Ensemble | None = None):
        super().__init__()
        self.student, self.loss, self.label_weight = student, loss, label_weight
        self.teachers = teachers
        if loss.frame_weight:
            config = student.config
            self.frame_head = nn.Sequential(
                nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.num_labels))
        self.train()

    def train(self, mode: bool = True) -> TagModule:
        """Statistics of the features stay as they were measured: those of a batch would change
        with the number of ranks."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Tensor, Parts]:
        """Loss of a batch.

        Args:
            batch: `input_values` (clips, 64, frames), `attention_mask` (clips, frames);
                `weight` (clips,), 0 for audio that cannot be read;
                `targets` (clips, classes) and `confidence` (clips,) of teachers; `labels`
                (clips, classes); `waves` and `k`, if teachers are to be asked; `frame_targets`
                (clips, steps, classes) and `frame_counts` (clips,), with a frame_weight.

        Returns:
            the sum over clips, and the sums of its parts.
        """
        # layers that are computed again while going backward would be so by other products
        checkpointing = self.student.is_activation_checkpointing
        with nullcontext() if checkpointing else fast_linears():
            output = self.student(batch["input_values"], batch["attention_mask"])
        logits = output.logits.float()
        parts, weight = {}, batch["weight"]
        total = logits.new_zeros(())
        if self.label_weight:
            parts["label_bce"] = (weight * clip_bce(logits, batch["labels"])).sum()
            total = total + self.label_weight * parts["label_bce"]
        if self.label_weight < 1:
            batch = batch | self._ask(batch)
            targets, confidence = batch["targets"], batch["confidence"]
            temperature = self.loss.temperature
            soft = clip_bce(logits / temperature, tempered(targets, temperature))
            if self.loss.confidence_power:
                soft = soft * confidence**self.loss.confidence_power
            parts["soft_bce"] = temperature**2 * (weight * soft).sum()
            total = total + (1 - self.label_weight) * parts["soft_bce"]
            if self.loss.frame_weight:
                parts["frame_bce"] = (weight * self._frame_bce(output, batch)).sum()
                scale = (1 - self.label_weight) * self.loss.frame_weight
                total = total + scale * parts["frame_bce"]
        return total, {name: value.detach() for name, value in parts.items()}

    def _frame_bce(self, output: CedOutput, batch: Batch) -> Tensor:
        """(clips,) mean over those steps of a clip of which the student has seen a token."""
        targets = batch["frame_targets"]
        means = step_means(output.last_hidden_state, output.frame_mask,
                           self.student.step_seconds, targets.shape[1])
        steps = torch.arange(targets.shape[1], device=targets.device)
        seen = (steps < batch["frame_counts"][:, None]) & (means != 0).any(-1)
        each = F.binary_cross_entropy_with_logits(
            self.frame_head(means).float(), targets, reduction="none").mean(-1)
        return (each * seen).sum(1) / seen.sum(1).clamp(min=1)

    @torch.no_grad()
    def _ask(self, batch: Batch) -> Batch:
        """Scores of live teachers, as batch entries: in the form in which they would be stored."""
        if self.teachers is None:
            return {}
        lengths = batch["attention_mask"].sum(1).tolist()
        values = batch["input_values"]
        features = [each[:, :n].cpu() for each, n in zip(values, lengths, strict=True)]
        output = self.teachers([wave.cpu().numpy() for wave in batch["waves"]], features,
                                frames=bool(self.loss.frame_weight))
        p = output.probabilities
        spread = mean_of_top(output.disagreement, p, batch["k"]) / MAX_DISAGREEMENT
        entries = {"targets": p, "confidence": 1 - spread}
        if output.frames is not None:
            counts = [len(each) for each in output.frames]
            entries["frame_targets"] = pad_steps(output.frames, max(counts))
            entries["frame_counts"] = np.array(counts)
        return {name: torch.from_numpy(each.astype(np.float32)).to(values.device)
                for name, each in entries.items()}


def clip_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """(clips,) binary cross-entropy in nats, mean over classes.

    Args:
        logits, targets: (clips, classes); targets are probabilities.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)


def step_means(hidden: Tensor, mask: Tensor, seconds: float, steps: int) -> Tensor:
    """Hidden states (clips, frames, width) of `seconds` each -> (clips, steps, width).

    Args:
        mask: (clips, frames), True for frames of the clip. A step without any is zero.
    """
    weights = torch.from_numpy(overlaps(hidden.shape[1], seconds, steps)).to(hidden)
    weights = weights * mask[:, None].to(hidden)  # (clips, steps, frames)
    return weights @ hidden / weights.sum(2, keepdim=True).clamp(min=1e-6)


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """sigmoid(logit(p) / T); 0 and 1 stay what they are."""
    if temperature == 1:
        return probabilities
    return torch.sigmoid(torch.logit(probabilities.double()) / temperature).to(probabilities.dtype)
