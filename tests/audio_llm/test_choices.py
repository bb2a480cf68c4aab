"""Options of closed-ended questions, scored as whole answers."""

from dataclasses import replace

import numpy as np
import pytest

from distill.audio_llm.answers import answer_nll
from distill.audio_llm.choices import chance, chosen_right, option_scores
from distill.audio_llm.data.examples import Example
from distill.audio_llm.data.sequences import answer_ids
from distill.audio_llm.recipe import PromptTask
from distill.data.manifest import Row
from tests.audio_llm.conftest import WIDTH

QUESTION = "Which is it?"


def test_options_are_scored_as_whole_answers(make):
    model = make(tell_transcript=True)
    task = PromptTask(name="t", prompt="p", kind="choice")
    row = Row(id="1", audio_filepath="a", duration=1.0)
    example = Example(row, task, QUESTION, "b", "said", options=("a", "b", "c d e"))
    states = [np.ones((6, WIDTH), np.float32), np.ones((0, WIDTH), np.float32)]
    for audio in states:
        (found,) = option_scores(model, [example], [audio])
        for value, option in zip(found, example.options, strict=True):
            nll = answer_nll(model, [replace(example, answer=option)], [audio])[0, 0]
            assert value == pytest.approx(-nll, rel=1e-4)
    other = replace(example, spoken="other")
    same, unlike, alike = option_scores(model, [example, other, example], [states[1]] * 3)
    assert same is alike, "without audio the same question is asked once"
    assert not np.allclose(same, unlike), "another transcript is told"
    assert chosen_right([example], [np.array([-3.0, -1.0, -2.0])]).tolist() == [True]
    assert chance([example]) == pytest.approx(1 / 3)
    some = replace(example, means=("no", "yes", "yes"))
    assert [some.is_right(each) for each in some.options] == [False, True, True]
    assert chosen_right([some], [np.array([-3.0, -2.0, -1.0])]).tolist() == [True]
    assert chance([some]) == 1 / 2


def test_what_questions_and_options_share_is_read_once(make):
    model = make(tell_transcript=True)
    task = PromptTask(name="t", prompt="p", kind="choice")
    sounds = np.random.default_rng(0).normal(size=(2, 6, WIDTH)).astype(np.float32)
    asked, states = [], []
    for question in ("p", "p then", "other"):
        for clip, told in ((0, "said"), (1, None), (0, "said"), (0, None)):
            row = Row(id=str(len(asked)), audio_filepath="ab"[clip], duration=1.0)
            asked.append(Example(row, task, question, "a", told,
                                 options=("drum, no", "drum, yes", "drum", "a")))
            states.append(sounds[clip].copy())
    read = []
    model.llm.base_model.register_forward_pre_hook(
        lambda module, given, named: read.append(
            named["inputs_embeds"].shape[1]),
        with_kwargs=True)
    found = option_scores(model, asked, states)
    assert len(read) == len(asked), "a pass each"
    whole = sum(len(model.sequence(each.question, 3, transcript=each.spoken).ids) for each in asked)
    options = [answer_ids(model.tokenizer, model.layout, each)[:-1] for each in asked[0].options]
    assert sum(read) < whole + len(asked) * sum(map(len, options)) / 2
    for example, audio, scores in zip(asked, states, found, strict=True):
        for value, option in zip(scores, example.options, strict=True):
            nll = answer_nll(model, [replace(example, answer=option)], [audio])[0, 0]
            assert value == pytest.approx(-nll, rel=1e-4)
