"""How often a student's next token is its teacher's; counted by hand and by decoding."""

import random
from pathlib import Path

import pytest
import torch

from distill.data.files import read_jsonl
from distill.whisper import agreement as agreement_module
from distill.whisper.agreement import agreement, agreement_metrics, count_verifies
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.student import make_student

LIVE = "teacher.mode=live"
SAME = "student.decoder_layers=4"  # all that the teacher has


def bits(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


@pytest.mark.parametrize(
    ("text", "verifies"),
    [
        ("0", 1),  # the teacher says it itself
        ("1", 1),
        ("0000", 4),
        ("1111", 1),  # all four are kept, and there is nothing left to say
        ("11111", 1),  # four and the teacher's own
        ("11110", 1),  # ... whatever the student would have drafted in its place
        ("111111", 2),
        ("1111111111", 2),  # 5 + 5
        ("11111111111", 3),
        ("10111", 2),  # 1 + 1, then 3
        ("011", 2),  # 1, then 2
        ("1101101", 3),  # 2 + 1, 2 + 1, 1
        ("", 0),
    ],
)
def test_runs_by_hand(text, verifies):
    assert count_verifies(bits(text), 4) == verifies


def test_runs_are_those_of_drafting_and_verifying():
    """The loop itself, on texts of letters and a student that is wrong here and there."""
    generator = random.Random(0)
    for _ in range(200):
        said = [generator.randrange(5) for _ in range(generator.randrange(1, 30))]
        agreed = [generator.random() < 0.7 for _ in said]
        for num_drafts in (1, 2, 4):
            at = looks = 0
            while at < len(said):
                drafts = [token if same else token + 1 for token, same in zip(
                    said[at : at + num_drafts], agreed[at : at + num_drafts], strict=True)]
                kept = 0
                while kept < len(drafts) and drafts[kept] == said[at + kept]:
                    kept += 1
                at += kept + 1
                looks += 1
            assert count_verifies(agreed, num_drafts) == looks


def test_metrics():
    assert agreement_metrics(6.0, 8.0, 4.0) == {
        "acceptance": 0.75, "expected_tokens_per_verify": 2.0}
    assert agreement_metrics(0.0, 0.0, 0.0) == {}


# One pass of the decoder


@pytest.fixture
def states():
    return torch.randn(3, 1500, 32, generator=torch.Generator().manual_seed(0))


def decoder_of(model, processor) -> WhisperDecoder:
    return WhisperDecoder(model.eval(), processor.tokenizer, "en")


def test_one_pass_finds_what_decoding_step_by_step_does(tiny_model, tiny_processor, states):
    student = make_student(tiny_model, [0, 3], [0, 1])
    texts = [[10, 20, 30, 40, 256], [7] * 9, [1]]
    decoder = decoder_of(student, tiny_processor)
    found = agreement(decoder, states, texts, [None, "de", "en"])
    assert [len(row) for row in found] == [5, 9, 1]
    for row, (text, language) in enumerate(zip(texts, ("en", "de", "en"), strict=True)):
        prefix = decoder.special.prefix(language, "transcribe", False)
        for at, token in enumerate(text):
            with torch.no_grad():
                hidden = student.model.decoder(
                    input_ids=torch.tensor([[*prefix, *text[:at]]]),
                    encoder_hidden_states=states[row : row + 1]).last_hidden_state
                scores = student.proj_out(hidden[0, -1])
            scores += decoder.rules.always if at else decoder.rules.first
            assert found[row][at] == (scores.argmax().item() == token)


def test_suppressed_tokens_are_never_drafted(tiny_model, tiny_processor, states):
    """A student whose likeliest first token is the end, which may not come first."""
    decoder = decoder_of(tiny_model, tiny_processor)
    end = decoder.special.end
    hypotheses = decoder(states, [20] * 3)
    texts = [said.tokens + [end] for said in hypotheses if not said.truncated]
    assert texts and all(all(row) for row in agreement(decoder, states[: len(texts)], texts,
                                                       [None] * len(texts)))
    decoder.rules.always[:] = decoder.rules.first[:] = -torch.inf
    decoder.rules.always[5] = decoder.rules.first[6] = 0.0
    assert agreement(decoder, states[:1], [[6, 5, 5, 6]], [None]) == [[True, True, True, False]]


# The task


def tokens_file(recipe) -> Path:
    return Path(recipe.labels_dir) / "validation_tokens.jsonl"


@pytest.mark.parametrize(("frozen", "on_loop"), [("true", "keep"), ("false", "break")])
def test_a_student_that_is_its_teacher_agrees_always(tiny_run, frozen, on_loop):
    options = (LIVE, f"student.freeze_encoder={frozen}", f"evaluation.on_loop={on_loop}")
    task = tiny_run.task(tiny_run.recipe(SAME, *options))
    found = task.validate()
    assert found["acceptance"] == 1.0 and 1.0 < found["expected_tokens_per_verify"] <= 5.0
    found = tiny_run.task(tiny_run.recipe(*options)).validate()
    assert 0.0 <= found["acceptance"] < 1.0
    assert 1.0 <= found["expected_tokens_per_verify"] < 5.0
    assert found["score"] == found["wer"], "the best checkpoint is still the one of fewest errors"


def test_tokens_are_decoded_once(tiny_run, tmp_path, monkeypatch):
    asked = []
    real = agreement_module._decode
    monkeypatch.setattr(agreement_module, "_decode",
                        lambda *args: asked.append(1) or real(*args))
    recipe = tiny_run.recipe(LIVE)
    tokens_file(recipe).unlink(missing_ok=True)
    first = tiny_run.task(recipe)
    content = tokens_file(recipe).read_bytes()
    again = tiny_run.task(recipe)
    assert len(asked) == 1 and again.validation.tokens == first.validation.tokens
    rows = read_jsonl(tokens_file(recipe))
    utterances = first.validation.utterances
    windows = [window.id for utterance in utterances for window in utterance.windows]
    assert sorted(windows) == [row["id"] for row in rows[1:]]
    # other limits may give other tokens; and back again
    tiny_run.task(tiny_run.recipe(LIVE, "evaluation.max_tokens_per_second=0.5"))
    assert tokens_file(recipe).read_bytes() != content
    tiny_run.task(recipe)
    tiny_run.task(tiny_run.recipe(LIVE, "teacher.short_audio_margin=0.5"))
    assert tokens_file(recipe).read_bytes() != content
    tiny_run.task(recipe)
    assert len(asked) == 5 and tokens_file(recipe).read_bytes() == content
    assert not list(tokens_file(recipe).parent.glob(".*.tmp"))


def test_the_student_hears_what_the_teacher_heard(tiny_run):
    """States of a shared encoder are computed once for both."""
    recipe = tiny_run.recipe(LIVE)
    tokens_file(recipe).unlink(missing_ok=True)
    task = tiny_run.task(recipe)
    states = dict(task.validation.states)
    assert states.keys() == task.validation.tokens.keys()
    found = task.validate()
    assert all(task.validation.states[name] is states[name] for name in states)
    task.validation.states.clear()
    assert task.validate() == found
    task = tiny_run.task(tiny_run.recipe(SAME, LIVE, "teacher.short_audio_margin=0.5"))
    assert {states.shape[0] < 1500 for states in task.validation.states.values()} == {True}
    assert task.validate()["acceptance"] == 1.0


def test_not_asked_where_nothing_is_validated_or_a_text_model_translates(tiny_run):
    for options in (["data.validation=[]"], ["translation.model=x", "task=translate",
                                             "views.timestamp_probability=0"]):
        recipe = tiny_run.recipe(LIVE, *options)
        tokens_file(recipe).unlink(missing_ok=True)
        task = tiny_run.task(recipe)
        assert task.validation.tokens == {} and not tokens_file(recipe).exists()
        assert "acceptance" not in task.validate()
