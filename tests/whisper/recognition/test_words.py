"""Times of words: as transformers aligns tokens, at known boundaries, in any batch and script."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from distill.data.manifest import read_manifest
from distill.data.speech.windows import load_window, pack
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.recognition.words import (
    Word,
    alignment_heads,
    first_frames,
    median_filter,
    merge_punctuation,
    split_words,
    without_silence,
    word_times,
)


def test_median_and_path_are_those_of_transformers():
    draw = torch.Generator().manual_seed(0)
    for tokens, frames in ((1, 1), (1, 9), (7, 4), (12, 60)):
        costs = torch.randn(tokens, frames, generator=draw)
        if frames > 3:
            assert torch.equal(median_filter(costs), _median_filter(costs[None], 7)[0])
        else:
            assert median_filter(costs) is costs
        text, time = _dynamic_time_warping(costs.numpy())
        jumps = np.pad(np.diff(text), (1, 0), constant_values=1).astype(bool)
        assert first_frames(costs.numpy()).tolist() == time[jumps].tolist()


@pytest.fixture(scope="module")
def window(demo_data):
    """Prompts of known length, one after the other."""
    rows = read_manifest(demo_data / "test.jsonl")[0][:8]
    return pack(rows, "a", "sequential")[0]


def test_boundaries_of_prompts(demo_teacher, window):
    """The text is known, so is where each prompt begins and where its sound ends."""
    model, processor = demo_teacher.model, demo_teacher.processor
    audio = load_window(window)
    states = encode(model, log_mel(processor, [audio]))
    text = processor.tokenizer(" " + window.text, add_special_tokens=False).input_ids
    ((words,),) = word_times(model, processor.tokenizer, states, [[text]], [window.duration],
                             ["en"])
    assert "".join(word.text for word in words).split() == window.text.split()
    errors, at = [], 0
    for piece in window.pieces:
        count = len(piece.text.split())
        sound = audio[round(piece.start * 16000) :][: round(piece.duration * 16000)]
        loud = np.flatnonzero(np.abs(sound) > 0.05 * np.abs(sound).max()) / 16000 + piece.start
        errors += [words[at].start - loud[0], words[at + count - 1].end - loud[-1]]
        at += count
    assert at == len(words) and len(errors) == 2 * len(window.pieces) >= 12
    assert np.median(np.abs(errors)) < 0.12
    assert np.abs(errors).max() < 0.6
    chances = [word.probability for word in words]
    assert min(chances) >= 0 and max(chances) <= 1 and np.mean(chances) > 0.7


def test_rows_do_not_touch_each_other(tiny_model, tiny_processor):
    states = torch.randn(3, 1500, 32, generator=torch.Generator().manual_seed(1))
    tokenizer = tiny_processor.tokenizer
    begin = tokenizer.convert_tokens_to_ids("<|0.00|>")
    texts = [tokenizer(text, add_special_tokens=False).input_ids
             for text in (" one two, three.", "", " 四五")]
    # timestamps are left out; words end where segments do
    given = [[[begin, *texts[0], begin + 50], texts[0][:2]], [[]], [texts[2]]]
    lengths, languages = [30.0, 3.0, 0.01], ["en", "de", "zh"]
    found = word_times(tiny_model, tokenizer, states, given, lengths, languages)
    for row in range(3):
        (alone,) = word_times(tiny_model, tokenizer, states[row : row + 1], given[row : row + 1],
                              lengths[row : row + 1], languages[row : row + 1])
        alone, batched = sum(alone, []), sum(found[row], [])
        assert [replace(w, probability=0) for w in alone] == [
            replace(w, probability=0) for w in batched]
        assert np.allclose([w.probability for w in alone], [w.probability for w in batched])
        assert all(0 <= w.start <= w.end <= lengths[row] + 0.02 for w in alone)
        assert [w.start for w in alone] == sorted(w.start for w in alone)
    assert [[w.text for w in part] for part in found[0]] == [[" one", " two,", " three."], [" o"]]
    assert found[1] == [[]] and [w.text for w in found[2][0]] == [" 四", "五"]
    assert word_times(tiny_model, tokenizer, states[:1], [[]], [1.0], ["en"]) == [[]]
    assert word_times(tiny_model, tokenizer, states[:0], [], [], []) == []
    assert not any(m._forward_pre_hooks for m in tiny_model.modules())


def test_heads(tiny_model, tiny_processor):
    """The model's own; where it has none, all of the later half. They matter."""
    states = torch.randn(1, 1500, 32, generator=torch.Generator().manual_seed(1))
    text = tiny_processor.tokenizer(" one two three four").input_ids
    assert alignment_heads(tiny_model) == [(1, 0), (3, 1)]
    own = word_times(tiny_model, tiny_processor.tokenizer, states, [[text]], [30.0], ["en"])
    del tiny_model.generation_config.alignment_heads
    assert alignment_heads(tiny_model) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert own != word_times(tiny_model, tiny_processor.tokenizer, states, [[text]], [30.0], ["en"])


@pytest.mark.parametrize(("text", "language", "words"), [
    (" It's check-in \"time\", (at) 5.", "en",
     [" It's", " check-in", ' "time",', " (at)", " 5."]),
    (" Füße 🎉 naïve", "de", [" Füße", " 🎉", " naïve"]),
    ("我们「去」吧。", "zh", ["我", "们", "「", "去", "」", "吧。"]),
    ("", "en", []),
])
def test_words_of_scripts(demo_teacher, text, language, words):
    tokenizer = demo_teacher.processor.tokenizer
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    pieces = split_words(tokenizer, tokens, language)
    assert "".join(word for word, _ in pieces) == text
    assert sum(count for _, count in pieces) == len(tokens)
    found = merge_punctuation([Word(word, 0, 1, 1) for word, _ in pieces], language != "zh")
    if language == "zh":  # how characters are joined to tokens is the tokenizer's
        assert "".join(w.text for w in found) == text and found[-1].text.endswith("。")
    else:
        assert [w.text for w in found] == words


def test_broken_characters_are_kept(demo_teacher):
    """Half a character, as a window may end with: one word, all tokens counted."""
    tokenizer = demo_teacher.processor.tokenizer
    tokens = tokenizer(" ok 🎉", add_special_tokens=False).input_ids[:-1]
    pieces = split_words(tokenizer, tokens, "en")
    assert sum(count for _, count in pieces) == len(tokens) and pieces[0] == (" ok", 1)


def test_pauses_are_no_part_of_words():
    """A word of n letters may take 1.2 times what n letters usually take, after a pause."""
    words = [Word(" Abcde", 0.0, 3.0, 1), Word(" b", 3.0, 3.08, 1), Word(".", 3.08, 9.4, 1),
             Word(" Cd", 9.4, 12.0, 1), Word(" efg", 12.0, 12.84, 1), Word(" hi", 12.84, 15.0, 1)]
    next_segment = [Word(" jk", 15.0, 15.4, 1)]
    pace = 0.1  # a letter; the median is more, and more than anybody takes
    shortened, following = without_silence([words, next_segment])
    assert [(w.start, w.end) for w in shortened] == [
        (pytest.approx(3.0 - 1.2 * 5 * pace), 3.0), (3.0, 3.08), (3.08, 3.08 + 1.4),
        (pytest.approx(12.0 - 1.2 * 2 * pace), 12.0), (12.0, 12.84),  # slow, but no pause in it
        (pytest.approx(15.0 - 1.2 * 2 * pace), 15.0)]
    assert following == [Word(" jk", pytest.approx(15.4 - 1.2 * 2 * pace), 15.4, 1)]
    slow = without_silence([[Word("我", 0.0, 9.0, 1)]], spaced=False)
    assert slow == [[Word("我", pytest.approx(9.0 - 1.2 * 0.35), 9.0, 1)]]
    merged = merge_punctuation(shortened)
    assert [w.text for w in merged] == [" Abcde", " b.", " Cd", " efg", " hi"]
    assert merged[1].end == pytest.approx(3.28)  # the sign's beginning sounds like the word's end
    assert without_silence([]) == merge_punctuation([]) == []
    assert merge_punctuation([Word(" (", 0, 1, 1)]) == []
