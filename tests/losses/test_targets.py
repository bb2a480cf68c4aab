"""What is written down of a teacher: exact masses, and draws that are right on average."""

import pytest
import torch

from distill.losses import token_losses as losses
from distill.losses.targets import METHODS, record_scores
from distill.losses.token_losses import TeacherScores, ce_and_full_kl, ce_and_top_k_kl

TOKENS, WIDTH, VOCAB = 13, 6, 29
DRAWN = METHODS[1:]
TEMPERATURES = [1.0, 2.0]


def teacher(tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and output layer."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(tokens, WIDTH, generator=generator),
            torch.randn(VOCAB, WIDTH, generator=generator))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def record(hidden, weight, method, k, temperatures=TEMPERATURES, seed=0) -> dict:
    return record_scores(hidden, weight, method, k, temperatures, seed)


def weights_of(found: dict, temperature: float, vocab: int = VOCAB) -> torch.Tensor:
    """(tokens, vocab): the distribution a record stands for, its rest left out."""
    p = (found["values"].double() / temperature).softmax(-1)
    return torch.zeros(len(p), vocab, dtype=p.dtype).scatter(-1, found["indices"], p)


@pytest.mark.parametrize("temperatures", [[1.0], [1.0, 2.0], [1.0, 1.5]])
@pytest.mark.parametrize("k", [1, 5, VOCAB - 1])
def test_top_k_and_its_exact_masses(k, temperatures):
    hidden, weight = teacher()
    found = record(hidden, weight, "top_k", k, temperatures)
    logits = hidden.double() @ weight.double().T
    values, indices = logits.topk(k)
    assert torch.equal(found["indices"], indices) and found["indices"].dtype == torch.int64
    assert (found["values"][:, 0] == 0).all()
    torch.testing.assert_close(found["values"].double(), values - values[:, :1], rtol=1e-5,
                               atol=1e-5)
    assert found["log_rest"].shape == (TOKENS, len(temperatures))
    for column, temperature in enumerate(temperatures):
        rest = 1 - (logits / temperature).softmax(-1).gather(-1, indices).sum(-1)
        torch.testing.assert_close(found["log_rest"][:, column].double(), rest.log(), rtol=1e-4,
                                   atol=1e-5)


def test_a_tail_far_below_float32_rounding_is_kept():
    """1 - sum(p) is 0 here, or noise."""
    weight = torch.eye(VOCAB)
    hidden = torch.full((1, VOCAB), -30.0)
    hidden[0, :3] = torch.tensor([2.0, 1.0, 0.5])
    found = record(hidden, weight, "top_k", 3, [1.0])
    expected = hidden.double().log_softmax(-1)[:, 3:].logsumexp(-1)
    assert expected.exp() < 1e-11
    torch.testing.assert_close(found["log_rest"][:, 0].double(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("chunk", [1, 4])
def test_top_k_does_not_depend_on_the_chunk(monkeypatch, chunk):
    whole = record(*teacher(), "top_k", 5)
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", chunk)
    parts = record(*teacher(), "top_k", 5)
    assert torch.equal(parts["indices"], whole["indices"])
    for name in ("values", "log_rest"):
        torch.testing.assert_close(parts[name], whole[name])


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_of_all_tokens_and_all_ids(monkeypatch, largest_tensor, method):
    monkeypatch.setattr(losses, "CPU_CHUNK_TOKENS", 4)
    with largest_tensor as largest:
        record(*teacher(50), method, 2)
    assert 4 * VOCAB <= largest.numel <= max(4 * VOCAB, VOCAB * WIDTH, 50 * WIDTH)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 2, 7, VOCAB, 99])
def test_ids_of_a_token_are_different(method, k):
    """The loss takes what is not among them as the rest: twice would count twice."""
    found = record(*teacher(), method, k)
    size = min(k, VOCAB)
    assert found["indices"].shape == found["values"].shape == (TOKENS, size)
    assert (found["indices"].sort(-1).values.diff() > 0).all()
    assert found["indices"].min() >= 0 and found["indices"].max() < VOCAB
    assert (found["values"][:, 0] == 0).all() and (found["values"] <= 0).all()
    assert not found["values"].isnan().any() and not found["log_rest"].isnan().any()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [VOCAB, 10 * VOCAB])
@pytest.mark.parametrize("method", METHODS)
def test_a_vocabulary_kept_whole_is_exact(method, k, temperature):
    """No draw where nothing is left out; the tiny Whisper of the tests has fewer ids than a large
    k."""
    hidden, weight = teacher()
    found = record(hidden, weight, method, k)
    assert (found["log_rest"] == -torch.inf).all()
    p = (hidden.double() @ weight.double().T / temperature).softmax(-1)
    torch.testing.assert_close(weights_of(found, temperature), p, rtol=1e-5, atol=1e-7)


DRAWS, K = 4000, 8


def many(method: str, seed: int = 0) -> tuple[torch.Tensor, dict]:
    """The distribution of one token at the loss's temperature, and records of it."""
    hidden, weight = teacher(1)
    found = record(hidden.expand(DRAWS, -1), weight, method, K, seed=seed)
    return (hidden.double() @ weight.double().T / 2.0).softmax(-1)[0], found


BIAS = {"sampled": 0.0, "head_and_sampled": 0.08}  # of a probability: sharing out the mass of the
# rest moves what is near the head's end by about 1 / (2 K)


def deviation(p: torch.Tensor) -> torch.Tensor:
    """(vocab,) of one record's weights when all K ids are drawn: the multinomial distribution."""
    return (p * (1 - p) / K).sqrt()


@pytest.mark.parametrize("method", DRAWN)
def test_draws_are_right_on_average(method):
    """At the last temperature, which is that of the loss; at the other one they would not be."""
    p, found = many(method)
    mean, noise = weights_of(found, 2.0).mean(0), deviation(p) / DRAWS**0.5
    assert ((mean - p).abs() <= 5 * noise + BIAS[method] * p + 1e-6).all()
    wrong = (2 * p.log()).softmax(-1)  # the teacher at T = 1
    assert ((mean - wrong).abs() > 20 * noise + BIAS[method] * wrong + 1e-6).any()


def test_how_noisy_draws_are():
    """Draws as the multinomial distribution says; an exact head takes most of that away."""
    p, found = many("sampled")
    torch.testing.assert_close(weights_of(found, 2.0).std(0), deviation(p), rtol=0.1, atol=1e-3)
    p, found = many("head_and_sampled")
    assert weights_of(found, 2.0).var(0).sum() < 0.3 * deviation(p).square().sum()


def test_the_head_is_exact_and_the_rest_shares_its_mass():
    p, found = many("head_and_sampled")
    weights = weights_of(found, 2.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(DRAWS, dtype=p.dtype))
    assert (weights > 0).sum(-1).eq(K).all()
    exact = (weights - p).abs() < 1e-6
    assert (exact[:, p.topk(2).indices].double().mean(0) > 0.9).all()  # 26 % and 17 %, of 8 ids
    shares = torch.where(exact, torch.nan, weights)
    drawn = (weights > 0) & ~exact
    assert drawn.any()
    for row, which in zip(shares[:50], drawn[:50], strict=True):
        torch.testing.assert_close(row[which], row[which][:1].expand(int(which.sum())))


@pytest.mark.parametrize("method", DRAWN)
def test_the_gradient_is_right_on_average(method):
    """Records meet the loss: one id's value, one bucket or one temperature off, and it is not."""
    p, found = many(method)
    student = torch.randn(1, VOCAB, generator=seeded(3), dtype=torch.float64)
    scores = TeacherScores(indices=found["indices"], values=found["values"],
                           log_rest=found["log_rest"][:, -1])
    weights = {"ce_weight": 0.0, "kl_weight": 1.0, "temperature": 2.0}
    labels = torch.zeros(DRAWS, dtype=torch.long)
    drawn = ce_and_top_k_kl(student.repeat(DRAWS, 1), labels, scores, **weights)[2].mean(0)
    logits = (2.0 * p.log())[None]
    full = ce_and_full_kl(student.clone(), labels[:1], logits, **weights)[2][0]
    noise = 2.0 * deviation(p) / DRAWS**0.5
    assert ((drawn - full).abs() <= 5 * noise + 2 * BIAS[method] * p + 1e-6).all()
    assert (full.abs() > 20 * noise + 2 * BIAS[method] * p).any()


@pytest.mark.parametrize("method", DRAWN)
def test_rounding_hardly_changes_a_draw(method):
    """Another device, or another batch: the ids are those of the seed, verifying finds them."""
    hidden, weight = teacher(200)
    one = record(hidden, weight, method, K)
    other = record(hidden * (1 + 1e-4), weight, method, K)
    sets = [weights_of(each, 2.0) > 0 for each in (one, other)]
    assert (sets[0] & sets[1]).sum() > 0.98 * sets[0].sum()


@pytest.mark.parametrize("method", DRAWN)
def test_draws_follow_from_the_seed(method):
    one, again, other = (many(method, seed)[1] for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["indices"], other["indices"])
    assert (one["log_rest"] == -torch.inf).all() and one["log_rest"].shape == (DRAWS, 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_teacher_that_is_certain(method):
    """No tail to draw from: half of the ids have no weight, and nothing breaks."""
    hidden, weight = torch.zeros(2, VOCAB), torch.eye(VOCAB)
    hidden[:, 4] = 1000.0
    found = record(hidden, weight, method, K)
    assert (found["indices"][:, 0] == 4).all() and not found["values"].isnan().any()
    p = torch.zeros(2, VOCAB, dtype=torch.float64)
    p[:, 4] = 1.0
    torch.testing.assert_close(weights_of(found, 2.0), p)
    scores = TeacherScores(indices=found["indices"], values=found["values"].half(),
                           log_rest=found["log_rest"][:, -1])
    parts = ce_and_top_k_kl(torch.zeros(2, VOCAB), torch.tensor([4, 5]), scores, ce_weight=1.0,
                            kl_weight=1.0, temperature=2.0)
    assert all(part.isfinite().all() for part in parts)
    torch.testing.assert_close(parts[1], torch.full((2,), float(VOCAB)).log())
