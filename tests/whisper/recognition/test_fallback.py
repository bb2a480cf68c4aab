"""Texts that went wrong are sampled, row by row; the others are left alone."""

from collections import Counter

import pytest
import torch

from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.recognition.fallback import Fallback, decode_with_fallback, seed_of
from distill.whisper.student import make_student

LIMITS = [60, 60, 40, 60, 12, 60]
SEEDS = [seed_of(f"window {row}") for row in range(6)]


@pytest.fixture
def states():
    return 3 * torch.randn(6, 200, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher(tiny_model):
    """It repeats itself in the middle, and means it."""
    decoder = tiny_model.model.decoder
    suggested = torch.randint(0, 256, (448,), generator=torch.Generator().manual_seed(5))
    suggested[14:44] = 65
    suggested[60:] = tiny_model.config.eos_token_id
    with torch.no_grad():
        decoder.embed_positions.weight.copy_(9 * decoder.embed_tokens.weight[suggested])
    return tiny_model.requires_grad_(False)


def said(**values) -> Hypothesis:
    return Hypothesis(**({"tokens": [1], "avg_logprob": -0.3, "no_speech_prob": 0.1,
                          "truncated": False, "looped": False} | values))


@pytest.mark.parametrize(("values", "text", "good"), [
    ({}, "a fine sentence of words", True),
    ({"avg_logprob": -1.01}, "mumble", False),
    ({"avg_logprob": -1.0}, "mumble", True),
    ({}, "no " * 60, False),
    ({"looped": True}, "short", False),
    ({"avg_logprob": -1.2, "no_speech_prob": 0.7}, "you", True),  # silence: not tried again
    ({"no_speech_prob": 0.7}, "no " * 60, False),
])
def test_what_is_good_enough(values, text, good):
    assert Fallback().is_good(said(**values), text) is good
    free = Fallback(max_compression_ratio=None, min_avg_logprob=None)
    assert free.is_good(said(**values), text) is not values.get("looped", False)


def test_bad_temperatures_are_refused():
    for temperatures in ((), (0.0, -0.2)):
        with pytest.raises(ValueError, match="temperatures must be one or more numbers >= 0, got"):
            Fallback(temperatures)


def run(teacher, processor, states, fallback, rows=slice(None), **options):
    decoder = WhisperDecoder(teacher, processor.tokenizer, "en", on_loop="keep", **options)
    return decode_with_fallback(decoder, processor.tokenizer, fallback, states[rows],
                                LIMITS[rows], SEEDS[rows])


def test_only_bad_rows_are_sampled(teacher, tiny_processor, states):
    greedy = run(teacher, tiny_processor, states, Fallback((0.0,)))
    values = sorted(h.avg_logprob for h in greedy)
    fallback = Fallback((0.0, 0.8, 1.6), None, (values[2] + values[3]) / 2, None)
    found = run(teacher, tiny_processor, states, fallback)
    tried = [h.temperature > 0 for h in found]
    assert tried == [h.avg_logprob < fallback.min_avg_logprob for h in greedy]
    for one, two, again in zip(greedy, found, tried, strict=True):
        assert (one.tokens == two.tokens) is not again
        assert two.temperature in ((0.8, 1.6) if again else (0.0,))
        if two.temperature == 0.8:
            assert two.avg_logprob >= fallback.min_avg_logprob


def test_loops_end_with_sampling(teacher, tiny_processor, states):
    fallback = Fallback((0.0, 3.0), 1.5, None, None)
    found = run(teacher, tiny_processor, states, fallback)
    assert any(h.temperature == 3.0 for h in found)
    greedy = run(teacher, tiny_processor, states, Fallback((0.0,)))
    most = [[max(Counter(h.tokens).values()) for h in each] for each in (greedy, found)]
    assert max(most[0]) > 20 and max(most[1]) < 10


@pytest.mark.slow
def test_drafts_and_batches_change_nothing(teacher, tiny_processor, states):
    greedy = sorted(h.avg_logprob for h in run(teacher, tiny_processor, states, Fallback((0.0,))))
    fallback = Fallback((0.0, 0.7, 1.4), None, greedy[3] - 1e-4, None)
    student = make_student(teacher, [0, 3], [0, 1]).eval()
    wanted = run(teacher, tiny_processor, states, fallback, int8=True)
    assert len({h.temperature for h in wanted}) > 1
    drafted = run(teacher, tiny_processor, states, fallback, int8=True, student=student,
                  draft_length=3)
    alone = [run(teacher, tiny_processor, states, fallback, slice(row, row + 1), int8=True)[0]
             for row in range(6)]
    for other in (drafted, alone):
        assert [(h.tokens, h.temperature) for h in other] == [
            (h.tokens, h.temperature) for h in wanted]
