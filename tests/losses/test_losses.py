"""Losses against plain autograd in float64; the chunked ones in float32 against both."""

import pytest
import torch

from distill.losses import token_losses as losses
from distill.losses.token_losses import (
    TeacherScores,
    ce_and_full_kl,
    ce_and_top_k_kl,
    cross_entropy,
    hidden_mse,
    token_losses,
)
from tests.losses.conftest import TOKENS, VOCAB

NOTHING = -torch.inf
WEIGHTS = {"ce_weight": 0.8, "kl_weight": 1.3, "temperature": 2.0}


def top_k_of(logits, k: int, temperature: float) -> TeacherScores:
    """Exact scores of logits; `distill.losses.targets` is tested elsewhere."""
    values, indices = logits.topk(k)
    rest = (logits / temperature).log_softmax(-1).scatter(-1, indices, NOTHING).logsumexp(-1)
    return TeacherScores(indices=indices, values=values - values[:, :1], log_rest=rest)


def live(n, dtype=torch.float32) -> TeacherScores:
    return TeacherScores(hidden=n["teacher_hidden"].to(dtype), weight=n["teacher_weight"].to(dtype))


def scored(n, k: int, temperature: float) -> TeacherScores:
    scores = top_k_of(n["teacher_hidden"] @ n["teacher_weight"].T, k, temperature)
    return TeacherScores(indices=scores.indices, values=scores.values.float(),
                         log_rest=scores.log_rest.float())


def reference_kl(student, teacher: TeacherScores, temperature: float):
    """(tokens,) in float64, by torch's own functions; autograd differentiates it."""
    log_q = (student / temperature).log_softmax(-1)
    if teacher.indices is None:
        theirs = teacher.hidden.double() @ teacher.weight.double().T
        log_p = (theirs / temperature).log_softmax(-1)
        return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    kept, rest = 1 - teacher.log_rest.double().exp(), teacher.log_rest.double()
    p = (teacher.values.double() / temperature).softmax(-1) * kept[:, None]
    kl = (torch.xlogy(p, p) - p * log_q.gather(-1, teacher.indices)).sum(-1)
    if (rest > NOTHING).all():
        log_q_rest = log_q.scatter(-1, teacher.indices, NOTHING).logsumexp(-1)
        kl = kl + rest.exp() * (rest - log_q_rest)
    return kl


def reference(n, teacher, weights) -> tuple[list, list]:
    """Values and gradients (hidden, weight) in float64, backward through a factor of 3."""
    hidden, weight = (n[name].clone().requires_grad_() for name in ("hidden", "weight"))
    logits = hidden @ weight.T
    ce = torch.nn.functional.cross_entropy(logits, n["labels"], reduction="sum")
    kl = reference_kl(logits, teacher, weights["temperature"]).sum()
    total = weights["ce_weight"] * ce + weights["kl_weight"] * weights["temperature"] ** 2 * kl
    (3 * total).backward()
    return [value.detach() for value in (total, ce, kl)], [hidden.grad, weight.grad]


def run(n, teacher, dtype=torch.float32, **weights):
    """The same of `token_losses`."""
    hidden = n["hidden"].to(dtype).requires_grad_()
    weight = n["weight"].float().requires_grad_()
    values = token_losses(hidden, weight, n["labels"], teacher, **(WEIGHTS | weights))
    (3 * values[0]).backward()
    return [v.detach() for v in values], [hidden.grad, weight.grad]


def assert_near(values, right, rtol=1e-5, atol=1e-6):
    for value, expected in zip(values, right, strict=True):
        torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("chunk", "temperature"), [
    (1, 2.0), (4, 1.0), (4, 1.5), (4, 2.0), (256, 1.5)])
@pytest.mark.parametrize("k", [None, 1, 5], ids=lambda k: "live" if k is None else f"top{k}")
def test_values_and_gradients(numbers, monkeypatch, chunk, temperature, k):
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", chunk)
    teacher = live(numbers) if k is None else scored(numbers, k, temperature)
    values, gradients = run(numbers, teacher, temperature=temperature)
    right, expected = reference(numbers, teacher, WEIGHTS | {"temperature": temperature})
    assert_near(values, right)
    assert_near(gradients, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [None, 5], ids=["live", "top5"])
@pytest.mark.parametrize("name", ["ce_weight", "kl_weight"])
def test_a_weight_of_zero_turns_a_part_off(numbers, name, k):
    """The reference scripts keep CE at 0.8 whatever the recipe says (fault 21)."""
    teacher = live(numbers) if k is None else scored(numbers, k, 2.0)
    (total, ce, kl), gradients = run(numbers, teacher, **{name: 0.0})
    torch.testing.assert_close(total, 1.3 * 4 * kl if name == "ce_weight" else 0.8 * ce)
    assert_near(gradients, reference(numbers, teacher, WEIGHTS | {name: 0.0})[1], 1e-4, 1e-5)


def test_cross_entropy_alone_needs_no_teacher(numbers):
    (total, ce, kl), gradients = run(numbers, None, kl_weight=0.0)
    assert kl == 0
    torch.testing.assert_close(total, 0.8 * ce)
    expected = reference(numbers, live(numbers), WEIGHTS | {"kl_weight": 0.0})[1]
    assert_near(gradients, expected, 1e-4, 1e-5)


def test_kl_without_a_teacher(numbers):
    with pytest.raises(ValueError, match="kl_weight > 0 needs teacher scores"):
        run(numbers, None)


def test_no_weight_no_work(numbers):
    """Only states are matched: the output layer is not run."""
    hidden = numbers["hidden"].float().requires_grad_()
    weights = {"ce_weight": 0.0, "kl_weight": 0.0, "temperature": 2.0}
    values = token_losses(hidden, None, numbers["labels"], live(numbers), **weights)
    assert [v.item() for v in values] == [0.0] * 3


@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_what_is_frozen_gets_no_gradient(numbers, frozen):
    parts = {name: numbers[name].float().requires_grad_(name != frozen)
             for name in ("hidden", "weight")}
    token_losses(**parts, labels=numbers["labels"], teacher=live(numbers), **WEIGHTS)[0].backward()
    whole = dict(zip(("hidden", "weight"), run(numbers, live(numbers))[1], strict=True))
    assert parts[frozen].grad is None
    trained = "hidden" if frozen == "weight" else "weight"
    torch.testing.assert_close(3 * parts[trained].grad, whole[trained])


def test_low_precision_states(numbers):
    """Under autocast states are half precision, the output layer is not."""
    values, (hidden, weight) = run(numbers, live(numbers), dtype=torch.bfloat16)
    assert (hidden.dtype, weight.dtype) == (torch.bfloat16, torch.float32)
    right, expected = reference(numbers, live(numbers), WEIGHTS)
    assert_near(values, right, rtol=0.02)
    size = max(each.abs().max().item() for each in expected)
    assert_near((hidden, weight), expected, rtol=0.0, atol=0.03 * size)


@pytest.mark.parametrize("tokens", [0, TOKENS])
def test_uninitialised_memory_is_never_seen(numbers, monkeypatch, tokens):
    """Gradients of a rank whose micro-batch has no valid token are zeros."""
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, torch.nan))
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", 4)
    n = numbers | {name: numbers[name][:tokens] for name in ("hidden", "teacher_hidden", "labels")}
    values, gradients = run(n, live(n))
    right, expected = reference(n, live(n), WEIGHTS)
    assert_near(values, right)
    assert_near(gradients, expected, rtol=1e-4, atol=1e-5)


def test_a_second_backward_pass_is_refused(numbers):
    """The gradients were given away: silent zeros or doubled ones would be worse."""
    hidden, weight = numbers["hidden"].float().requires_grad_(), numbers["weight"].float()
    total = token_losses(hidden, weight, numbers["labels"], live(numbers), **WEIGHTS)[0]
    total.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="a second backward pass"):
        total.backward()


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0])
def test_kl_is_exactly_zero_when_equal(numbers, temperature):
    student = logits_of(numbers)[0].float()
    weights = {"ce_weight": 0.0, "kl_weight": 1.3, "temperature": temperature}
    _, kl, gradient = ce_and_full_kl(student, numbers["labels"][:3], student.clone(), **weights)
    assert not kl.any() and not gradient.any()
    # of states: two products, each of which may round in its own way
    same = TeacherScores(hidden=numbers["hidden"].float(), weight=numbers["weight"].float())
    (_, _, kl), gradients = run(numbers, same, ce_weight=0.0, temperature=temperature)
    assert abs(kl) < 1e-5 and all(gradient.abs().max() < 1e-4 for gradient in gradients)


def test_temperature_squared(numbers):
    """The loss has T^2, the logged part has not: gradients keep their size (arXiv:1503.02531)."""
    (total, _, kl), _ = run(numbers, live(numbers), ce_weight=0.0, kl_weight=1.0, temperature=3.0)
    torch.testing.assert_close(total, 9 * kl)
    # for large T the gradient of T^2 * KL tends to (z - t) / vocab, centred
    student, teacher = logits_of(numbers)
    difference = student - teacher
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 1e4}
    gradient = ce_and_full_kl(student, numbers["labels"][:3], teacher, **weights)[2]
    limit = (difference - difference.mean(-1, keepdim=True)) / VOCAB
    torch.testing.assert_close(gradient, limit, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("k", [None, 5, 0], ids=["live", "top5", "ce"])
@pytest.mark.parametrize("chunk", [4, 10_000])
def test_no_tensor_of_all_tokens_and_all_ids(monkeypatch, largest_tensor, chunk, k):
    tokens, vocab, width = 60, 32, 8
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", chunk)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    teacher = TeacherScores(hidden=torch.randn(tokens, width), weight=torch.randn(vocab, width))
    if k is not None:
        teacher = top_k_of(torch.randn(tokens, vocab), k, 2.0) if k else None
    weights = WEIGHTS | ({"kl_weight": 0.0} if teacher is None else {})
    with largest_tensor as largest:
        token_losses(hidden, weight, torch.arange(tokens) % vocab, teacher, **weights)[0].backward()
    if chunk == 4:
        assert largest.numel <= max(chunk * vocab, vocab * width, tokens * width)
    else:  # the instrument sees it
        assert largest.numel == tokens * vocab


# The functions of logits, in float64


def logits_of(numbers):
    """Of a few tokens: gradcheck asks for every one."""
    return (numbers["hidden"][:3] @ numbers["weight"].T,
            numbers["teacher_hidden"][:3] @ numbers["teacher_weight"].T)


class Hand(torch.autograd.Function):
    """The weighted total by one of our functions, as something gradcheck can check."""

    @staticmethod
    def forward(ctx, student, function, labels, weights):
        ce, kl, gradient = function(student.clone(), labels, **weights)
        ctx.save_for_backward(gradient)
        return weights["ce_weight"] * ce + weights["kl_weight"] * weights["temperature"] ** 2 * kl

    @staticmethod
    def backward(ctx, grad):
        return ctx.saved_tensors[0] * grad[:, None], None, None, None


@pytest.mark.parametrize(("k", "temperature"), [
    *((k, temperature) for k in (None, 5) for temperature in (1.0, 1.5, 2.0)),
    *((k, 1.5) for k in (1, VOCAB - 1, VOCAB))])
def test_gradcheck(numbers, temperature, k):
    student, teacher = logits_of(numbers)
    scores = None if k is None else top_k_of(teacher, k, temperature)

    def function(z, labels, **weights):
        if k is None:
            return ce_and_full_kl(z, labels, teacher.clone(), **weights)
        return ce_and_top_k_kl(z, labels, scores, **weights)

    # labels among the teacher's ids, among the rest, and where the student is largest
    labels = torch.stack([teacher[0].argmax(), teacher[1].argmin(), student[2].argmax()])
    weights = WEIGHTS | {"temperature": temperature}
    assert torch.autograd.gradcheck(
        lambda z: Hand.apply(z, function, labels, weights), student.requires_grad_())


def test_gradcheck_cross_entropy(numbers):
    student, labels = logits_of(numbers)[0], numbers["labels"][:3]

    def function(z, labels, **_):
        ce, gradient = cross_entropy(z, labels)
        return ce, torch.zeros_like(ce), gradient

    weights = {"ce_weight": 1.0, "kl_weight": 0.0, "temperature": 1.0}
    assert torch.autograd.gradcheck(
        lambda z: Hand.apply(z, function, labels, weights), student.requires_grad_())


def kl_of(student, scores, temperature=2.0):
    """KL (tokens,) and the gradient of T^2 * KL."""
    labels = torch.zeros(len(student), dtype=torch.long)
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": temperature}
    return ce_and_top_k_kl(student.clone(), labels, scores, **weights)[1:]


def test_top_k_is_a_growing_lower_bound(numbers):
    student, teacher = logits_of(numbers)
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 2.0}
    full = ce_and_full_kl(student.clone(), numbers["labels"][:3], teacher.clone(), **weights)[1]
    bounds = torch.stack([kl_of(student, top_k_of(teacher, k, 2.0))[0]
                          for k in range(1, VOCAB + 1)])
    assert (bounds[0] >= 0).all() and (bounds[0] < 0.9 * full).any()
    # values are used in float32: VOCAB probabilities are rounded, of which the bound is a sum
    rounding = VOCAB * torch.finfo(torch.float32).eps
    assert (bounds.diff(dim=0) > -rounding).all()
    # the last bucket holds one token, or none
    torch.testing.assert_close(bounds[-2:], full.expand(2, -1), rtol=0.0, atol=rounding)


def test_all_scores_as_stored_are_the_live_loss(numbers):
    """Logits in eighths, so that float16 values lose nothing: what is left is the formula."""
    n = numbers | {"teacher_hidden": (3 * numbers["teacher_hidden"]).round().clamp(-4, 4),
                   "teacher_weight": (8 * numbers["teacher_weight"]).round() / 8}
    scores = scored(n, VOCAB, 2.0)
    scores.values = scores.values.half()
    assert (scores.log_rest == NOTHING).all() and scores.values.min() < -20
    values, gradients = run(n, live(n))
    others, other_gradients = run(n, scores)
    assert_near(others, values, rtol=1e-5, atol=0.0)
    for one, other in zip(gradients, other_gradients, strict=True):
        assert (one - other).norm() < 1e-4 * one.norm()


def test_ids_of_no_weight_and_no_rest(numbers):
    """As `distill.losses.targets` draws them: -inf beside values, nothing left over."""
    scores = scored(numbers, 6, 2.0)
    scores.values[:, 4:] = NOTHING
    scores.values[0, 1:] = NOTHING  # one id came every time
    scores.log_rest.fill_(NOTHING)
    values, gradients = run(numbers, scores)
    right, expected = reference(numbers, scores, WEIGHTS)
    assert_near(values, right)
    assert_near(gradients, expected, rtol=1e-4, atol=1e-5)


CONFIDENT = torch.full((2, 50), -100.0)
CONFIDENT[:, 3] = 100.0


def test_confident_teacher():
    """All mass in the top k, to float32's last bit and beyond."""
    scores = top_k_of(CONFIDENT, 4, 1.0)
    student = torch.zeros(2, 50)
    kl, gradient = kl_of(student, scores, 1.0)
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 1.0}
    full = ce_and_full_kl(student, scores.indices[:, 0], CONFIDENT.clone(), **weights)
    torch.testing.assert_close(kl, full[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, full[2], rtol=1e-5, atol=1e-6)
    kl, gradient = kl_of(CONFIDENT, scores, 1.0)
    assert kl.abs().max() < 1e-6 and gradient.abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_confident_student(temperature):
    """Its mass outside the teacher's ids is no float: the loss is large and finite."""
    generator = torch.Generator().manual_seed(0)
    scores = top_k_of(torch.randn(2, 50, generator=generator), 4, temperature)
    student = 10 * CONFIDENT
    student[0] = student[0].roll(int(scores.indices[0, 1]) - 3)
    kl, gradient = kl_of(student, scores, temperature)
    assert kl.isfinite().all() and gradient.isfinite().all() and (kl > 10).all()
    # where it is sure of one of the teacher's ids, there is less of that to come
    assert gradient[0].argmax() == scores.indices[0, 1] and gradient[0].max() > 0.1


def test_rounded_values_do_not_drown_a_small_tail():
    """Tail mass is stored, not the difference of a sum from 1: beside a tail of 1e-7 the rounding
    of float16 values would be a thousand times as much, and the student would be taught that."""
    generator = torch.Generator().manual_seed(1)
    logits = 0.5 * torch.randn(200, 400, generator=generator)
    logits[:, :8] += 22.0 - torch.arange(8.0)
    exact = top_k_of(logits.double(), 8, 1.0)
    assert exact.log_rest.exp().max() < 1e-6
    rounded = TeacherScores(indices=exact.indices, values=exact.values.half(),
                            log_rest=exact.log_rest.float())
    kl, gradient = kl_of(logits, rounded, 1.0)  # a student that is its teacher
    assert kl.abs().max() < 1e-5 and gradient.abs().max() < 1e-3
    # what the earlier way made of it: values beside a log-sum-exp, the rest by subtraction
    lse = logits.double().logsumexp(-1) - logits.double().amax(-1)
    by_difference = 1 - (rounded.values.double() - lse[:, None]).exp().sum(-1)
    assert (by_difference < 0).any() and by_difference.max() > 100 * exact.log_rest.exp().max()
    rounded.log_rest = by_difference.clamp(min=1e-9).log().float()
    assert kl_of(logits, rounded, 1.0)[0].max() > 1e-4


def test_hidden_mse(numbers):
    student, teacher = numbers["hidden"].float(), numbers["teacher_hidden"].float()
    expected = sum(torch.nn.functional.mse_loss(s, t) for s, t in
                   zip(student, teacher, strict=True))
    torch.testing.assert_close(hidden_mse(student, teacher), expected)
    torch.testing.assert_close(hidden_mse(student, teacher.half()), expected, rtol=1e-3, atol=0.0)
    assert hidden_mse(student, student) == 0
