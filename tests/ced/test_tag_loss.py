"""The loss of a batch is the formula at the head of its module, a sum over clips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.ced.recipe_sections import LossConfig
from distill.ced.tag_loss import TagModule, clip_bce, tempered

CLIPS, CLASSES = 4, 5


class Student(nn.Module):
    """Says the same whatever it hears."""

    is_activation_checkpointing = False

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(CLIPS, CLASSES))
        self.norm = nn.BatchNorm1d(CLASSES)

    def forward(self, input_values, attention_mask):
        return type("Output", (), {"logits": self.logits})


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {
        "input_values": torch.zeros(CLIPS, 64, 16), "attention_mask": torch.ones(CLIPS, 16),
        "targets": torch.rand(CLIPS, CLASSES), "labels": (torch.rand(CLIPS, CLASSES) > 0.5).float(),
        "confidence": torch.tensor([1.0, 0.5, 0.0, 0.25]), "weight": torch.tensor([1.0, 1, 1, 0]),
    }


def loss(batch, label_weight=0.0, **config):
    torch.manual_seed(1)
    module = TagModule(Student(), LossConfig(**config), label_weight)
    total, parts = module(batch)
    return total, parts, module.student.logits.detach()


def bce(logits, targets):
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return each.mean(1)


def test_soft_loss_is_a_sum_over_clips_that_can_be_read(batch):
    total, parts, logits = loss(batch)
    assert torch.allclose(total, bce(logits, batch["targets"])[:3].sum())
    assert parts["soft_bce"] == total and "label_bce" not in parts


def test_labels_are_mixed_in_as_in_efficientat(batch):
    total, _, logits = loss(batch, label_weight=0.1)
    both = 0.1 * bce(logits, batch["labels"]) + 0.9 * bce(logits, batch["targets"])
    assert torch.allclose(total, both[:3].sum())


def test_labels_alone_need_no_targets(batch):
    del batch["targets"], batch["confidence"]
    total, parts, logits = loss(batch, label_weight=1.0)
    assert torch.allclose(total, bce(logits, batch["labels"])[:3].sum())
    assert list(parts) == ["label_bce"]


def test_temperature_is_on_both_sides_and_keeps_the_size_of_gradients(batch):
    total, _, logits = loss(batch, temperature=3.0)
    soft = torch.sigmoid(torch.logit(batch["targets"]) / 3)
    assert torch.allclose(total, 9 * bce(logits / 3, soft)[:3].sum(), rtol=1e-5)
    small = 1e-3 * torch.randn(2, 3)
    near = torch.sigmoid(small)
    gradients = []
    for temperature in (1.0, 4.0):
        z = torch.zeros(2, 3, requires_grad=True)
        (temperature**2 * clip_bce(z / temperature, tempered(near, temperature)).sum()).backward()
        gradients.append(z.grad)
    assert torch.allclose(*gradients, rtol=1e-2)


def test_sure_scores_stay_sure_at_any_temperature():
    values = torch.tensor([0.0, 1.0, 0.5])
    assert tempered(values, 2.0).tolist() == [0.0, 1.0, 0.5]


def test_confidence_weighs_clips(batch):
    total, _, logits = loss(batch, confidence_power=2.0)
    each = bce(logits, batch["targets"])
    assert torch.allclose(total, each[0] + 0.25 * each[1])


def test_live_teachers_are_asked_about_what_the_student_hears(batch):
    from distill.ced.teachers.ensemble import EnsembleOutput

    asked = {}

    def teachers(waves, features, frames):
        assert not frames
        asked.update(waves=waves, features=features)
        p = np.linspace(0.1, 0.9, CLIPS * CLASSES).reshape(CLIPS, CLASSES)
        return EnsembleOutput(p, np.full_like(p, 0.25), p[None])

    batch["waves"], batch["k"] = [torch.ones(n) for n in (3, 4, 5, 6)], 2
    batch["attention_mask"] = torch.arange(16) < torch.tensor([16, 9, 16, 3])[:, None]
    torch.manual_seed(1)
    module = TagModule(Student(), LossConfig(confidence_power=1.0), 0.0, teachers)
    total, _ = module(batch)
    assert [each.shape[1] for each in asked["features"]] == [16, 9, 16, 3]
    assert [len(each) for each in asked["waves"]] == [3, 4, 5, 6]
    p = torch.linspace(0.1, 0.9, 20).view(CLIPS, CLASSES)
    logits = module.student.logits
    assert torch.allclose(total, 0.5 * bce(logits, p)[:3].sum(), rtol=1e-5)


def test_normalisation_never_learns_from_a_batch():
    module = TagModule(Student(), LossConfig(), 1.0).train()
    assert module.student.training and not module.student.norm.training
