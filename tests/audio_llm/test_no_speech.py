"""Clips without speech: what is learned of them, and how it is measured."""

import numpy as np
import pytest
import torch

from distill.audio_llm.data.examples import load_examples
from distill.audio_llm.validation import no_speech
from distill.data.files import read_jsonl, write_jsonl
from distill.losses.token_losses import IGNORE
from distill.metrics.thresholds import share_interval
from eval.audio_llm.measure import evaluate, table
from tests.audio_llm.test_training import load, recipe, task_of, trained  # noqa: F401


@pytest.fixture(scope="module")
def with_silence(recipe):  # noqa: F811
    rows = read_jsonl(recipe.parent / "train.jsonl")
    clip = {key: rows[0][key] for key in ("audio_filepath", "duration")}
    silent = [{**clip, "audio_filepath": f"{n}.wav", "id": f"no{n}", "answer": "<no speech>",
               "heard": ""} for n in (2, 4)]
    write_jsonl(recipe.parent / "silent.jsonl", [*rows[:8], *silent])
    return f"data.train=[{recipe.parent}/silent.jsonl]"


def test_nothing_is_said_to_ctc(recipe, trained, with_silence):  # noqa: F811
    task = task_of(recipe, trained, 0, with_silence)
    silent = [n for n, each in enumerate(task.examples) if each.heard == ""]
    assert len(silent) == 2, "kept, since it is known that nothing is said"
    batch = task.collate([(silent[0], 0), (0, 0)])
    assert batch["sizes"][0] == 0 < batch["sizes"][1]
    assert task.count(batch) == batch["sizes"][1] + 1
    with torch.no_grad():
        loss, _ = task.model(batch)
    unknown = {**batch, "sizes": batch["sizes"].clone()}
    unknown["sizes"][0] = -1
    with torch.no_grad():
        less, _ = task.model(unknown)
    steps = int(batch["lengths"][0])
    with torch.no_grad():
        audio = task.student.adapter(batch["states"], batch["lengths"])
        blank = task.student.ctc.log_probabilities(audio)[0, :steps, 0]
    assert float(loss - less) == pytest.approx(-float(blank.sum()), rel=1e-4)


def test_the_teacher_does_not_read_where_nobody_speaks(recipe, trained, with_silence):  # noqa: F811
    task = task_of(recipe, trained, 1, with_silence, "loss.kl_weight=1.0")
    silent = next(n for n, each in enumerate(task.examples) if each.heard == "")
    assert task.examples[silent].answer == "<no speech>", "not made plain"
    torch.nn.init.normal_(next(iter(task.student.lora_layers().values())).weight)
    alone, both = task.collate([(silent, 0)]), task.collate([(0, 0), (silent, 0)])
    loss, parts = task.model(alone)
    assert parts["kl"] == 0 and torch.allclose(loss, parts["ce"])
    assert (alone["read_labels"] == IGNORE).all()
    first, first_parts = task.model(task.collate([(0, 0)]))
    loss_both, parts_both = task.model(both)
    assert torch.allclose(loss_both, loss + first, rtol=1e-4)
    assert torch.allclose(parts_both["kl"], first_parts["kl"], rtol=1e-3)


def test_shares():
    told = no_speech(["<no speech>"] * 4 + ["a b", "c"],
                     ["<no speech>", "no speech", "<no speech>", "a", "a b", "<no speech>"])
    assert (told["num_without_speech"], told["answered_so"]) == (4, 0.5)
    assert (told["num_with_speech"], told["speech_answered_so"]) == (2, 0.5)
    low, high = share_interval(10, 10)
    assert (low, high) == (pytest.approx(0.7225, abs=1e-3), 1.0), "Wilson's"
    assert share_interval(0, 10) == pytest.approx([0, 1 - low])
    assert "answered_so" not in no_speech(["a"], ["a"])


def test_results(recipe, trained, with_silence):  # noqa: F811
    run = trained.parent / "measured"
    (run / "eval").mkdir(parents=True)
    (run / "student").symlink_to(trained / "student")
    loaded = load(recipe, run, with_silence.replace("data.train", "data.test"))
    examples, _ = load_examples(loaded, loaded.data.test)
    assert sum(each.answer == "<no speech>" for each in examples) == 2
    found = evaluate(loaded, run)
    assert found["no_speech"]["num_without_speech"] == 2
    assert found["tasks"]["say"]["num_examples"] == 4, "not counted as words"
    assert "of 2 clips without speech and" in table(found)
    rows = read_jsonl(run / "eval" / "predictions.jsonl")
    assert len(rows) == 10 and np.sum([row["reference"] == "<no speech>" for row in rows]) == 2
