"""What has to be so on every device: a divergence of exactly 0, drafts that change nothing."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill.losses.token_losses import IGNORE
from distill.whisper.decoding.report import Report
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.padded import encode
from distill.whisper.model import DistillModule
from distill.whisper.recipe import LossConfig
from distill.whisper.student import make_student
from eval.benchmark.gpu.material import Material

DRAFT_LENGTH = 4  # tokens


@dataclass(frozen=True)
class Check:
    """What was asserted, whether it holds, and what was found."""

    name: str
    passed: bool
    found: str


def kl_is_zero(material: Material, dtype: torch.dtype) -> Check:
    """A student that is its teacher: every kernel of the loss sees the same numbers twice.

    Args:
        dtype: float32, or what autocast computes in.
    """
    teacher = material.teacher.model
    module = DistillModule(deepcopy(teacher), teacher, LossConfig(ce_weight=0.0, kl_weight=1.0),
                           shared_encoder=True)
    batch = random_batch(material)
    with torch.no_grad(), torch.autocast(batch["labels"].device.type, dtype,
                                         enabled=dtype != torch.float32):
        _, parts = module(batch)
    divergence = float(parts["kl"])
    return Check(f"KL of equal models, {name_of(dtype)}", divergence == 0.0,
                 f"{divergence:g} nats in {int((batch['labels'] != IGNORE).sum())} tokens")


def random_batch(material: Material) -> dict[str, Any]:
    """Windows, and as many random texts."""
    rows, length = material.features[: material.size.batch], material.size.limit
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (len(rows), length + 1), generator=generator).to(rows.device)
    labels = ids[:, 1:].clone()
    labels[:, 0] = IGNORE
    return {"input_features": rows, "decoder_input_ids": ids[:, :-1], "labels": labels}


@torch.no_grad()
def drafts_change_nothing(material: Material, dtype: torch.dtype) -> list[tuple[Check, dict]]:
    """Tokens of speculative decoding, near ties decided by plain decoding, beside plain decoding.

    Drafts come from texts of which every fifth token is wrong and, on a GPU, from a student in the
    same type; on CPUs students draft in int8, which goes with float32 alone.

    Returns:
        also counts of each, for the table.
    """
    teacher = deepcopy(material.teacher.model).to(dtype)
    states, limit = encode(teacher, material.features), material.size.limit
    decoder = partial(WhisperDecoder, teacher, material.teacher.processor.tokenizer, "en",
                      on_loop="keep")
    plain = decoder()
    wanted = [plain(each[None], [limit])[0].tokens for each in states]

    def compare(kind: str, drafting: WhisperDecoder, texts: list[list[int]] | None) \
            -> tuple[Check, dict]:
        found = []
        for at in range(0, len(states), material.size.batch):
            rows = slice(at, at + material.size.batch)
            found += [each.tokens for each in drafting(
                states[rows], [limit] * len(states[rows]), drafts=texts and texts[rows])]
        return judge_drafts(f"drafts of {kind} change nothing, {name_of(dtype)}", found, wanted,
                            drafting.report)

    results = [compare("texts", decoder(exact=True), [_spoilt(tokens) for tokens in wanted])]
    if states.device.type != "cpu":
        layers = [0, teacher.config.decoder_layers - 1]
        student = make_student(teacher, layers, list(range(teacher.config.encoder_layers)))
        student = student.to(teacher.device, dtype).eval()
        results.append(compare("a student", decoder(
            exact=True, student=student, draft_length=DRAFT_LENGTH), None))
    return results


def judge_drafts(
    name: str, found: list[list[int]], wanted: list[list[int]], report: Report
) -> tuple[Check, dict]:
    same, ties = sum(a == b for a, b in zip(found, wanted, strict=True)), report.near_ties
    unresolved = sum(not tie.resolved for tie in ties)
    figures = {"windows": len(found), "identical": same, "tokens": report.tokens,
               "tested": report.tested, "acceptance": report.acceptance, "near_ties": len(ties),
               "unresolved": unresolved, "tokens_per_pass": report.tokens_per_pass}
    passed = same == len(found) and report.tested > 0 and not unresolved
    return Check(name, passed, f"{same} of {len(found)} windows, {report.tested} tokens drafted, "
                               f"{len(ties)} near ties"), figures


def _spoilt(tokens: list[int]) -> list[int]:
    """Every fifth is another one."""
    return [(token + 1) % 256 if at % 5 == 4 else token for at, token in enumerate(tokens)]


def first_difference(ours: list[int], theirs: list[int]) -> int | None:
    """Where two texts part; None if they are equal."""
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def gap(logits: Tensor) -> float:
    """Between the two best of (vocabulary,)."""
    best = logits.float().topk(2).values
    return float(best[0] - best[1])


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
