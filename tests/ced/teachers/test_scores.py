"""What is kept of the teachers' scores, and what comes back."""

import numpy as np
import pytest

from distill.ced.teachers.scores import confidence, decode_scores, encode_scores, mean_of_top


def probabilities(views=50, classes=527, seed=0):
    """Like a tagger's: a few likely classes, many near 0."""
    logits = np.random.default_rng(seed).normal(-6, 2.5, (views, classes))
    return 1 / (1 + np.exp(-logits))


def encode(p, k=20, values="uint8", spread=None):
    return encode_scores(p, np.zeros_like(p) if spread is None else spread, k, values)


@pytest.mark.parametrize(("values", "error"), [("uint8", 0.009), ("float16", 0.0003)])
def test_what_is_kept_comes_back(values, error):
    p = probabilities()
    found = decode_scores(encode(p, 527, values), 527, "zero")
    assert np.abs(found - p).max() < error
    assert found.dtype == np.float32


def test_rounding_costs_a_student_little():
    """Excess cross-entropy of a target that is off: its KL from the true one."""
    p = np.clip(probabilities(), 2e-4, 1 - 2e-4)
    q = decode_scores(encode(p, 527), 527, "zero").astype(np.float64)
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert kl.max() < 2e-4


def test_the_top_k_is_kept_and_the_rest_is_filled():
    p = probabilities()
    columns = encode(p, 20, "float16")
    top = np.sort(p, axis=1)[:, ::-1][:, :20]
    assert np.allclose(columns["values"], top, rtol=1e-3, atol=1e-7)
    zero, filled = (decode_scores(columns, 527, fill) for fill in ("zero", "tail_mean"))
    assert (zero > 0).sum(1).max() == 20
    rest = np.sort(p, axis=1)[:, :-20].mean(1)
    outside = zero == 0
    for row, mean, where in zip(filled, rest, outside, strict=True):
        assert np.allclose(row[where], mean, rtol=1e-3)
    assert np.allclose(filled.sum(1), p.sum(1), rtol=5e-3)  # no mass is lost


def test_columns_are_small():
    def size(columns):
        return sum(values[0].nbytes for values in columns.values())

    assert size(encode(probabilities())) == 20 * (2 + 1) + 3
    assert size(encode(probabilities(classes=200))) == 20 * (1 + 1) + 3
    assert size(encode(probabilities(classes=200), values="float16")) == 20 * (1 + 2) + 3


@pytest.mark.parametrize("classes", [1, 7, 20])
def test_fewer_classes_than_k(classes):
    """CED raises for top-20 of fewer than 20 classes."""
    p = probabilities(classes=classes)
    columns = encode(p, 20, "float16")
    assert columns["indices"].shape == (50, classes)
    assert not columns["tail_mean"].any()
    assert np.allclose(decode_scores(columns, classes, "tail_mean"), p, atol=3e-4)


def test_logits_are_no_probabilities():
    """CED stores the logits of a teacher with another pooling under the same name."""
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got -12.*activation: sigm"):
        encode(np.array([[-12.0, 0.3], [0.2, 0.1]]))
    with pytest.raises(ValueError, match="not finite"):
        encode(np.array([[0.5, np.nan]]))


def test_certain_scores_stay_certain():
    p = np.array([[0.0, 1.0, 0.5]])
    found = decode_scores(encode(p), 3, "zero")[0]
    assert found[:2].tolist() == [0, 1] and abs(found[2] - 0.5) < 0.01


def test_disagreement_becomes_confidence():
    p = probabilities(views=3)
    spread = np.zeros_like(p)
    spread[1] = 0.25
    np.put_along_axis(spread[2:], p[2:].argsort(1)[:, :507], 0.5, 1)  # where nothing is kept
    assert np.allclose(confidence(encode(p, spread=spread)), [1, 0.5, 1], atol=0.003)
    assert np.allclose(mean_of_top(spread, p, 20), [0, 0.25, 0])


def test_equal_scores_are_kept_in_the_order_of_classes():
    assert encode(np.full((1, 300), 0.5), 4)["indices"].tolist() == [[0, 1, 2, 3]]
