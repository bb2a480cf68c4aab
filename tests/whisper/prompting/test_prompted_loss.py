"""Prompted views: the teacher reads the same prompt, and is learned from where it agrees."""

from dataclasses import replace

import pytest
import torch

from distill.data.views.draws import Prompt, View
from distill.losses.token_losses import IGNORE, TeacherScores, agrees
from distill.whisper.data.collate import TokenRules
from distill.whisper.special import SpecialTokens
from tests.whisper.test_model import KEPT, asked_before, make_batch, module, student_of

PROMPTS = (Prompt("upper", "words", "Moskowitz, van Dyck."), Prompt(None, "other", "A page."),
           Prompt("lower", "none", ""), None)
TEXTS = ("Mr. Moskowitz, please.", "Wait, who is it?", "It was the van Dyck.")


@pytest.fixture
def batch(tiny_processor):
    tokenizer = tiny_processor.tokenizer
    rules = TokenRules(SpecialTokens(tokenizer, None), "en", "transcribe", 448, False, tokenizer)
    rows = {f"w{at}": {"id": f"w{at}", "language": "en", "prompt": [], "tokens": tokenizer(
        " " + text, add_special_tokens=False).input_ids} for at, text in enumerate(TEXTS)}
    draw = torch.Generator().manual_seed(0)
    features = {name: torch.randn(80, 3000, generator=draw) for name in rows}
    views = [View(f"w{at % 3}", False, False, prompt=p) for at, p in enumerate(PROMPTS)]
    return make_batch(rules, rows, features, views)


def test_a_student_that_is_its_teacher_learns_nothing_from_it(tiny_model, batch):
    for tokens in ("all", "agreeing"):
        model = module(tiny_model, student_of(tiny_model, range(4)), ce_weight=0.0, kl_weight=1.0,
                       teacher_tokens=tokens)
        _, parts = model(batch)
        assert abs(parts["kl"]) < 1e-5  # but for rounding


def agreeing_label(teacher, batch) -> torch.Tensor:
    """(batch, tokens) bool: some of the labels are made the teacher's likeliest tokens."""
    logits = teacher(input_features=batch["input_features"],
                     decoder_input_ids=batch["decoder_input_ids"]).logits
    valid = batch["labels"] != IGNORE
    chosen = valid & (torch.arange(valid.shape[1]) % 3 == 0)
    batch["labels"] = torch.where(chosen, logits.argmax(-1), batch["labels"])
    return (logits.argmax(-1) == batch["labels"]) & valid


@pytest.mark.parametrize("weights", [
    {"ce_weight": 0.5, "kl_weight": 1.0},
    {"ce_weight": 1.0, "kl_weight": 0.0, "hidden_weight": 2.0}])
def test_the_teacher_counts_where_it_agrees(tiny_model, batch, weights):
    """The same as if the other tokens had no teacher."""
    keep = agreeing_label(tiny_model, batch)
    assert 0 < keep.sum() < (batch["labels"] != IGNORE).sum()
    student = student_of(tiny_model)
    total, parts = module(tiny_model, student, teacher_tokens="agreeing", **weights)(batch)
    only = batch | {"labels": torch.where(keep, batch["labels"], IGNORE)}
    rest = batch | {"labels": torch.where(keep, IGNORE, batch["labels"])}
    taught, taught_parts = module(tiny_model, student, **weights)(only)
    plain, plain_parts = module(tiny_model, student, ce_weight=weights["ce_weight"],
                                kl_weight=0.0)(rest)
    torch.testing.assert_close(total, taught + plain)
    torch.testing.assert_close(parts["ce"], taught_parts["ce"] + plain_parts["ce"])
    for name in ("kl", "hidden"):
        if name in taught_parts:
            torch.testing.assert_close(parts[name], taught_parts[name])


@pytest.mark.parametrize(("k", "weights"), [
    (10**6, {"kl_weight": 1.0}), (0, {"kl_weight": 0.0, "hidden_weight": 1.0})])
def test_a_recorded_teacher_agrees_at_the_same_tokens(tiny_model, batch, k, weights):
    agreeing_label(tiny_model, batch)
    student, output = student_of(tiny_model), tiny_model.proj_out.weight
    live, parts = module(tiny_model, student, teacher_tokens="agreeing", **weights)(batch)
    asked = module(None, student, output=output, teacher_tokens="agreeing", **weights)
    found, found_parts = asked(asked_before(tiny_model, batch, k, inner=KEPT[1:]
                                            if "hidden_weight" in weights else None))
    torch.testing.assert_close(found_parts["ce"], parts["ce"], rtol=1e-3, atol=1e-3)
    name = "hidden" if "hidden_weight" in weights else "kl"
    torch.testing.assert_close(found_parts[name], parts[name], rtol=1e-3, atol=1e-3)


def test_agreement_by_scores_and_by_states():
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(300, 8, generator=draw)
    weight = torch.randn(50, 8, generator=draw)
    logits = hidden @ weight.T
    labels = torch.where(torch.arange(300) % 2 == 0, logits.argmax(-1), 7)
    wanted = logits.argmax(-1) == labels
    by_states = TeacherScores(hidden=hidden, weight=weight)
    assert torch.equal(agrees(by_states, labels), wanted)
    values, indices = logits.topk(5)
    order = torch.randperm(5, generator=draw)
    by_scores = TeacherScores(indices=indices[:, order], values=values[:, order])
    assert torch.equal(agrees(by_scores, labels), wanted)
    empty = replace(by_states, hidden=hidden[:0])
    assert agrees(empty, labels[:0]).shape == (0,)
