"""A random teacher, students of it, and decoders that draft."""

import copy
from functools import cache

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.student import make_student

LONG = [40] * 9
LIMITS = [3, 30, 1, 2, 40, 24, 40, 17, 4]
PREVIOUS = [[], [3, 4, 5], [], list(range(40, 90)), [7], [], [9] * 300, [1, 2], []]


@pytest.fixture(scope="module")
def states():
    return 3 * torch.randn(9, 200, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(tiny_teacher):
    """By name: the teacher itself, some of its layers, and one that knows nothing. The teacher says
    up to 34 tokens, and most rows repeat themselves in the middle."""
    tiny = WhisperForConditionalGeneration.from_pretrained(tiny_teacher, dtype=torch.float32)
    teacher = make_student(tiny, [0, 2, 3], [0, 1]).eval()  # the fewest of which two are a student
    decoder = teacher.requires_grad_(False).model.decoder
    suggested = torch.randint(0, 256, (448,), generator=torch.Generator().manual_seed(5))
    suggested[10:24] = 65
    suggested[34:] = teacher.config.eos_token_id
    decoder.embed_positions.weight.copy_(14 * decoder.embed_tokens.weight[suggested])
    found = {name: make_student(teacher, layers, [0, 1]).eval()
             for name, layers in {"one": [2], "two": [0, 2], "unrelated": [1]}.items()}
    torch.manual_seed(7)
    with torch.no_grad():
        found["unrelated"].model.decoder.embed_tokens.weight.normal_()
        found["unrelated"].model.decoder.embed_positions.weight.normal_()
    return {**found, "itself": teacher}


@pytest.fixture
def teacher(models):
    """A copy for a test to change; `make` then makes decoders of it."""
    return copy.deepcopy(models["itself"])


def decoder_of(models, processor, student: str | None = None, **options) -> WhisperDecoder:
    options = {"draft_length": 3, "on_loop": "keep"} | options
    return WhisperDecoder(models["itself"], processor.tokenizer, "en",
                         student=student and models[student], **options)


@pytest.fixture
def make(request, models, tiny_processor):
    """`make(student=None, **options)`: a decoder."""
    changed = {}
    if "teacher" in request.fixturenames:
        changed["itself"] = request.getfixturevalue("teacher")

    def make(student: str | None = None, **options) -> WhisperDecoder:
        return decoder_of({**models, **changed}, tiny_processor, student, **options)

    return make


CALLS = {"long": {"max_new_tokens": LONG},
         "rows' own": {"max_new_tokens": LIMITS, "previous": PREVIOUS,
                       "languages": ["de", None, "zh"] * 3}}


@pytest.fixture(scope="module")
def plain(models, tiny_processor, states):
    """`plain(call, **options)`: what plain decoding says of the states, decoded once."""
    @cache
    def plain(call: str, **options) -> list:
        return decoder_of(models, tiny_processor, **options)(states, **CALLS[call])

    return plain


def same(found, wanted, exactly: bool = False) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in wanted]
    assert [(h.truncated, h.looped) for h in found] == [(h.truncated, h.looped) for h in wanted]
    for name in ("avg_logprob", "no_speech_prob"):
        values = [[getattr(h, name) for h in each] for each in (found, wanted)]
        assert values[0] == (values[1] if exactly else pytest.approx(values[1], 1e-3, 1e-4))
