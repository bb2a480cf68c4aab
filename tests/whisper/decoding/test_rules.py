"""What may be said next is what transformers' logits processors allow."""

import random
from types import SimpleNamespace

import pytest
import torch
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from distill.whisper.decoding.rules import LogitsRules

END, NO_TIMESTAMPS, BEGIN, SIZE = 20, 29, 30, 60
SUPPRESSED, SUPPRESSED_FIRST = [3, 7, 25], [5, END]
PREFIX = [21, 22, 23]
SPECIAL = SimpleNamespace(end=END, no_timestamps=NO_TIMESTAMPS, timestamp_begin=BEGIN)


def config(**options):
    return SimpleNamespace(**{
        "suppress_tokens": SUPPRESSED, "begin_suppress_tokens": SUPPRESSED_FIRST,
        "max_initial_timestamp_index": 8, "no_timestamps_token_id": NO_TIMESTAMPS,
        "eos_token_id": END, "bos_token_id": END, **options})


def theirs(settings, timestamps: bool, scores, said) -> torch.Tensor:
    """In the order in which `generate` applies them."""
    begin = len(PREFIX)
    processors = [SuppressTokensAtBeginLogitsProcessor(settings.begin_suppress_tokens, begin),
                  SuppressTokensLogitsProcessor(settings.suppress_tokens)]
    if timestamps:
        processors.append(WhisperTimeStampLogitsProcessor(settings, begin_index=begin))
    ids = torch.tensor([PREFIX + said])
    scores = scores[None]
    for processor in processors:
        scores = processor(ids, scores)
    return scores[0]


def histories(count: int) -> list[list[int]]:
    """Empty ones, text alone, single timestamps, pairs, and times that go back."""
    draw = random.Random(4)
    known = [[], [30], [35], [30, 1], [30, 1, 36], [30, 1, 36, 36], [30, 1, 2, 36, 36, 4],
             [1], [1, 2], [1, 40], [59], [30, 59, 59], [35, 36], [1, 35, 31], [END - 1, 33]]
    made = [[draw.choice([draw.randrange(20), draw.randrange(BEGIN, SIZE)])
             for _ in range(draw.randrange(9))] for _ in range(count)]
    return known + made


@pytest.mark.parametrize("settings", [config(), config(max_initial_timestamp_index=None)])
@pytest.mark.parametrize("scale", [0.3, 4.0])  # timestamps win nearly always, or now and then
def test_timestamps_equal_transformers(settings, scale):
    said = histories(200)
    scores = scale * torch.randn(len(said), SIZE, generator=torch.Generator().manual_seed(2))
    wanted = torch.stack([theirs(settings, True, *pair) for pair in zip(scores, said, strict=True)])
    rules = LogitsRules(settings, SPECIAL, True, SIZE, "cpu")
    found = rules(scores.clone(), said)
    assert torch.equal(found, wanted)
    text = wanted[:, :BEGIN].amax(-1) > -torch.inf
    assert 0.05 < text.float().mean() < 0.95, "both kinds of places are met"
    alone = torch.cat([rules(s[None].clone(), [h]) for s, h in zip(scores, said, strict=True)])
    assert torch.equal(found, alone)


def test_without_timestamps():
    said = [h for h in histories(40) if all(token < BEGIN for token in h)]
    scores = torch.randn(len(said), SIZE, generator=torch.Generator().manual_seed(2))
    wanted = torch.stack([theirs(config(), False, *p) for p in zip(scores, said, strict=True)])
    wanted[:, BEGIN:] = -torch.inf  # transformers leaves it to the model not to say them
    rules = LogitsRules(config(), SPECIAL, False, SIZE, "cpu")
    assert torch.equal(rules(scores.clone(), said), wanted)


def test_positions_of_one_sequence_see_what_comes_before_them():
    text = [30, 1, 36, 36, 2, 40, 40, 7]
    scores = torch.randn(len(text) + 1, SIZE, generator=torch.Generator().manual_seed(2))
    rules, lengths = LogitsRules(config(), SPECIAL, True, SIZE, "cpu"), range(len(text) + 1)
    wanted = rules(scores.clone(), [text[:length] for length in lengths])
    assert torch.equal(rules(scores.clone(), [text] * len(scores), lengths), wanted)
    assert not torch.equal(rules(scores.clone(), [text] * len(scores)), wanted)


def test_rules_work_in_place_and_for_places_that_are_all_in_the_middle():
    scores = torch.zeros(2, SIZE)
    rules = LogitsRules(config(), SPECIAL, False, SIZE, "cpu")
    assert rules(scores, [[1], [2, 4]]) is scores
    assert (scores[:, SUPPRESSED] == -torch.inf).all() and (scores[:, SUPPRESSED_FIRST] == 0).all()
    assert scores[0, NO_TIMESTAMPS] == 0 and torch.equal(scores[0], scores[1])


def test_no_lists_of_suppressed_tokens():
    empty = config(suppress_tokens=None, begin_suppress_tokens=None)
    found = LogitsRules(empty, SPECIAL, False, SIZE, "cpu")(torch.zeros(1, SIZE), [[]])
    assert (found[0, :BEGIN] == 0).all() and (found[0, BEGIN:] == -torch.inf).all()
