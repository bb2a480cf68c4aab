import numpy as np
import pytest

from distill.metrics import error_rates as metrics
from distill.metrics.error_rates import (
    Edit,
    ErrorCounts,
    align,
    bootstrap_interval,
    compression_ratio,
    error_counts,
    error_rate,
    insertions_per_1000_words,
    paired_bootstrap,
    repeated_ngrams_per_1000_words,
    total,
)


def test_counts_by_hand():
    # the -> a, black deleted, today inserted
    counts = error_counts("the black cat sat", "a cat sat today")
    assert counts == ErrorCounts(1, 1, 1, hits=2, num_reference=4)
    assert counts.rate == 0.75


def test_characters_count_the_single_spaces_between_words():
    assert error_counts("a  b", "a b\n", "char") == ErrorCounts(0, 0, 0, hits=3, num_reference=3)
    assert error_counts("今天天气", "今天天汽", "char") == ErrorCounts(1, 0, 0, 3, 4)


def test_any_white_space_separates_words():
    assert error_counts("one\ttwo\u00a0three\nfour", "one two three four").errors == 0


def test_an_empty_reference_is_all_insertions():
    counts = error_counts("", "thank you for watching")
    assert counts == ErrorCounts(insertions=4)
    assert counts.rate is None
    # and it costs the corpus: 1 + 4 errors on 2 words
    assert error_rate([counts, error_counts("hello world", "hello word")]) == 2.5
    assert error_rate([error_counts("", "")]) is None


def test_an_empty_hypothesis_is_all_deletions():
    assert error_counts("one two", "") == ErrorCounts(deletions=2, num_reference=2)


def test_corpus_rate_weighs_words_and_not_units():
    counts = [error_counts("a", "b"), error_counts("a b c d e f g h i", "a b c d e f g h i")]
    assert error_rate(counts) == pytest.approx(0.1)  # the mean of the rates would be 0.5
    assert total(counts).num_reference == 10
    assert error_rate(iter(counts)) == pytest.approx(0.1)


def test_unknown_unit():
    with pytest.raises(ValueError, match="unit must be one of"):
        error_counts("a", "b", "phone")


def test_insertions_per_1000_words():
    counts = [error_counts("a b c", "a b c d"), error_counts("a", "a")]
    assert insertions_per_1000_words(counts) == 250
    assert insertions_per_1000_words([error_counts("", "x")]) is None


def test_alignment_is_the_one_that_was_counted():
    assert align("the cat sat", "the dog sat down") == [
        Edit("equal", ("the",), ("the",)),
        Edit("substitute", ("cat",), ("dog",)),
        Edit("equal", ("sat",), ("sat",)),
        Edit("insert", (), ("down",)),
    ]
    assert align("你好", "你", "char") == [
        Edit("equal", ("你",), ("你",)),
        Edit("delete", ("好",), ()),
    ]


def _corpus(num_units: int, rate: float, seed: int) -> list[ErrorCounts]:
    errors = np.random.default_rng(seed).binomial(20, rate, size=num_units)
    return [ErrorCounts(int(e), 0, 0, 20 - int(e), 20) for e in errors]


def test_interval_holds_the_estimate_and_shrinks_with_data():
    widths = []
    for num_units in (20, 80, 320):
        counts = _corpus(num_units, 0.1, seed=1)
        low, high = bootstrap_interval(counts)
        assert low < error_rate(counts) < high
        widths.append(high - low)
    # four times the data, half the width
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.3)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.3)


def test_interval_agrees_with_theory():
    counts = _corpus(400, 0.1, seed=2)
    low, high = bootstrap_interval(counts, num_samples=4000)
    spread = np.std([c.errors / 20 for c in counts]) / np.sqrt(400)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.06)


def test_errors_that_come_together_widen_the_interval():
    # the same 10 % of 4,000 words, once evenly spread and once in a tenth of the units
    even = [ErrorCounts(2, 0, 0, 18, 20)] * 200
    lumped = [ErrorCounts(20, 0, 0, 0, 20)] * 20 + [ErrorCounts(0, 0, 0, 20, 20)] * 180
    assert bootstrap_interval(even) == (0.1, 0.1)
    low, high = bootstrap_interval(lumped)
    assert high - low > 0.06


def test_bootstrap_is_repeatable_whatever_the_block_size(monkeypatch):
    counts = _corpus(30, 0.1, seed=3)
    expected = bootstrap_interval(counts, seed=7)
    assert bootstrap_interval(counts, seed=7) == expected
    assert bootstrap_interval(counts, seed=8) != expected
    monkeypatch.setattr(metrics, "_BLOCK", 100)
    assert bootstrap_interval(counts, seed=7) == expected


def test_no_interval_without_words_or_with_one_unit():
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([ErrorCounts(1, 0, 0, 9, 10)]) is None
    assert bootstrap_interval([ErrorCounts(insertions=2)] * 5) is None


def test_draws_without_reference_words_are_left_out():
    counts = [ErrorCounts(1, 0, 0, 9, 10), ErrorCounts(insertions=3)]  # 1 of 4 draws has no words
    low, high = bootstrap_interval(counts)
    assert low == pytest.approx(0.1) and high == pytest.approx(0.4)


def test_a_clear_difference_is_significant():
    teacher = _corpus(100, 0.1, seed=4)
    student = [ErrorCounts(c.substitutions + 1, 0, 0, c.hits - 1, 20) for c in teacher]
    paired = paired_bootstrap(teacher, student)
    assert paired.difference == pytest.approx(0.05)  # student minus teacher: it errs more
    assert paired.interval == pytest.approx((0.05, 0.05))
    assert paired.p_value < 0.002
    assert paired_bootstrap(student, teacher).difference == pytest.approx(-0.05)


def test_no_difference_is_not_significant():
    teacher, student = _corpus(100, 0.1, seed=5), _corpus(100, 0.1, seed=6)
    paired = paired_bootstrap(teacher, student)
    low, high = paired.interval
    assert low < 0 < high
    assert paired.p_value > 0.1
    assert paired_bootstrap(teacher, teacher).p_value == 1.0


def test_p_value_is_two_sided():
    # one of two units is worse: a quarter of the draws holds only the other one
    teacher, student = [ErrorCounts(0, 0, 0, 1, 1)] * 2, [ErrorCounts(1, 0, 0, 0, 1)]
    paired = paired_bootstrap(teacher, student + teacher[:1])
    assert paired.p_value == pytest.approx(0.5, abs=0.05)
    assert paired_bootstrap(student + teacher[:1], teacher).p_value == pytest.approx(0.5, abs=0.05)


def test_pairing_finds_what_two_intervals_hide():
    teacher = [ErrorCounts(e, 0, 0, 20 - e, 20) for e in [0, 18] * 20]
    student = [ErrorCounts(c.substitutions + 1, 0, 0, c.hits - 1, 20) for c in teacher]
    assert bootstrap_interval(teacher)[1] > bootstrap_interval(student)[0]  # they overlap
    assert paired_bootstrap(teacher, student).p_value < 0.01


def test_pairing_needs_the_same_units():
    with pytest.raises(ValueError, match="same references"):
        paired_bootstrap(_corpus(3, 0.1, 0), _corpus(4, 0.1, 0))
    with pytest.raises(ValueError, match="same references"):
        paired_bootstrap([ErrorCounts(num_reference=1)], [ErrorCounts(num_reference=2)])


def test_pairing_of_almost_nothing():
    one = [ErrorCounts(1, 0, 0, 9, 10)]
    assert paired_bootstrap(one, one).p_value is None
    assert paired_bootstrap([ErrorCounts()] * 3, [ErrorCounts()] * 3) is None


def test_repeats_are_counted_inside_a_text_only():
    sentence = "please enter your agent number"
    assert repeated_ngrams_per_1000_words([sentence] * 3) == 0  # three callers, no hallucination
    # 10 words: 6 five-grams, the first comes again as the last
    assert repeated_ngrams_per_1000_words([f"{sentence} {sentence}"]) == pytest.approx(100)
    assert repeated_ngrams_per_1000_words(["no no no no"], n=2) == pytest.approx(500)
    assert repeated_ngrams_per_1000_words(["哈哈 哈哈"], n=2, unit="char") == pytest.approx(500)
    assert repeated_ngrams_per_1000_words([""]) == 0


def test_compression_ratio_tells_a_loop():
    assert compression_ratio("thank you. " * 40) > 2.4
    assert compression_ratio("Please enter your agent number followed by the pound key.") < 1.2
    assert compression_ratio("") == 0
