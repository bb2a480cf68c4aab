"""A student: a new model of a published size, or one that goes on from trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from distill.ced.recipe_sections import StudentConfig
from distill.data.hub_ids import check_hub_id

SIZES = ("tiny", "mini", "small", "base")


def make_student(config: StudentConfig, classes: Sequence[str], seed: int):
    """A CedForAudioClassification with our classes, and whether it is new.

    A model whose classes are others gets a new output layer.
    """
    from distill.ced.model.modeling import CedForAudioClassification, new_model

    torch.manual_seed(seed)
    if config.model in SIZES:
        return new_model(config.model, list(classes), **config.config), True
    check_hub_id(config.model, "student.model", SIZES)
    names = dict(enumerate(classes))
    student = CedForAudioClassification.from_pretrained(
        config.model, dtype=torch.float32, ignore_mismatched_sizes=True, num_labels=len(classes),
        id2label=names, label2id={name: index for index, name in names.items()}, **config.config,
    )
    return student, False


def measure_features(student: nn.Module, features: Iterable[Tensor]) -> None:
    """Set the mean and variance of each mel band, which the model subtracts and divides by.

    Measured once, in float64 and in a fixed order: every rank and every resumed run has the same.

    Args:
        features: (64, frames) each.
    """
    norms = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 1, "one normalisation, of the features"
    total = squares = 0.0
    count = 0
    for each in features:
        wide = each.double()
        total, squares = total + wide.sum(1), squares + (wide**2).sum(1)
        count += each.shape[1]
    if not count:
        raise ValueError("data.train: not one of the clips looked at can be read")
    mean = total / count
    norms[0].running_mean.copy_(mean)
    norms[0].running_var.copy_(squares / count - mean**2)
