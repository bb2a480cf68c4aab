import json
import math

import numpy as np
import pytest

from distill.metrics.error_rates import ErrorCounts, bootstrap_interval
from distill.metrics.ranking import PerClass, Ranking
from distill.metrics.tagging import (
    average_precision,
    bootstrap_interval_of,
    bootstrap_tags,
    brier_score,
    clip_draws,
    d_prime,
    d_prime_of_mean_auc,
    evaluate_tags,
    expected_calibration_error,
    interval_of,
    lwlrap,
    macro,
    mean_average_precision,
    mean_d_prime,
    paired_bootstrap_of_map,
    per_class_of,
    reliability_bins,
    roc_auc,
    sigmoid,
)

pytestmark = pytest.mark.filterwarnings("error")  # a NaN is meant, never divided by accident


def _tags(seed: int, num_clips: int = 40, num_classes: int = 6, levels: int = 0):
    """Random scores and targets; `levels` > 0 makes ties. The last class has no positives."""
    generator = np.random.default_rng(seed)
    targets = generator.random((num_clips, num_classes)) < 0.15
    targets[:, -1] = False
    scores = sigmoid(generator.normal(size=targets.shape) + 1.5 * targets - 1)
    return (np.round(scores * levels) / levels if levels else scores), targets


def _column(scores: list, targets: list):
    return np.array(scores, dtype=float)[:, None], np.array(targets)[:, None]


# What the metrics mean, by the book: slow loops over thresholds and pairs.


def _slow_average_precision(scores, targets) -> float:
    total, area, recall = sum(targets), 0.0, 0.0
    if not total:
        return math.nan
    for threshold in sorted(set(scores), reverse=True):
        said = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        area += (sum(said) / total - recall) * sum(said) / len(said)
        recall = sum(said) / total
    return area


def _slow_auc(scores, targets) -> float:
    positives = [s for s, t in zip(scores, targets, strict=True) if t]
    negatives = [s for s, t in zip(scores, targets, strict=True) if not t]
    won = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    return sum(won) / len(won) if won else math.nan


def _slow_lwlrap(scores, targets) -> float:
    found = []
    for said, true in zip(scores, targets, strict=True):
        for label in np.flatnonzero(true):
            at_least = said >= said[label]
            found.append((true & at_least).sum() / at_least.sum())
    return float(np.mean(found))


@pytest.mark.parametrize("levels", [0, 12, 3])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_as_by_the_book_with_and_without_ties(seed, levels):
    scores, targets = _tags(seed, levels=levels)
    slow = [[f(s, t) for s, t in zip(scores.T.tolist(), targets.T.tolist(), strict=True)]
            for f in (_slow_average_precision, _slow_auc)]
    np.testing.assert_allclose(average_precision(scores, targets), slow[0], rtol=1e-12)
    np.testing.assert_allclose(roc_auc(scores, targets), slow[1], rtol=1e-12)
    assert lwlrap(scores, targets) == pytest.approx(_slow_lwlrap(scores, targets), rel=1e-12)


@pytest.mark.parametrize("levels", [0, 12, 3])
def test_the_same_numbers_as_scikit_learn(levels):
    theirs = pytest.importorskip("sklearn.metrics")
    scores, targets = _tags(7, num_clips=200, levels=levels)
    assert not targets.any(1).all()  # clips without a label are among them
    some = slice(0, -1)
    args = (targets[:, some], scores[:, some])
    np.testing.assert_allclose(average_precision(scores, targets)[some],
                               theirs.average_precision_score(*args, average=None), rtol=1e-12)
    np.testing.assert_allclose(roc_auc(scores, targets)[some],
                               theirs.roc_auc_score(*args, average=None), rtol=1e-12)
    kept = targets.any(1)
    ranked = theirs.label_ranking_average_precision_score(
        targets[kept], scores[kept], sample_weight=targets[kept].sum(1))
    assert lwlrap(scores, targets) == pytest.approx(ranked, rel=1e-12)


def test_the_examples_of_scikit_learns_manual():
    assert average_precision(*_column([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])) == pytest.approx(5 / 6)
    assert roc_auc(*_column([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])) == pytest.approx(0.75)
    ranked = lwlrap(np.array([[0.75, 0.5, 1], [1, 0.2, 0.1]]), np.array([[1, 0, 0], [0, 0, 1]]))
    assert ranked == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert brier_score(*_column([0.1, 0.9, 0.8, 0.3], [0, 1, 1, 0])) == pytest.approx(0.0375)


def test_a_class_without_positives_is_left_out_of_the_mean_and_counted():
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    targets = np.array([[1, 0], [0, 0], [0, 0]])
    assert mean_average_precision(scores, targets) == (1.0, 1)  # as a 0 it would make 0.5
    assert np.isnan(roc_auc(scores, np.array([[1, 1], [0, 1], [0, 1]]))[1])  # no negatives
    value, num_classes = mean_average_precision(scores, np.zeros((3, 2)))
    assert math.isnan(value) and num_classes == 0
    assert math.isnan(lwlrap(scores, np.zeros((3, 2))))


def test_equal_scores_say_nothing_whatever_the_order_of_the_clips():
    for targets in ([1, 0, 0, 0], [0, 0, 0, 1]):
        scores, labels = _column([0.5] * 4, targets)
        assert average_precision(scores, labels) == 0.25  # the share of positives: chance
        assert roc_auc(scores, labels) == 0.5


def test_lwlrap_weighs_labels_and_counts_ties_against_the_tagger():
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]])
    two_and_one = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert lwlrap(scores, two_and_one) == pytest.approx((1 + 1 + 1 / 4) / 3)  # not of clips: 5/8
    for label in range(4):
        targets = np.zeros((3, 4))
        targets[2, label] = 1
        assert lwlrap(scores, targets) == 0.25


def test_half_precision_is_refused_because_its_ties_change_the_value():
    scores, targets = _column([0.9001, 0.9, 0.1], [1, 0, 0])
    rounded = scores.astype(np.float16)
    assert average_precision(scores, targets) == 1
    assert average_precision(rounded.astype(np.float64), targets) == 0.5
    with pytest.raises(ValueError, match="float32 or float64, got float16: its ties"):
        average_precision(rounded, targets)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros(3), np.zeros(3), r"\(clips, classes\)"),
        (np.zeros((3, 2)), np.zeros((2, 3)), r"got \(3, 2\) and \(2, 3\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "not empty"),
        (np.array([[0.1, np.nan]]), np.zeros((1, 2)), r"1 NaN, the first at .* \(0, 1\)"),
        (np.zeros((1, 2)), np.array([[0.3, 1]]), "targets must be 0 or 1"),
    ],
)
def test_what_cannot_be_ranked(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(scores, targets)


def _with_auc(auc: list[float], positives: int = 50, negatives: int = 5000) -> PerClass:
    counts = [np.full(len(auc), number) for number in (positives, negatives)]
    return PerClass(*counts, np.full(len(auc), np.nan), np.array(auc))


def test_d_primes_as_in_the_logs_of_whisper_at():
    # its logs end at an AUC of .960 to .970 and a d' of 2.47 to 2.66
    low, high = (d_prime_of_mean_auc(_with_auc([auc])) for auc in (0.960, 0.970))
    assert math.floor(100 * low) / 100 == 2.47 and round(high, 2) == 2.66
    assert d_prime(_with_auc([0.5, 0.9, 0.1])) == pytest.approx([0, 1.812388, -1.812388])


def test_two_conventions_of_d_prime():
    per_class = _with_auc([0.7, 0.99, np.nan])
    single = d_prime(per_class)
    assert mean_d_prime(per_class) == pytest.approx((single[0] + single[1]) / 2)
    assert d_prime_of_mean_auc(per_class) == pytest.approx(d_prime(_with_auc([0.845]))[0])
    assert d_prime_of_mean_auc(per_class) < mean_d_prime(per_class)
    assert math.isnan(d_prime_of_mean_auc(_with_auc([np.nan])))


def test_d_prime_of_a_perfect_class_is_half_a_pair_from_perfect():
    perfect, worst = d_prime(_with_auc([1.0, 0.0], 2, 5))
    assert perfect == pytest.approx(-worst)
    assert perfect == d_prime(_with_auc([1 - 1 / 20], 2, 5))[0]
    assert d_prime_of_mean_auc(_with_auc([1.0], 2, 5)) == perfect
    # more clips can show more, and float64 does not round the bound to 1
    assert perfect < d_prime(_with_auc([1.0]))[0] < 20
    assert np.isfinite(d_prime(_with_auc([1.0], 10**9, 10**9))[0])
    # the best imperfect mean of AUCs is not touched
    almost = _with_auc([1.0, 1.0, 1 - 1 / 20], 2, 5)
    assert d_prime_of_mean_auc(almost) == pytest.approx(d_prime(_with_auc([1 - 1 / 60]))[0])


@pytest.mark.parametrize("levels", [0, 4])
def test_weights_are_copies_of_clips_to_the_last_bit(levels):
    scores, targets = _tags(3, num_clips=30, levels=levels)
    ranking, lost = Ranking.of(scores, targets), 0
    for rows in clip_draws(30, 60, seed=1):
        weighted = ranking.measure(np.bincount(rows, minlength=30))
        again = per_class_of(scores[rows], targets[rows])
        for one, other in zip(weighted, again, strict=True):
            np.testing.assert_array_equal(one, other)
        lost += (again.num_positives[:-1] == 0).any()
    assert lost  # some resample was without a class


def test_the_fast_bootstrap_draws_what_the_plain_one_draws():
    scores, targets = _tags(5)
    draws = bootstrap_tags(scores, targets, num=50, seed=3)
    metrics = {
        "mean_average_precision": lambda s, t: mean_average_precision(s, t)[0],
        "auc": lambda s, t: macro(roc_auc(s, t)),
        "d_prime_of_mean_auc": lambda s, t: d_prime_of_mean_auc(per_class_of(s, t)),
        "mean_d_prime": lambda s, t: mean_d_prime(per_class_of(s, t)),
        "lwlrap": lwlrap,
    }
    assert set(draws) == set(metrics)
    for name, metric in metrics.items():
        plain = bootstrap_interval_of(metric, scores, targets, num=50, seed=3)
        assert interval_of(metric(scores, targets), draws[name]) == pytest.approx(plain, rel=1e-9)
        assert plain[0] < metric(scores, targets) < plain[1]


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=(400, 1))
    low, high = bootstrap_interval_of(lambda s, t: float(s.mean()), values, values < 9, num=2000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    again = bootstrap_interval_of(lambda s, t: float(s.mean()), values, values < 9, num=2000)
    assert again == (low, high)


def test_intervals_of_rare_classes_hold_the_value_that_plain_quantiles_miss():
    def draw(seed):
        generator = np.random.default_rng(seed)
        targets = generator.random((300, 120)) < 0.01
        return generator.normal(size=targets.shape) + 2 * targets, targets

    expected = np.mean([mean_average_precision(*draw(1000 + seed))[0] for seed in range(200)])
    plain = moved = 0
    for seed in range(30):
        scores, targets = draw(seed)
        ranking = Ranking.of(scores, targets)
        draws = np.array([macro(ranking.measure(np.bincount(rows, minlength=300)).average_precision)
                          for rows in clip_draws(300, 60, seed)])
        low, high = np.quantile(draws, [0.025, 0.975])
        plain += low <= expected <= high
        low, high = interval_of(mean_average_precision(scores, targets)[0], draws)
        moved += low <= expected <= high
    assert moved >= 24 and plain <= 18


def test_no_interval_leaves_what_the_metric_can_be():
    """A tagger that is nearly perfect, or nearly always wrong, of few clips."""
    for sign in (1, -1):
        for seed in range(10):
            generator = np.random.default_rng(seed)
            targets = generator.random((14, 4)) < 0.3
            scores = sigmoid(sign * (4 * targets + generator.normal(size=targets.shape)))
            found = evaluate_tags(scores, targets, list("abcd"), num_bootstrap=60, seed=seed)
            for key in ("mean_average_precision", "auc", "lwlrap"):
                low, high = found[f"{key}_ci"]
                assert 0 <= low <= high <= 1, (key, found[f"{key}_ci"])
            plain = bootstrap_interval_of(lwlrap, scores, targets, num=60, seed=seed)
            assert 0 <= plain[0] <= plain[1] <= 1
    draws = np.array([0.97, 0.99, 1.0, 0.9])
    assert interval_of(0.99, draws)[1] == 1.0  # moved up by 0.025
    assert interval_of(0.99, draws, bounds=(-np.inf, np.inf))[1] > 1
    assert interval_of(1.02, draws + 0.03)[1] > 1.02  # of what is no fraction
    flat = [ErrorCounts(deletions=0, insertions=n, num_reference=2) for n in (0, 9, 0, 5)]
    low, high = bootstrap_interval(flat)
    assert low == 0 and high > 1  # an error rate has no upper end


def test_no_interval_without_something_to_draw():
    scores, targets = _tags(0, num_clips=1)
    assert bootstrap_interval_of(lwlrap, scores, targets) is None
    assert interval_of(0.5, np.array([np.nan])) is None
    assert interval_of(math.nan, np.array([0.5])) is None
    assert paired_bootstrap_of_map(scores, scores, np.ones_like(targets)).interval is None


def test_paired_bootstrap_sees_more_than_two_intervals():
    generator = np.random.default_rng(2)
    targets = generator.random((150, 8)) < 0.1
    teacher = generator.normal(size=targets.shape) + 2 * targets
    student = teacher + 0.6 * generator.normal(size=targets.shape)
    found = paired_bootstrap_of_map(teacher, student, targets, num=300)
    values = [mean_average_precision(scores, targets)[0] for scores in (teacher, student)]
    assert found.difference == pytest.approx(values[1] - values[0])
    assert found.interval[0] < found.difference < found.interval[1] < 0 and found.p_value < 0.05
    alone = [interval_of(value, bootstrap_tags(scores, targets, 300)["mean_average_precision"])
             for value, scores in zip(values, (teacher, student), strict=True)]
    assert alone[0][0] < alone[1][1]  # the two intervals overlap
    back = paired_bootstrap_of_map(student, teacher, targets, num=300)
    assert back.difference == -found.difference and back.p_value == found.p_value
    same = paired_bootstrap_of_map(teacher, teacher, targets, num=20)
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)


def test_calibration_by_hand():
    scores, targets = _column([0.0, 0.1, 0.3, 0.5, 1.0], [0, 1, 0, 1, 1])
    count, mean_score, rate = reliability_bins(scores, targets, num_bins=4)
    assert count.tolist() == [2, 1, 1, 1]  # 0.5 opens the third bin, 1.0 is in the last
    assert mean_score == pytest.approx([0.05, 0.3, 0.5, 1]) and rate.tolist() == [0.5, 0, 1, 1]
    by_hand = (2 * 0.45 + 0.3 + 0.5 + 0) / 5
    assert expected_calibration_error(scores, targets, num_bins=4) == pytest.approx(by_hand)
    assert np.isnan(reliability_bins(scores, targets, num_bins=10)[1][7])  # an empty bin
    assert math.isfinite(expected_calibration_error(scores, targets, num_bins=10))
    with pytest.raises(ValueError, match="must be probabilities, got numbers from -3 to 2: apply"):
        brier_score(*_column([-3, 2], [0, 1]))


def test_sigmoid_keeps_apart_what_float32_makes_equal():
    assert sigmoid(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]
    assert sigmoid(np.float32(20)) < sigmoid(np.float32(21)) < 1


def test_evaluation_is_json_with_all_its_counts():
    scores, targets = _tags(1)
    targets[:, 4] = True  # no negatives: AP, but no AUC
    names = ["Speech", "Dog", "Inside, small room", "Rain", "Always", "Never"]
    found = json.loads(json.dumps(evaluate_tags(scores, targets, names, 40), allow_nan=False))
    counts = {key: found[key] for key in found if key.startswith("num_")}
    assert counts == {
        "num_clips": 40, "num_clips_with_labels": 40, "num_labels": int(targets.sum()),
        "num_classes": 6, "num_classes_with_positives": 5, "num_classes_with_auc": 4,
        "num_bootstrap": 40,
    }
    assert found["mean_average_precision"] == mean_average_precision(scores, targets)[0]
    for name in ("mean_average_precision", "auc", "d_prime_of_mean_auc", "mean_d_prime", "lwlrap"):
        low, high = found[f"{name}_ci"]
        assert low < found[name] < high
    assert [row["name"] for row in found["classes"]] == names
    never = found["classes"][5]
    assert never.pop("mean_score") == pytest.approx(scores[:, 5].mean())
    assert never == {"name": "Never", "num_positives": 0, "positive_rate": 0,
                     "average_precision": None, "auc": None, "d_prime": None}
    assert found["classes"][4]["average_precision"] == 1 and found["classes"][4]["auc"] is None
    assert found["classes"][0]["num_positives"] == targets[:, 0].sum()


def test_evaluation_of_very_little():
    one = evaluate_tags(np.array([[0.3, 0.6]]), np.array([[0, 1]]), ["a", "b"])
    assert one["mean_average_precision"] == 1 and one["mean_average_precision_ci"] is None
    nothing = evaluate_tags(np.full((3, 1), 0.3), np.zeros((3, 1)), ["a"], num_bootstrap=5)
    assert nothing["mean_average_precision"] is nothing["lwlrap"] is nothing["auc_ci"] is None
    assert nothing["brier"] == pytest.approx(0.09) and nothing["num_classes_with_positives"] == 0
    with pytest.raises(ValueError, match="2 classes are scored, but 3 have names"):
        evaluate_tags(np.zeros((1, 2)), np.zeros((1, 2)), ["a", "b", "c"])
