"""Reverse KL and total variation of the whole vocabulary, against autograd in float64."""

import pytest
import torch

from distill.losses import token_losses as losses
from distill.losses.token_losses import (
    TeacherScores,
    ce_and_full_kl,
    ce_and_reverse_kl,
    ce_and_total_variation,
    token_losses,
)
from tests.losses.conftest import VOCAB, WIDTH

WEIGHTS = {"ce_weight": 0.8, "kl_weight": 1.3, "temperature": 2.0}
FUNCTIONS = {"reverse": ce_and_reverse_kl, "total_variation": ce_and_total_variation}
KINDS = list(FUNCTIONS)


def divergence(kind, student, teacher, temperature):
    """(tokens,) by torch's own functions."""
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    if kind == "total_variation":
        return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
    return torch.nn.functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)


def reference(n, kind, weights) -> tuple[list, list]:
    """Values and gradients (hidden, weight) in float64."""
    hidden, weight = (n[name].clone().requires_grad_() for name in ("hidden", "weight"))
    logits, teacher = hidden @ weight.T, n["teacher_hidden"] @ n["teacher_weight"].T
    ce = torch.nn.functional.cross_entropy(logits, n["labels"], reduction="sum")
    distance = divergence(kind, logits, teacher, weights["temperature"]).sum()
    scale = weights["kl_weight"] * weights["temperature"] ** 2
    total = weights["ce_weight"] * ce + scale * distance
    total.backward()
    return [value.detach() for value in (total, ce, distance)], [hidden.grad, weight.grad]


def run(n, kind, **weights):
    """The same of `token_losses`, in float32."""
    hidden, weight = (n[name].float().requires_grad_() for name in ("hidden", "weight"))
    teacher = TeacherScores(hidden=n["teacher_hidden"].float(), weight=n["teacher_weight"].float())
    values = token_losses(hidden, weight, n["labels"], teacher, divergence=kind,
                          **(WEIGHTS | weights))
    values[0].backward()
    return [v.detach() for v in values], [hidden.grad, weight.grad]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("chunk", [4, 256])
def test_values_and_gradients(numbers, monkeypatch, kind, temperature, chunk):
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", chunk)
    found = run(numbers, kind, temperature=temperature)
    right = reference(numbers, kind, WEIGHTS | {"temperature": temperature})
    for values, expected in zip(found, right, strict=True):
        for value, each in zip(values, expected, strict=True):
            torch.testing.assert_close(value.double(), each, rtol=1e-4, atol=1e-5)


class Hand(torch.autograd.Function):
    """The weighted total by one of our functions, as something gradcheck can check."""

    @staticmethod
    def forward(ctx, student, teacher, labels, function, weights):
        ce, distance, gradient = function(student.clone(), labels, teacher.clone(), **weights)
        ctx.save_for_backward(gradient)
        scale = weights["kl_weight"] * weights["temperature"] ** 2
        return weights["ce_weight"] * ce + scale * distance

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad[:, None], None, None, None, None


def logits_of(n, tokens=3):
    return (n["hidden"][:tokens] @ n["weight"].T,
            n["teacher_hidden"][:tokens] @ n["teacher_weight"].T)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0])
def test_gradcheck(numbers, kind, temperature):
    student, teacher = logits_of(numbers)
    weights = WEIGHTS | {"temperature": temperature}
    assert torch.autograd.gradcheck(
        lambda z: Hand.apply(z, teacher, numbers["labels"][:3], FUNCTIONS[kind], weights),
        student.requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0])
def test_exactly_zero_when_equal(numbers, kind, temperature):
    same = numbers | {"teacher_hidden": numbers["hidden"], "teacher_weight": numbers["weight"]}
    (total, _, distance), gradients = run(same, kind, ce_weight=0.0, temperature=temperature)
    assert total == 0.0 and distance == 0.0
    assert not any(gradient.any() for gradient in gradients)


def test_by_hand():
    """p = (1/2, 1/2), q = (9/10, 1/10)."""
    student, teacher = torch.tensor([[9.0, 1.0]]).log(), torch.zeros(1, 2)
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 1.0}
    labels = torch.tensor([0])
    found = {kind: function(student.clone(), labels, teacher.clone(), **weights)[1].item()
             for kind, function in (FUNCTIONS | {"forward": ce_and_full_kl}).items()}
    assert found == pytest.approx(
        {"total_variation": 0.4, "reverse": 0.368064, "forward": 0.510826}, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_is_finite(kind):
    """Each is sure of what the other excludes."""
    student = torch.full((2, 50), -100.0)
    student[:, 3] = 100.0
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 1.0}
    labels = torch.tensor([3, 4])
    _, distance, gradient = FUNCTIONS[kind](student, labels, student.roll(1, -1), **weights)
    expected = 200.0 if kind == "reverse" else 1.0
    torch.testing.assert_close(distance, torch.full((2,), expected))
    assert gradient.isfinite().all()


def test_total_variation_is_what_a_sampling_teacher_rejects(numbers):
    """A draft x of q is kept with probability min(1, p(x) / q(x)) (arXiv:2211.17192 alg. 1)."""
    student, teacher = logits_of(numbers, 1)
    q, p = student.softmax(-1)[0], teacher.softmax(-1)[0]
    generator = torch.Generator().manual_seed(0)
    drafts = torch.multinomial(q, 100_000, replacement=True, generator=generator)
    draws = torch.rand(len(drafts), generator=generator)
    rejected = (draws > (p / q)[drafts]).double().mean()
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 1.0}
    distance = ce_and_total_variation(student, numbers["labels"][:1], teacher, **weights)[1]
    assert abs(distance.item() - rejected.item()) < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_of_all_tokens_and_all_ids(numbers, monkeypatch, largest_tensor, kind):
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", 4)
    with largest_tensor as largest:
        run(numbers, kind)
    assert largest.numel <= max(4 * VOCAB, VOCAB * WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_some_scores_are_not_enough(kind):
    some = TeacherScores(indices=torch.zeros(1, 1, dtype=torch.long), values=torch.zeros(1, 1),
                         log_rest=torch.zeros(1))
    with pytest.raises(ValueError, match=f"divergence {kind} needs all of the teacher's scores"):
        token_losses(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), some,
                     divergence=kind, **WEIGHTS)
