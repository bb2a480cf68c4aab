"""Word times against what is known, and heads that look where words begin."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.data.speech.windows import Piece, Window
from distill.whisper.data.corpus import load_clips
from distill.whisper.export import heads as heads_module
from distill.whisper.export import word_times
from distill.whisper.export.heads import begin_frames, choose_heads, prepare
from distill.whisper.export.word_times import (
    beginning_errors,
    check_word_times,
    leading_silence,
)

WINDOW = Window("w", (
    Piece("a", "a.wav", 0, 2.0, 0.0, "Press one."),
    Piece("b", "b.wav", 0, 3.0, 2.0, "To re-enter your number, press two"),
    Piece("c", "c.wav", 0, 1.0, 5.0, "Goodbye"),
), language="en")
BEGINS = [0.0, 2.0, 5.0]


def test_first_words_of_clips_but_the_first():
    words = [(" Press", 0.4, 0.5), (" one.", 0.5, 1.0), (" To", 2.1, 2.4), (" re-enter", 2.4, 3.0),
             (" your", 3.0, 3.2), (" number,", 3.2, 3.5), (" press", 3.6, 3.8), (" two", 3.8, 4),
             (" Goodbye!", 4.7, 5.5)]
    assert beginning_errors(words, WINDOW, "word", BEGINS) == pytest.approx([0.1, -0.3])


def test_words_that_were_not_recognised_are_left_out():
    words = [(" Two", 2.2, 2.4), (" re-enter", 2.4, 3.0), (" Goodbye", 5.2, 5.5)]
    assert beginning_errors(words, WINDOW, "word", BEGINS) == pytest.approx([0.2])


def test_languages_without_spaces():
    pieces = Piece("a", "", 0, 2.0, 0.0, "你好。"), Piece("b", "", 0, 2.0, 2.0, "再见")
    window = Window("w", pieces, language="zh")
    words = [("你", 0.1, 0.3), ("好。", 0.3, 0.5), ("再见", 2.5, 3.0)]
    assert beginning_errors(words, window, "char", [0.0, 2.0]) == pytest.approx([0.5])


def test_windows_of_one_clip_know_no_boundary(monkeypatch):
    alone = Window("w", WINDOW.pieces[:1], language="en")
    assert check_word_times(lambda *_: pytest.fail(), [(alone, None, "en", "")], "word") is None
    monkeypatch.setattr(word_times, "load_audio", lambda *_: np.ones(16_000, np.float32))
    text = "press one to re-enter your number"
    found = check_word_times(lambda *_: [], [(WINDOW, None, "en", text)], "word")
    assert found == {"num_boundaries": 2, "num_recognised": 0, "num_in_texts": 1,
                     "windows_without_words": 1}


def test_times_are_measured_from_where_somebody_speaks(monkeypatch):
    audio = np.zeros(32_000, np.float32)
    audio[4_800:] = 0.5
    monkeypatch.setattr(word_times, "load_audio", lambda *_: audio)
    words = [(" To", 2.4, 2.6), (" Goodbye", 5.4, 5.5)]
    found = check_word_times(lambda *_: words, [(WINDOW, None, "en", "To")], "word")
    assert found["median_error_seconds"] == pytest.approx(0.1)
    assert found["median_error_to_joint_seconds"] == pytest.approx(0.4)
    assert found["num_recognised"] == found["num_boundaries"] == 2
    assert word_times._interval_of_median(np.arange(100.0)[::-1]) == [40, 59]


def test_the_cheapest_path_says_when_tokens_begin():
    begins = [0, 3, 4, 9]
    cost = np.zeros((4, 12))
    for token, (first, end) in enumerate(zip(begins, [*begins[1:], 12], strict=True)):
        cost[token, first:end] = -1
    assert begin_frames(cost).tolist() == begins


def test_the_path_is_the_cheapest_of_all():
    generator = np.random.default_rng(0)
    cost = generator.normal(size=(4, 5))
    total = np.full((5, 6), np.inf)
    total[0, 0] = 0
    for i in range(4):
        for j in range(5):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    begins = begin_frames(cost)

    def price(ends):
        return sum(cost[t, b : e + 1].sum() for t, (b, e) in enumerate(zip(begins, ends,
                                                                           strict=True)))

    # a token ends where the next begins, or a frame before
    options = [[b, b - 1] for b in begins[1:]]
    prices = [price([*(o[k >> n & 1] for n, o in enumerate(options)), 4]) for k in range(8)]
    assert min(prices, key=lambda p: abs(p - total[-1, -1])) == pytest.approx(total[-1, -1])


def test_attention_is_smoothed_over_frames():
    weights = torch.zeros(1, 2, 20)
    weights[0, 0, 10] = 1  # one frame alone is noise to a median of 7
    weights[0, 1, 4:12] = 1
    smooth = prepare(weights)
    assert smooth.shape == (1, 2, 20)
    assert smooth[0, 0, 10] < smooth[0, 1, 8]


def test_leading_silence():
    audio = np.zeros(16_000, np.float32)
    audio[4_000:] = 0.5
    assert leading_silence(audio) == pytest.approx(0.25)


@pytest.fixture
def rows(recipe):
    return load_clips(recipe().data.train)[0]


def planted(monkeypatch, good: dict[tuple[int, int], float]) -> None:
    """Attention of 2 layers of 2 heads that see the second clip begin so many seconds late."""
    def attention(*_):
        begins = np.array([0, 100])
        weights = [np.zeros((2, 2, 300)) for _ in range(2)]
        for layer in range(2):
            for head in range(2):
                at = begins[1] + int(good.get((layer, head), 3.0) / 0.02)
                weights[layer][head, 0, :at] = weights[layer][head, 1, at:] = 1
        return weights, np.array([1]), np.array([2.0])

    monkeypatch.setattr(heads_module, "_attention", attention)


def test_good_heads_of_the_teacher_stay(student_model, tiny_processor, rows, monkeypatch):
    planted(monkeypatch, {(1, 0): 0.1, (1, 1): 0.1, (0, 0): 0.0})
    found = choose_heads(student_model, tiny_processor, rows, "en", "transcribe")
    assert (found.heads, found.source) == ([(1, 0), (1, 1)], "generation config")
    assert found.median_error_seconds == pytest.approx(0.1)


def test_others_are_found_where_the_teachers_look_elsewhere(
    student_model, tiny_processor, rows, monkeypatch
):
    planted(monkeypatch, {(0, 1): 0.04, (0, 0): 0.04})
    found = choose_heads(student_model, tiny_processor, rows, "en", "transcribe")
    assert found.source == "found" and set(found.heads) <= {(0, 1), (0, 0)}
    assert found.median_error_seconds == pytest.approx(0.04)
    del student_model.generation_config.alignment_heads
    assert choose_heads(student_model, tiny_processor, rows, "en", "transcribe") == found


def test_real_attention(student_model, tiny_processor, rows):
    del student_model.generation_config.alignment_heads
    found = choose_heads(student_model, tiny_processor, rows[:8], "en", "transcribe")
    assert found.source == "found" and found.num_beginnings > 1
    assert all(0 <= layer < 2 and 0 <= head < 2 for layer, head in found.heads)


def test_training_clips_that_cannot_be_read_are_left_out(
    student_model, tiny_processor, rows, tmp_path
):
    (tmp_path / "x.wav").write_text("this is not audio")
    del student_model.generation_config.alignment_heads
    broken = [replace(row, audio_filepath=str(tmp_path / "x.wav")) for row in rows[:2]]
    found = choose_heads(student_model, tiny_processor, [*broken, *rows[2:6]], "en", "transcribe")
    assert found.num_beginnings > 1
    none = choose_heads(student_model, tiny_processor, broken, "en", "transcribe")
    assert none.source == "unknown" and none.num_beginnings == 0


def test_without_training_clips(student_model, tiny_processor):
    found = choose_heads(student_model, tiny_processor, [], "en", "transcribe")
    assert (found.heads, found.source) == ([(1, 0), (1, 1)], "generation config")
    del student_model.generation_config.alignment_heads
    found = choose_heads(student_model, tiny_processor, [], "en", "transcribe")
    assert (found.heads, found.source) == ([(1, 0), (1, 1)], "unknown")
