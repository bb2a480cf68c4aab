"""Long windows whose text loops are decoded again in two halves; all others are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill.data.audio import SAMPLE_RATE
from distill.data.speech.windows import Piece, Window
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.lengths import set_margin
from distill.whisper.recognition.halves import in_halves, joined, loop_rule
from distill.whisper.recognition.transcribe import transcribe
from eval.speech.asr import loop_counts


def noise(seconds: float, quiet_at: float | None = None) -> np.ndarray:
    audio = 0.1 * np.random.default_rng(round(10 * seconds)).standard_normal(
        int(seconds * SAMPLE_RATE)).astype(np.float32)
    if quiet_at is not None:
        at = int(quiet_at * SAMPLE_RATE)
        audio[at - 3000 : at + 3000] = 0
    return audio


def window(name: str, seconds: float) -> Window:
    return Window(name, (Piece(name, "", 0.0, seconds, 0.0, None),), language="en")


AUDIO = {"good": noise(29.0), "bad": noise(30.0, quiet_at=12.0), "short": noise(4.0),
         "middle": noise(16.0, quiet_at=8.0)}
WINDOWS = [window(name, len(audio) / SAMPLE_RATE) for name, audio in AUDIO.items()]


class Decoder(WhisperDecoder):
    """Of the tiny model; says which clips it was asked for, and that some of the texts loop."""

    bad: tuple[int, ...] = ()  # calls, by the number of clips before them

    def __call__(self, states, limits, **options):
        first = getattr(self, "asked", 0)
        self.asked = first + len(states)
        found = super().__call__(states, limits, **options)
        return [replace(each, looped=first + row in self.bad) for row, each in enumerate(found)]


@pytest.fixture
def decoder(tiny_model, tiny_processor):
    set_margin(tiny_model, 1.0)
    return lambda bad, **options: _with(
        Decoder(tiny_model, tiny_processor.tokenizer, "en", **{"on_loop": "break"} | options), bad)


def _with(decoder: Decoder, bad: tuple[int, ...]) -> Decoder:
    decoder.bad = bad
    return decoder


def run(decoder, processor, windows=WINDOWS, audio=AUDIO, **options) -> dict[str, Hypothesis]:
    return transcribe(decoder, processor, windows, 4, 2.0, audio_of=lambda w: audio[w.id],
                      **options)


def test_cut_where_it_is_quiet():
    halves, audio = in_halves([window("bad", 30.0)], [AUDIO["bad"]])
    assert [each.id for each in halves] == list(audio) == ["bad/0", "bad/1"]
    assert halves[0].duration == pytest.approx(12.0, abs=0.2)
    assert np.array_equal(np.concatenate(list(audio.values())), AUDIO["bad"])
    for seconds in (10.0, 10.01, 17.3, 30.0):  # wherever: between a third and two thirds
        (first, second), _ = in_halves([window("x", seconds)], [noise(seconds)])
        assert seconds / 3 - 0.1 <= first.duration <= 2 * seconds / 3 + 0.1
        assert first.duration + second.duration == pytest.approx(seconds, abs=1e-3)


def test_the_text_of_a_window_that_loops_is_that_of_its_halves(decoder, tiny_processor):
    plain = run(decoder(()), tiny_processor)
    assert not any(each.in_halves for each in plain.values())
    found = run(decoder((0, 1)), tiny_processor)  # the longest: "bad", then "good"
    halves, audio = in_halves([WINDOWS[1]], [AUDIO["bad"]])
    alone = run(decoder(()), tiny_processor, halves, audio)
    assert found["bad"].tokens == [*alone["bad/0"].tokens, *alone["bad/1"].tokens]
    assert found["bad"].in_halves and not found["bad"].looped and found["good"].in_halves
    assert {name: found[name] for name in ("short", "middle")} == {
        name: plain[name] for name in ("short", "middle")}


def test_a_short_window_is_padded_first(decoder, tiny_processor):
    only = [window("middle", 16.0)]
    assert not run(decoder((0,)), tiny_processor, only)["middle"].in_halves
    assert run(decoder((0, 1)), tiny_processor, only)["middle"].in_halves
    loops = run(decoder((0, 1)), tiny_processor, [window("short", 4.0)])["short"]
    assert loops.looped and not loops.in_halves  # too short to be cut


def test_only_where_loops_are_broken_and_no_times_are_written(decoder, tiny_processor):
    only = [window("bad", 30.0)]
    assert run(decoder((0,)), tiny_processor, only)["bad"].in_halves
    for options in ({"on_loop": "keep"}, {"on_loop": "end"}, {"timestamps": True}):
        found = run(decoder((0,), **options), tiny_processor, only)["bad"]
        assert found.looped and not found.in_halves, options
    assert not run(decoder((0,)), tiny_processor, only, guarded=False)["bad"].in_halves


def test_joined():
    one = Hypothesis([1, 2, 3], -1.0, 0.2, False, False, "en", 0.9)
    two = Hypothesis([4], -0.4, 0.5, True, True, "en", 0.8)
    both = joined(one, two)
    assert both.tokens == [1, 2, 3, 4] and both.avg_logprob == pytest.approx(-4.8 / 6)
    assert (both.no_speech_prob, both.truncated, both.looped) == (0.2, True, True)
    assert (both.language, both.language_prob, both.in_halves) == ("en", 0.9, True)


def test_kept_texts_of_broken_loops_are_those_of_this_rule():
    assert loop_rule("keep") == ["keep"] and loop_rule("end") == ["end"]
    assert loop_rule("break") == ["break", 10.0]


def test_what_is_counted():
    fine = Hypothesis([1], -0.1, 0.0, False, False)
    loop, cut = replace(fine, looped=True), replace(fine, in_halves=True)
    counts = loop_counts([[fine], [loop], [fine, cut], [replace(loop, in_halves=True)], [cut]])
    assert counts == {"looping_units": 2, "halved_units": 2}
