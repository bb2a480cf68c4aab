"""Losses over common tokens are those of a vocabulary that has no others."""

import torch
import torch.nn.functional as F

from distill.losses.common_tokens import of_common_tokens
from distill.losses.token_losses import TeacherScores, token_losses

WEIGHTS = {"ce_weight": 0.5, "kl_weight": 2.0, "temperature": 1.5}


def drawn():
    generator = torch.Generator().manual_seed(0)
    hidden, theirs = (torch.randn(7, 8, generator=generator) for _ in range(2))
    output, their_output = (torch.randn(50, 8, generator=generator) for _ in range(2))
    labels = torch.tensor([3, 49, 20, 0, 49, 7, 30])
    return hidden, output.requires_grad_(), labels, TeacherScores(theirs, their_output)


def test_they_are_as_if_there_were_no_others():
    hidden, output, labels, teacher = drawn()
    rows, places, kept = of_common_tokens(output, labels, teacher, 10)
    ids = [*range(10), 20, 30, 49]
    total, _, _ = token_losses(hidden, rows, places, kept, **WEIGHTS)
    logits, theirs = hidden @ output[ids].T, teacher.hidden @ teacher.weight[ids].T
    ce = F.cross_entropy(logits, torch.tensor([ids.index(i) for i in labels]), reduction="sum")
    log_q, log_p = ((z / 1.5).log_softmax(-1) for z in (logits, theirs))
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    expected = 0.5 * ce + 2.0 * 1.5**2 * kl
    torch.testing.assert_close(total, expected)
    ours, plain = (torch.autograd.grad(each, output)[0] for each in (total, expected))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert not ours[[10, 48]].any()


def test_all_tokens_change_nothing():
    hidden, output, labels, teacher = drawn()
    rows, places, kept = of_common_tokens(output, labels, teacher, 1000)
    assert torch.equal(places, labels)
    some, whole = (token_losses(hidden, *each, **WEIGHTS)[0]
                   for each in ((rows, places, kept), (output, labels, teacher)))
    torch.testing.assert_close(some, whole)
    assert of_common_tokens(output, labels, None, 10)[2] is None
