"""Losses against plain autograd in float64; the chunked ones in float32 against both."""

import pytest
import torch

from distill import losses
from distill.losses import (
    TeacherScores,
    cross_entropy,
    full_kl,
    hidden_mse,
    token_losses,
    top_k_kl,
    top_k_scores,
)

TOKENS, WIDTH, VOCAB = 13, 6, 29
WEIGHTS = {"ce_weight": 0.8, "kl_weight": 1.3, "temperature": 2.0}


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "hidden": normal(TOKENS, WIDTH), "weight": normal(VOCAB, WIDTH),
        "teacher_hidden": normal(TOKENS, WIDTH), "teacher_weight": normal(VOCAB, WIDTH),
        "labels": torch.randint(VOCAB, (TOKENS,), generator=generator),
    }


def reference_kl(student, teacher, temperature):
    """(tokens,), by torch's own functions; autograd differentiates it."""
    return torch.nn.functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1),
        reduction="none", log_target=True,
    ).sum(-1)


def reference_total(n, hidden, weight, ce_weight, kl_weight, temperature):
    logits = hidden @ weight.T
    ce = torch.nn.functional.cross_entropy(logits, n["labels"], reduction="sum")
    kl = reference_kl(logits, n["teacher_hidden"] @ n["teacher_weight"].T, temperature).sum()
    return ce_weight * ce + kl_weight * temperature**2 * kl, ce, kl


def live(n, dtype=torch.float32) -> TeacherScores:
    return TeacherScores(hidden=n["teacher_hidden"].to(dtype), weight=n["teacher_weight"].to(dtype))


def recorded(n, k: int, temperature: float) -> TeacherScores:
    hidden, weight = n["teacher_hidden"].float(), n["teacher_weight"].float()
    indices, values, lse = top_k_scores(hidden, weight, k, temperature)
    return TeacherScores(indices=indices, values=values, lse=lse)


def run(n, teacher, dtype=torch.float32, **weights):
    """Values and gradients (hidden, weight) of `token_losses`, backward through a factor of 3."""
    hidden = n["hidden"].to(dtype).requires_grad_()
    weight = n["weight"].to(dtype).requires_grad_()
    values = token_losses(hidden, weight, n["labels"], teacher, **(WEIGHTS | weights))
    (3 * values[0]).backward()
    return [v.detach() for v in values], hidden.grad, weight.grad


@pytest.mark.parametrize("chunk", [1, 4, TOKENS, 256])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_values_and_gradients(numbers, monkeypatch, chunk, temperature):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", chunk)
    values, *gradients = run(numbers, live(numbers), temperature=temperature)
    hidden = numbers["hidden"].clone().requires_grad_()
    weight = numbers["weight"].clone().requires_grad_()
    expected = reference_total(numbers, hidden, weight, **(WEIGHTS | {"temperature": temperature}))
    (3 * expected[0]).backward()
    for value, right in zip(values, expected, strict=True):
        torch.testing.assert_close(value.double(), right.detach(), rtol=1e-5, atol=1e-6)
    for gradient, right in zip(gradients, (hidden.grad, weight.grad), strict=True):
        torch.testing.assert_close(gradient.double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ce_weight", "kl_weight"])
def test_a_weight_of_zero_turns_a_part_off(numbers, name):
    """The reference scripts keep CE at 0.8 whatever the recipe says (fault 21)."""
    (total, ce, kl), gradient, _ = run(numbers, live(numbers), **{name: 0.0})
    left = 1.3 * 4 * kl if name == "ce_weight" else 0.8 * ce
    torch.testing.assert_close(total, left)
    hidden = numbers["hidden"].clone().requires_grad_()
    weights = WEIGHTS | {name: 0.0}
    (3 * reference_total(numbers, hidden, numbers["weight"], **weights)[0]).backward()
    torch.testing.assert_close(gradient.double(), hidden.grad, rtol=1e-4, atol=1e-5)


def test_cross_entropy_alone_needs_no_teacher(numbers):
    (total, ce, kl), gradient, _ = run(numbers, None, kl_weight=0.0)
    assert kl == 0 and gradient.abs().sum() > 0
    torch.testing.assert_close(total, 0.8 * ce)


def test_kl_without_a_teacher(numbers):
    with pytest.raises(ValueError, match="kl_weight > 0 needs teacher scores"):
        run(numbers, None)


def test_no_weight_no_work(numbers):
    """Only states are matched: the output layer is not run."""
    hidden = numbers["hidden"].float().requires_grad_()
    weights = {"ce_weight": 0.0, "kl_weight": 0.0, "temperature": 2.0}
    values = token_losses(hidden, None, numbers["labels"], live(numbers), **weights)
    assert [v.item() for v in values] == [0.0] * 3


def test_frozen_output_layer_gets_no_gradient(numbers):
    hidden = numbers["hidden"].float().requires_grad_()
    weight = numbers["weight"].float()
    total, _, _ = token_losses(hidden, weight, numbers["labels"], live(numbers), **WEIGHTS)
    total.backward()
    assert hidden.grad is not None and weight.grad is None


def test_kl_is_exactly_zero_when_equal(numbers):
    same = TeacherScores(hidden=numbers["hidden"].float(), weight=numbers["weight"].float())
    (_, _, kl), gradient, weight_gradient = run(numbers, same, ce_weight=0.0)
    assert kl == 0.0
    assert not gradient.any() and not weight_gradient.any()


def test_temperature_squared(numbers):
    """The loss has T^2, the logged part has not: gradients keep their size (arXiv:1503.02531)."""
    (total, _, kl), _, _ = run(numbers, live(numbers), ce_weight=0.0, kl_weight=1.0,
                               temperature=3.0)
    torch.testing.assert_close(total, 9 * kl)
    # for large T the gradient of T^2 * KL tends to (z - t) / vocab, centred
    student, teacher = (numbers[a] @ numbers[b].T for a, b in
                        (("hidden", "weight"), ("teacher_hidden", "teacher_weight")))
    gradient = 1e8 * full_kl(student, teacher, 1e4)[1]
    difference = student - teacher
    limit = (difference - difference.mean(-1, keepdim=True)) / VOCAB
    torch.testing.assert_close(gradient, limit, rtol=0.01, atol=1e-3)


# The functions of logits, in float64


def logits(numbers):
    """Of a few tokens: gradcheck asks for every one."""
    student = numbers["hidden"][:3] @ numbers["weight"].T
    teacher = numbers["teacher_hidden"][:3] @ numbers["teacher_weight"].T
    return student.requires_grad_(), teacher


class Hand(torch.autograd.Function):
    """(values, gradient) of one of our functions as something gradcheck can check."""

    @staticmethod
    def forward(ctx, student, function):
        value, gradient = function(student)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad[:, None], None


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, VOCAB - 1])
def test_gradcheck_top_k(numbers, temperature, k):
    student, teacher = logits(numbers)
    values, indices = teacher.topk(k)
    lse = (teacher / temperature).logsumexp(-1)
    assert torch.autograd.gradcheck(
        lambda z: Hand.apply(z, lambda x: top_k_kl(x, indices, values, lse, temperature)), student
    )


def test_gradcheck_full(numbers):
    student, teacher = logits(numbers)
    assert torch.autograd.gradcheck(
        lambda z: Hand.apply(z, lambda x: full_kl(x, teacher, 2.0)), student
    )
    labels = numbers["labels"][:3]
    assert torch.autograd.gradcheck(
        lambda z: Hand.apply(z, lambda x: cross_entropy(x, labels)), student
    )


def test_top_k_is_a_growing_lower_bound(numbers):
    student, teacher = logits(numbers)
    full = reference_kl(student, teacher, 2.0).detach()
    torch.testing.assert_close(full_kl(student, teacher, 2.0)[0], full)
    bounds = []
    for k in range(1, VOCAB):
        values, indices = teacher.topk(k)
        lse = (teacher / 2.0).logsumexp(-1)
        bounds.append(top_k_kl(student, indices, values, lse, 2.0)[0])
    bounds = torch.stack(bounds).detach()
    assert (bounds[0] >= 0).all() and (bounds[0] < 0.9 * full).any()
    assert (bounds.diff(dim=0) > -1e-12).all()
    assert (bounds <= full + 1e-12).all()
    torch.testing.assert_close(bounds[-1], full)  # the last bucket holds one token


def test_recorded_with_all_scores_is_the_live_loss(numbers):
    (total, ce, kl), *gradients = run(numbers, live(numbers))
    (other, other_ce, other_kl), *other_gradients = run(numbers, recorded(numbers, 99, 2.0))
    assert other_ce == ce
    torch.testing.assert_close(other_kl, kl, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, total, rtol=1e-5, atol=1e-5)
    for one, two in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 4])
def test_recording_does_not_depend_on_the_chunk(numbers, monkeypatch, chunk):
    whole = recorded(numbers, 5, 2.0)
    monkeypatch.setattr(losses, "CHUNK_TOKENS", chunk)
    (_, _, expected), *_ = run(numbers, whole)
    parts = recorded(numbers, 5, 2.0)
    assert torch.equal(parts.indices, whole.indices)
    torch.testing.assert_close(parts.lse, whole.lse)
    (_, _, kl), *_ = run(numbers, parts)
    torch.testing.assert_close(kl, expected)
    assert parts.indices.shape == (TOKENS, 5) and parts.lse.shape == (TOKENS,)


def test_recorded_values_are_logits_and_exact_masses(numbers):
    scores = recorded(numbers, 5, 2.0)
    teacher = (numbers["teacher_hidden"] @ numbers["teacher_weight"].T).float()
    torch.testing.assert_close(scores.values, teacher.gather(-1, scores.indices))
    mass = (teacher / 2.0).softmax(-1).gather(-1, scores.indices)
    torch.testing.assert_close((scores.values / 2.0 - scores.lse[:, None]).exp(), mass)


def test_confident_teacher_gives_finite_gradients():
    """All mass in the top k, to float32's last bit."""
    student = torch.zeros(2, 50)
    teacher = torch.full((2, 50), -100.0)
    teacher[:, 3] = 100.0
    values, indices = teacher.topk(4)
    lse = teacher.logsumexp(-1)
    kl, gradient = top_k_kl(student, indices, values, lse, 1.0)
    torch.testing.assert_close(kl, full_kl(student, teacher, 1.0)[0], rtol=1e-5, atol=1e-5)
    assert gradient.isfinite().all()
    kl, gradient = top_k_kl(teacher, indices, values, lse, 1.0)
    assert kl.abs().max() < 1e-6 and gradient.abs().max() < 1e-6


def test_hidden_mse(numbers):
    student, teacher = numbers["hidden"].float(), numbers["teacher_hidden"].float()
    expected = sum(torch.nn.functional.mse_loss(s, t) for s, t in
                   zip(student, teacher, strict=True))
    torch.testing.assert_close(hidden_mse(student, teacher), expected)
    assert hidden_mse(student, student) == 0
