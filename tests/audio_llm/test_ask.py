"""Asking about files: what is told and said, and what ends with a sentence."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from distill.audio_llm.model import AudioLlm
from distill.audio_llm.settings import read_settings
from eval.audio_llm.ask import main as ask
from tests.audio_llm.test_training import recipe, trained  # noqa: F401


@pytest.fixture
def student(trained, tmp_path):  # noqa: F811
    shutil.copytree(trained / "student", tmp_path / "student")
    return tmp_path / "student"


def change(student, **values) -> None:
    path = student / "audio_llm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def asked(monkeypatch):
    """What the model is asked, in place of its answers."""
    calls = []

    def generate(self, states, prompts, transcripts, **_):
        calls.append((prompts[0], transcripts[0]))
        return ["so"]

    monkeypatch.setattr(AudioLlm, "generate", generate)
    return calls


def test_a_model_that_is_told_what_is_said(student, recipe, asked, monkeypatch):  # noqa: F811
    """By the encoder's Whisper, or by who asks; others are not."""
    monkeypatch.setattr("eval.audio_llm.cascade.whisper_texts",
                        lambda teacher, examples, size: [f"in {examples[0].row.language}"])
    clip = str(recipe.parent / "0.wav")
    options = ["--model", str(student), "--question", "Who?"]
    ask([clip, *options])
    with pytest.raises(ValueError, match="--transcript: this model was not trained"):
        ask([clip, *options, "--transcript", "A"])
    change(student, tell_transcript=True)
    ask([clip, *options])
    ask([clip, *options, "--language", "es"])
    ask([clip, *options, "--transcript", "A"])
    assert [told for _, told in asked] == [None, "in en", "in es", "A"]


def test_a_file_that_is_not_there_is_no_question(student, recipe, asked, capsys):  # noqa: F811
    clip = str(recipe.parent / "0.wav")
    assert ask([clip, "typo.wav", "--model", str(student)]) == 1
    assert "typo.wav: missing_file" in capsys.readouterr().err
    assert ask([clip, "What. Now?", "--model", str(student)]) == 0
    assert [prompt for prompt, _ in asked] == ["Say it.", "What. Now?"]


def test_what_cannot_be_heard_is_said(student, tmp_path, asked, capsys):
    """Shorter than one embedding: the answer would be to the question alone."""
    soundfile.write(tmp_path / "short.wav", np.full(800, 0.1), 16_000)
    assert ask([str(tmp_path / "short.wav"), "--model", str(student)]) == 0
    found = capsys.readouterr()
    assert found.out == "so\n" and "the answer is to the question alone" in found.err


def test_a_question_that_is_too_long(student, recipe):  # noqa: F811
    with pytest.raises(ValueError, match="more than the 512 that the language model reads"):
        ask([str(recipe.parent / "0.wav"), "word " * 600, "--model", str(student)])


@pytest.mark.parametrize("text", ["[1]", "{", '{"version": 1, "x": 2}'])
def test_settings_that_are_damaged(student, text):
    (student / "audio_llm.json").write_text(text)
    with pytest.raises(ValueError, match="audio_llm.json cannot be read, or was written by"):
        read_settings(student)


def test_settings_of_another_version(student):
    change(student, version=2)
    with pytest.raises(ValueError, match="version 2, expected 1"):
        read_settings(student)


def test_weights_that_are_not_whole(student):
    path = student / "audio_llm.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="audio_llm.safetensors is damaged"):
        AudioLlm.from_pretrained(student)
    path.unlink()
    with pytest.raises(ValueError, match="not a whole model: it has no audio_llm.safetensors"):
        AudioLlm.from_pretrained(student)
