"""Drafts while labelling and evaluating: the same rows, fewer passes."""

from pathlib import Path

import pytest
from transformers import WhisperForConditionalGeneration

import pseudo_label.__main__ as command
from distill.config import ConfigError
from distill.data.files import read_jsonl
from distill.testing import write_tiny_recipe
from distill.whisper.decoding.drafting.policy import Drafting
from distill.whisper.decoding.phrases import trie
from distill.whisper.recipe import load_recipe
from distill.whisper.recognition.backends import load_backend
from distill.whisper.student import make_student
from distill.whisper.teacher import load_teacher
from eval.__main__ import evaluate

OPTIONS = ("num_threads=1", "teacher.mode=live", "pseudo_label.second_decoding=true")


@pytest.fixture(autouse=True)
def always_drafting(monkeypatch):
    """Whether it pays depends on how busy the machine is."""
    monkeypatch.setattr(Drafting, "_choose", lambda _: 3)
    monkeypatch.setattr(Drafting, "end_round", lambda *_: None)  # it knows no costs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_tiny_recipe(tmp_path_factory.mktemp("assistant"), train=10)


@pytest.fixture(scope="module")
def student(recipe, tmp_path_factory):
    teacher = WhisperForConditionalGeneration.from_pretrained(recipe.parent / "teacher")
    folder = tmp_path_factory.mktemp("student")
    make_student(teacher, [0, 3], [0, 1]).save_pretrained(folder)
    return folder


def label(recipe, run, *overrides) -> list[dict]:
    command.main([str(recipe), f"output_dir={run}", *OPTIONS, *overrides])
    parts = sorted((run / "pseudo_labels").glob("part-*.jsonl"))
    return [row for part in parts for row in read_jsonl(part)]


@pytest.fixture(scope="module")
def plain(recipe, tmp_path_factory) -> tuple[list[dict], Path]:
    """Rows without drafts, and the folder of their run."""
    run = tmp_path_factory.mktemp("plain")
    return label(recipe, run), run


def same(one: list[dict], two: list[dict]) -> None:
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        for key in left.keys() - {"avg_logprob", "no_speech_prob"}:
            assert left[key] == right[key], key
        for key in ("avg_logprob", "no_speech_prob"):
            assert left[key] == pytest.approx(right[key], abs=2e-5)


def test_labels_are_the_same_with_drafts(recipe, student, plain, tmp_path, capsys):
    wanted, run = plain
    same(label(recipe, tmp_path / "student", f"decoding.assistant={student}"), wanted)
    assert "drafted tokens accepted" in capsys.readouterr().out
    same(label(recipe, tmp_path / "old", f"decoding.old_labels={run / 'pseudo_labels'}"), wanted)
    assert "100.0 % of" in capsys.readouterr().out.split(";")[0]  # of the first of two decodings


@pytest.mark.slow
def test_sampled_labels_are_the_same_with_drafts(recipe, student, plain, tmp_path, capsys):
    """A random teacher is never sure: all its texts are tried again."""
    again = "pseudo_label.temperatures=[0.0,0.4]"
    wanted = label(recipe, tmp_path / "plain", again)
    assert "Decoding:" not in capsys.readouterr().out
    assert all(row["temperature"] == 0.4 for row in wanted)
    same(label(recipe, tmp_path / "student", again, f"decoding.assistant={student}"), wanted)
    assert wanted[0]["tokens"] != plain[0][0]["tokens"]


@pytest.mark.slow
def test_results_are_the_same_with_drafts(recipe, student, tmp_path):
    (tmp_path / "student").symlink_to(student)
    from transformers import WhisperProcessor

    WhisperProcessor.from_pretrained(recipe.parent / "teacher").save_pretrained(student)
    found = []
    for drafts in ("null", student):
        overrides = [f"output_dir={tmp_path}", f"decoding.assistant={drafts}"]
        found.append(evaluate(load_recipe(str(recipe), overrides), tmp_path))
    plain, drafted = found
    assert drafted["teacher"]["wer"] == plain["teacher"]["wer"]
    assert "drafted tokens accepted" in drafted["teacher"]["speculation"]
    assert "speculation" not in drafted["student"] and "speculation" not in plain["teacher"]
    name = student.parent.name if student.name == "student" else student.name
    assert drafted["decoding"].endswith(f"; {name} drafts for the teacher")
    assert "drafts" not in plain["decoding"]


def test_drafts_that_never_pay_are_told(recipe, student, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Drafting, "_choose", lambda _: 0)
    label(recipe, tmp_path, f"decoding.assistant={student}")
    assert "one by one, none drafted" in capsys.readouterr().out


def test_bad_drafts_are_refused(recipe, tmp_path):
    with pytest.raises(ConfigError, match="decoding must be without drafts unless"):
        load_recipe(str(recipe), ["decoding.assistant=x", "pseudo_label.backend=ctranslate2"])
    with pytest.raises(ConfigError, match="old_labels must be null where .*long_audio is sequ"):
        load_recipe(str(recipe), ["decoding.old_labels=x", "pseudo_label.long_audio=sequential",
                                  "pseudo_label.timestamps=true"])
    with pytest.raises(ValueError, match="decoding.assistant: no model in"):
        label(recipe, tmp_path / "a", f"decoding.assistant={tmp_path}")
    with pytest.raises(ValueError, match="decoding.old_labels: no labels"):
        label(recipe, tmp_path / "b", f"decoding.old_labels={tmp_path}")


def test_a_glossary(recipe, plain, tmp_path, monkeypatch):
    """Both decodings prefer its phrases; labels of another list or rule of boosts are refused."""
    names = tmp_path / "names.txt"
    names.write_text("abcdefgh\n")
    listed = f"decoding.phrases={names}", "decoding.phrase_boost=4"
    label(recipe, tmp_path, *listed)
    found = load_recipe(recipe, [*OPTIONS, *listed])
    lists = [each.phrases for each in load_backend(found, load_teacher(found.teacher)).decoders]
    assert [(each.phrases, each.boost) for each in lists] == 2 * [(["abcdefgh"], 4.0)]
    label(recipe, tmp_path, *listed)
    with monkeypatch.context() as patched:
        patched.setattr(trie, "RULE", (*trie.RULE[:-1], 7))
        with pytest.raises(ValueError, match=r"other settings \(phrase_rule: .* -> .* 7\]\)"):
            label(recipe, tmp_path, *listed)
        label(recipe, plain[1])  # has no phrases
    names.write_text("abcdefgh\nxyz\n")
    with pytest.raises(ValueError, match="other settings .*phrases"):
        label(recipe, tmp_path, *listed)


def test_glossaries_that_cannot_be(recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"decoding\.phrases must be a text file"):
        load_recipe(recipe, [f"decoding.phrases={tmp_path / 'none.txt'}"])
    with pytest.raises(ConfigError, match=r"decoding\.phrase_boost must be > 0"):
        load_recipe(recipe, ["decoding.phrase_boost=0"])
    (recipe / "names.txt").write_text("Ann\n")
    found = load_recipe(recipe, ["decoding.phrases=names.txt"]).decoding.phrases
    assert found == str(recipe / "names.txt")
    with pytest.raises(ConfigError, match=r"decoding\.phrases must be null unless"):
        load_recipe(recipe, ["decoding.phrases=names.txt", "pseudo_label.backend=ctranslate2"])
