"""Sampled texts are the teacher's: the same draws with drafts and without, or the same chances."""

import math
from collections import Counter
from statistics import NormalDist

import pytest
import torch

from distill.whisper.decoding.sampling import Sampling
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.student import make_student

TOKENS = [65, 66, 67, 68, 69]  # all that may be said, besides the end
ROWS = 300


@pytest.fixture
def teacher(tiny_model):
    """What it says depends on what was said before."""
    with torch.no_grad():
        for name, value in tiny_model.model.decoder.named_parameters():
            if "attn" in name and value.ndim > 1:
                value *= 8
        tiny_model.model.decoder.layer_norm.weight *= 12
    config, known = tiny_model.generation_config, {*TOKENS, tiny_model.config.eos_token_id}
    config.suppress_tokens = [i for i in range(tiny_model.config.vocab_size) if i not in known]
    config.begin_suppress_tokens = [tiny_model.config.eos_token_id]
    return tiny_model.requires_grad_(False)


@pytest.fixture
def student(teacher):
    return make_student(teacher, [0, 3], [0, 1]).eval()


@pytest.fixture
def states():
    return 3 * torch.randn(6, 200, 32, generator=torch.Generator().manual_seed(1))


def chances_of_texts(teacher, tokenizer, states, temperature, length) -> dict[tuple, float]:
    """Of every text of so many tokens, by transformers' decoder."""
    prefix = WhisperDecoder(teacher, tokenizer, "en").special.prefix("en", "transcribe", False)
    end = teacher.config.eos_token_id
    found, texts = {}, {(): 1.0}
    for place in range(length):
        longer: dict[tuple, float] = {}
        ids = torch.tensor([[*prefix, *text] for text in texts])
        heard = states[:1].expand(len(texts), -1, -1)
        scores = teacher(decoder_input_ids=ids, encoder_outputs=(heard,)).logits[:, -1]
        allowed = [*TOKENS, end] if place else TOKENS
        rows = (scores[:, allowed] / temperature).softmax(-1).tolist()
        for (text, chance), row in zip(texts.items(), rows, strict=True):
            longer |= {(*text, token): chance * p for token, p in zip(allowed, row, strict=True)}
        found |= {text: p for text, p in longer.items() if text[-1] == end}
        texts = {text: p for text, p in longer.items() if text[-1] != end}
    return found | texts


def chi_square(counts: Counter, chances: dict) -> tuple[float, int]:
    """The statistic and its degrees of freedom; rare texts are taken together."""
    total = sum(counts.values())
    common = [text for text, p in chances.items() if p * total >= 5]
    rare = 1 - sum(chances[text] for text in common)
    cells = [(counts[text], chances[text] * total) for text in common]
    if rare * total > 1:
        cells.append((total - sum(counts[text] for text in common), rare * total))
    return sum((seen - wanted) ** 2 / wanted for seen, wanted in cells), len(cells) - 1


def critical(freedom: int, level: float = 1e-4) -> float:
    """Of chi-square (Wilson and Hilferty 1931)."""
    z = NormalDist().inv_cdf(1 - level)
    part = 2 / (9 * freedom)
    return freedom * (1 - part + z * math.sqrt(part)) ** 3


def sampled(decoder, states, sampling_rule, temperature, drafts=None) -> Counter:
    """900 texts of up to three tokens of the first window."""
    end, counts = decoder.special.end, Counter()
    many = states[:1].expand(ROWS, -1, -1)
    for batch in range(3):
        seeds = range(batch * ROWS, (batch + 1) * ROWS)
        found = decoder(many, [3] * ROWS, drafts=drafts and [drafts] * ROWS,
                        sampling=Sampling(temperature, seeds, sampling_rule))
        counts.update(tuple(h.tokens) + (end,) * (not h.truncated) for h in found)
    return counts


@pytest.mark.parametrize(("rule", "drafts", "temperature"), [
    ("rejection", "student", 1.0),
    pytest.param("coupled", "student", 0.7, marks=pytest.mark.slow),
    pytest.param("rejection", "text", 1.0, marks=pytest.mark.slow),
    pytest.param("rejection", None, 0.7, marks=pytest.mark.slow),
    pytest.param("coupled", None, 1.0, marks=pytest.mark.slow)])
def test_the_distribution_is_the_teachers(teacher, student, states, tiny_processor, rule, drafts,
                                          temperature):
    tokenizer = tiny_processor.tokenizer
    chances = chances_of_texts(teacher, tokenizer, states, temperature, 3)
    assert sum(chances.values()) == pytest.approx(1) and len(chances) > 100
    decoder = WhisperDecoder(teacher, tokenizer, "en", on_loop="keep", draft_length=2,
                            student=student if drafts == "student" else None)
    old = [66, 65, 68] if drafts == "text" else None
    counts = sampled(decoder, states, rule, temperature, old)
    statistic, freedom = chi_square(counts, chances)
    assert freedom > 15 and statistic < critical(freedom)
    report = decoder.report
    assert not drafts or 0.02 < report.accepted / report.tested < 0.98
    # the test must be able to fail: another temperature is another distribution
    other = chances_of_texts(teacher, tokenizer, states, 1.3 * temperature, 3)
    statistic, freedom = chi_square(counts, other)
    assert statistic > critical(freedom)


def test_rejection_keeps_what_both_have_in_common(teacher, student, states, tiny_processor):
    """The first drafted token: accepted with chance sum(min(p, q)), arXiv:2211.17192 cor. 3.6."""
    tokenizer = tiny_processor.tokenizer
    first = [chances_of_texts(model, tokenizer, states, 1.0, 1) for model in (teacher, student)]
    assert first[0].keys() == first[1].keys()
    sampling = Sampling(1.0, range(4000), "rejection")
    p, q = (torch.zeros(teacher.config.vocab_size, dtype=torch.float64) for _ in range(2))
    for (token,) in first[0]:
        p[token], q[token] = first[0][token,], first[1][token,]
    kept = 0
    for row in range(4000):
        wanted = sampling.draw(q, "draft", row, 0)
        kept += sampling.decide(p, q, wanted, row, 0) == wanted
    common = float(torch.minimum(p, q).sum())
    assert 0.05 < common < 0.97
    assert abs(kept / 4000 - common) < 4 * math.sqrt(common * (1 - common) / 4000)


@pytest.mark.parametrize(("timestamps", "int8"), [
    (False, True), (True, False), pytest.param(False, False, marks=pytest.mark.slow),
    pytest.param(True, True, marks=pytest.mark.slow)])
def test_a_seed_says_the_same_with_drafts(tiny_model, states, tiny_processor, int8, timestamps):
    """Coupled: any draft length, any batch, and both kinds of drafts."""
    teacher = tiny_model.requires_grad_(False)
    student = make_student(teacher, [0, 3], [0, 1]).eval()
    options = dict(int8=int8, timestamps=timestamps, on_loop="keep")

    def decode(rows=slice(None), drafts=None, **more):
        decoder = WhisperDecoder(teacher, tiny_processor.tokenizer, "en", **options, **more)
        sampling = Sampling(0.6, [5, 6, 5, 8, 9, 10][rows])
        return [h.tokens for h in decoder(states[rows], [30, 12, 30, 1, 30, 30][rows],
                                          drafts=drafts, sampling=sampling)]

    wanted = decode()
    assert len({tuple(text) for text in wanted}) == 6
    assert wanted != [h.tokens for h in WhisperDecoder(
        teacher, tiny_processor.tokenizer, "en", **options)(states, [30, 12, 30, 1, 30, 30])]
    assert decode(student=student, draft_length=3) == wanted
    assert decode(student=student, draft_length=7) == wanted
    assert decode(drafts=[text[:9] + [3] + text[9:] for text in wanted]) == wanted
    assert decode(slice(4, 5)) == wanted[4:5]
    assert decode() == wanted


def test_log_probs_are_of_temperature_one(teacher, states, tiny_processor):
    """As OpenAI's, and unlike transformers': what was sampled hot is not likelier for it."""
    tokenizer = tiny_processor.tokenizer
    chances = chances_of_texts(teacher, tokenizer, states, 1.0, 2)
    for rule in ("coupled", "rejection"):
        decoder = WhisperDecoder(teacher, tokenizer, "en", on_loop="keep")
        for hypothesis in decoder(states[:1].expand(8, -1, -1), [2] * 8,
                                  sampling=Sampling(1.7, range(8), rule)):
            text = (*hypothesis.tokens, *[decoder.special.end] * (not hypothesis.truncated))
            assert hypothesis.avg_logprob == pytest.approx(math.log(chances[text]) / 2, abs=1e-4)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="temperature must be > 0 to sample, got 0"):
        Sampling(0.0, [1])
    with pytest.raises(ValueError, match="must be one of .* got 'greedy'"):
        Sampling(1.0, [1], "greedy")
