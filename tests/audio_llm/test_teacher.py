"""The language model that reads as a teacher: what it is given, and that it is asked once."""

import numpy as np
import pytest
import torch

from distill.audio_llm.data.teacher import Teacher, shown_pairs
from distill.config import ConfigError
from distill.losses.token_losses import IGNORE
from tests.audio_llm.test_training import load, recipe, task_of, trained  # noqa: F401

KL = ("loss.kl_weight=1", "loss.teacher_shown=2")


@pytest.fixture
def live(recipe, trained):  # noqa: F811
    return task_of(recipe, trained, 1, *KL)


def test_what_it_reads(live):
    teacher, tokenizer = live.teacher, live.student.tokenizer
    example = next(each for each in live.examples if teacher.teaches(each))
    first, second = shown_pairs([each for each in live.examples
                                 if each.task.name == example.task.name], 2)
    found = teacher.sequence(example)
    asked = "<|im_start|>user\n {}\n{}<|im_end|>\n<|im_start|>assistant\n {}<|im_end|>"
    turns = [asked.format(each.spoken, each.question, each.answer)
             for each in (first, second, example)]
    assert tokenizer.decode(found.ids) == "\n".join(turns)
    learned = [each for each in found.labels if each != IGNORE]
    assert tokenizer.decode(learned) == f" {example.answer}<|im_end|>"
    assert found.labels[found.num_prompt :] == found.ids[found.num_prompt :]
    assert not teacher.teaches(first), "it was shown the answer"
    assert set(teacher.sequence(first).labels) == {IGNORE}


def test_nothing_is_shown_without_the_key(live):
    teacher = Teacher(live.student, live.examples, 0)
    assert not teacher.shown and not any(teacher.before.values())
    assert all(teacher.teaches(each) for each in live.examples)


def test_a_kept_teacher_is_the_same(live, recipe, trained, tmp_path, monkeypatch):  # noqa: F811
    """One of its answers is not taught; the losses are those of a teacher that reads each time."""
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    for name in ("states", "stages/warm"):
        (run / name).symlink_to(trained / name)
    kept = task_of(recipe, run, 1, *KL, "loss.keep_teacher=true")
    taught = [each for each in live.examples if live.teacher.teaches(each)]
    assert set(kept.teacher_states) == {each.id for each in taught} and len(taught) == 12
    # the folder of files is there: a second task reads them
    monkeypatch.setattr(Teacher, "_compute", None)
    again = task_of(recipe, run, 1, *KL, "loss.keep_teacher=true")
    assert all(np.array_equal(again.teacher_states[name], each)
               for name, each in kept.teacher_states.items())
    shown = next(n for n, each in enumerate(live.examples) if not live.teacher.teaches(each))
    samples = [(n, 0) for n in {0, 1, 2, shown}]
    batch, other = live.collate(samples), again.collate(samples)
    assert "read_ids" not in other and not other["is_taught"].all()
    torch.nn.init.normal_(next(iter(live.student.lora_layers().values())).weight)
    again.student.load_trained(live.student.trained_state(), "")
    (loss, parts), (kept_loss, kept_parts) = live.model(batch), again.model(other)
    assert parts["kl"] > 0.01
    torch.testing.assert_close(kept_parts["kl"], parts["kl"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept_loss, loss, rtol=1e-4, atol=1e-5)
    only = again.collate([(shown, 0)])
    assert only["read_states"].shape == (0, 32) and again.model(only)[1]["kl"] == 0


def test_what_is_read_is_not_what_is_asked_without_it(live, recipe, trained):  # noqa: F811
    """Pairs that are shown change what the teacher thinks."""
    plain = task_of(recipe, trained, 1, "loss.kl_weight=1")
    index = next(n for n, each in enumerate(live.examples) if live.teacher.teaches(each))
    batch, other = plain.collate([(index, 0)]), live.collate([(index, 0)])
    assert other["read_ids"].shape[1] > batch["read_ids"].shape[1]
    assert plain.model(batch)[1]["kl"] != live.model(other)[1]["kl"]


def test_tasks_that_are_not_taught(live, recipe, trained):  # noqa: F811
    """They are learned from the answer alone."""
    name = live.examples[0].task.name
    some = task_of(recipe, trained, 1, *KL, f"loss.teacher_tasks=[{name}]")
    taught = {each.task.name for each in some.examples if some.teacher.teaches(each)}
    assert taught == {name} and len({each.task.name for each in some.examples}) == 2
    other = next(n for n, each in enumerate(some.examples) if each.task.name != name)
    assert some.model(some.collate([(other, 0)]))[1]["kl"] == 0
    with pytest.raises(ConfigError, match="loss.teacher_tasks"):
        load(recipe, trained, "loss.teacher_tasks=[sing]")
