"""Stages through the loop with tiny random models: losses, resumption, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from distill.audio_llm.data.examples import load_examples, plain
from distill.audio_llm.recipe import stages_of
from distill.config import ConfigError
from distill.data.files import read_jsonl, write_jsonl
from distill.losses.token_losses import IGNORE
from distill.methods import build_task, load_recipe
from distill.train import main as train
from eval.audio_llm.ask import main as ask
from eval.audio_llm.doctor import main as doctor
from eval.audio_llm.listening import gap, verdict
from eval.audio_llm.parts import load_model, load_split

RECIPE = """\
method: audio_llm
num_threads: 1
data: {{train: [train.jsonl], validation: [train.jsonl], allow_overlap: true}}
encoder: {{model: {encoder}, batch_size: 4, short_audio_margin: 1.0}}
language_model: {{model: {llm}}}
adapter: {{frame_ms: 80, hidden_size: 16}}
lora: {{rank: 4, alpha: 8}}
lower_case: true
tasks:
  - {{name: say, prompt: Say it., kind: recognition}}
  - {{name: kind, prompt: Which?}}
stages:
  - {{name: warm, trains: [adapter], loss: ctc, max_steps: 4, tasks: [say]}}
  - {{name: listen, trains: [adapter, lora], batch_size: 4}}
train: {{max_steps: 6, batch_size: 8, micro_batch_size: 4, learning_rate: 1e-2, warmup_steps: 1,
        log_every: 1, save_every: 2, validate_every: 3}}
evaluation: {{max_new_tokens: 6, batch_size: 4, num_bootstrap: 200}}
"""


@pytest.fixture(scope="module")
def recipe(tiny_teacher, tiny_llm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llm_recipe")
    rows, generator = [], np.random.default_rng(0)
    for number in range(8):
        high = number % 2
        time = np.arange(24_000 + 3_200 * (number // 2 % 2)) / 16_000
        sound = 0.5 * np.sin(2 * np.pi * (300, 3000)[high] * time)
        sound += 0.01 * generator.standard_normal(len(time))
        soundfile.write(folder / f"{number}.wav", sound, 16_000)
        clip = {"audio_filepath": f"{number}.wav", "duration": len(time) / 16_000,
                "language": "en"}
        rows.append({"id": f"say{number}", **clip, "text": ("A.", "B!")[high]})
        rows.append({"id": f"kind{number}", **clip, "task": "kind", "answer": ("low", "high")[high],
                     "spoken": ("a", "b")[high], "options": ["low", "high", "none"]})
    write_jsonl(folder / "train.jsonl", rows)
    (folder / "recipe.yaml").write_text(
        RECIPE.format(encoder=tiny_teacher, llm=tiny_llm), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    train([str(recipe), f"output_dir={run}"])
    return run


def load(recipe, run, *overrides: str):
    return load_recipe(str(recipe), [f"output_dir={run}", *overrides])


def task_of(recipe, run, number=1, *overrides: str):
    stage = stages_of(load(recipe, run, *overrides))[number]
    return build_task(stage, Accelerator())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "audio_llm.safetensors")


def test_stages_follow_each_other(trained, recipe):
    warm = weights(trained / "stages" / "warm")
    assert all(not each.any() for name, each in warm.items() if "lora_B" in name)
    last = weights(trained)
    assert any(each.any() for name, each in last.items() if "lora_B" in name)
    assert torch.equal(warm["adapter.blank"], last["adapter.blank"]), "no CTC in the last stage"
    rows = read_jsonl(trained / "metrics.jsonl")
    measured = [row for row in rows if row["split"] == "validation"]
    assert {"wer_say", "accuracy_kind", "nll", "nll_gap", "score"} <= set(measured[-1])
    first = read_jsonl(trained / "stages" / "warm" / "metrics.jsonl")
    assert {"wer_say", "score"} <= set(first[-1])
    stages = stages_of(load(recipe, trained))
    assert [each.output_dir for each in stages] == [f"{trained}/stages/warm", str(trained)]
    assert stages[1].start == f"{trained}/stages/warm/student" and stages[1].train.batch_size == 4


def test_resumed_is_uninterrupted(trained, recipe, tmp_path):
    """Killed after step 4 of the last stage: the same bits."""
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("student", "student.json"))
    shutil.copytree(trained / "stages", run / "stages", dirs_exist_ok=True)
    shutil.rmtree(run / "checkpoints" / "step-000006")
    train([str(recipe), f"output_dir={run}"])
    before, after = weights(trained), weights(run)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_encoder_runs_once(trained, recipe, monkeypatch):
    from distill.audio_llm.data import encoders

    def refuse(*_):
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(encoders, "encode_each", refuse)
    assert len(task_of(recipe, trained).examples) == 16


def test_the_mask_is_the_answer(trained, recipe):
    task = task_of(recipe, trained)
    batch = task.collate([(0, 0), (1, 0), (2, 0)])
    tokenizer = task.student.tokenizer
    for row, example in zip(batch["labels"], task.examples[:3], strict=True):
        learned = row[row != IGNORE].tolist()
        assert tokenizer.decode(learned) == f" {example.answer}<|im_end|>"
        first = int((row != IGNORE).nonzero()[0])
        assert (row[first : first + len(learned)] != IGNORE).all(), "one run"
    assert task.count(batch) == int((batch["labels"] != IGNORE).sum())


def test_kl_of_the_teacher_to_itself_is_zero(trained, recipe):
    """The student reads, too, and its LoRA changes nothing yet: both are one model."""
    stage = stages_of(load(recipe, trained, "loss.kl_weight=1", "loss.temperature=2"))[1]
    stage.start = None
    task = build_task(stage, Accelerator())
    batch = task.collate([(index, 0) for index in range(4)])
    _, parts = task.model(batch)
    assert parts["kl"] > 0.01, "audio says less than its transcript"
    read = dict(batch, ids=batch["read_ids"], labels=batch["read_labels"],
                lengths=torch.zeros(4, dtype=torch.int64))
    _, parts = task.model(read)
    assert parts["kl"].item() == 0.0


def test_kl_has_a_gradient_for_the_adapter(trained, recipe):
    task = build_task(stages_of(load(recipe, trained, "loss.kl_weight=1"))[1], Accelerator())
    batch = task.collate([(0, 0), (1, 0)])
    loss, _ = task.model(batch)
    loss.backward()
    still = [name for name, weight in task.model.named_parameters()
             if weight.requires_grad and (weight.grad is None or not weight.grad.any())]
    # LoRA's first factors get one as soon as the second ones are not zero
    assert all("lora_A" in name for name in still), still


def test_rates_of_parts(trained, recipe, tmp_path):
    """An adapter whose learning rate is 0 stays where it was; LoRA learns."""
    changes = ("stages=[{name: only, trains: [adapter, lora], adapter_rate: 0}]",
               "train.max_steps=2")
    train([str(recipe), f"output_dir={tmp_path}", *changes])
    task = task_of(recipe, tmp_path, 0, *changes)
    fresh, found = task.student.trained_state(), weights(tmp_path)
    assert all(torch.equal(found[name], fresh[name]) for name in found if "adapter" in name)
    assert any(each.any() for name, each in found.items() if "lora_B" in name)


def test_examples(recipe):
    loaded = load_recipe(str(recipe), [])
    examples, drops = load_examples(loaded, loaded.data.train)
    say, kind = examples[:2]
    assert (say.question, say.answer, say.spoken) == ("Say it.", "a", "a"), "lower case"
    assert (kind.task.name, kind.answer, kind.spoken) == ("kind", "low", "a")
    assert not +drops
    assert len(load_examples(loaded, loaded.data.train, ["say"])[0]) == 8
    assert plain("Don't press 1, please!") == "don't press 1 please"


def test_rows_that_cannot_be_used(recipe, tmp_path):
    loaded, path = load_recipe(str(recipe), []), tmp_path / "train.jsonl"
    clip = {"audio_filepath": "a.wav", "duration": 1.0}
    write_jsonl(path, [{**clip, "id": "1", "text": "a"}, {**clip, "id": "2", "text": " "}])
    assert load_examples(loaded, [str(path)])[1]["no_answer"] == 1
    write_jsonl(path, [{**clip, "id": "1", "task": "sing"}])
    with pytest.raises(ValueError, match="its task 'sing' is none of the recipe's: say, kind"):
        load_examples(loaded, [str(path)])
    write_jsonl(path, [{**clip, "id": "1", "answer": 3}])
    with pytest.raises(ValueError, match="line 1: answer must be a text, got 3"):
        load_examples(loaded, [str(path)])
    write_jsonl(path, [{**clip, "id": "1", "answer": "a", "options": ["a", "b"], "means": ["yes"]}])
    with pytest.raises(ValueError, match="means must have one text for each of its 2 options"):
        load_examples(loaded, [str(path)])


@pytest.mark.parametrize("override, message", [
    ("layout=chatml", "layout must be one of"),
    ("adapter.frame_ms=50", "a multiple of the encoder's 20 ms, got 50"),
    ("stages=[{name: a, trains: [encoder]}]", "stages.a.trains must be some of"),
    ("stages=[{name: a, trains: [adapter, lora], loss: ctc}]", "no language model runs"),
    ("stages=[{name: a, trains: [lora], tasks: [sing]}]", "stages.a.tasks must be names of"),
    ("stages=[]", "stages must be a list of at least one stage"),
    ("stages=[{name: a, trains: [lora], learning_rate: 0}]", "stages.a: train.learning_rate"),
    ("tasks=[{name: a, prompt: b, kind: c}]", "tasks.a.kind must be one of"),
])
def test_recipes_that_cannot_be_used(recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(recipe), [override])


def test_another_encoder_is_refused(trained, recipe):
    split = load_split(load(recipe, trained), "validation")
    path = trained / "student" / "audio_llm.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(text) | {"encoder_revision": "another"}))
        with pytest.raises(ValueError, match="trained with revision another of its encoder"):
            load_model(trained / "student", split.encoder)
    finally:
        path.write_text(text)


def test_the_doctor_of_a_deaf_model(recipe, tmp_path, capsys):
    """Trained on answers alone: LoRA with an adapter that says nothing but silence."""
    run = tmp_path / "run"
    train([str(recipe), f"output_dir={run}", "stages=[{name: only, trains: [lora]}]",
           "train.max_steps=1"])
    path = run / "student" / "audio_llm.safetensors"
    state = load_file(path)
    state["adapter.body.out.weight"].zero_()  # whatever is heard, the same comes out
    save_file(state, path)
    assert doctor([str(recipe), f"output_dir={run}"]) == 1
    text = capsys.readouterr().out
    assert "DEAF. Likely cause: all clips have nearly the same embedding" in text
    assert json.loads((run / "eval" / "doctor.json").read_text())["nll_gap"] == pytest.approx(
        0, abs=1e-4)  # the same sums in batches of other neighbours


def test_all_layers(recipe, tmp_path):
    """LTU-AS's adapter through the same stages, and a model that is loaded again."""
    run = tmp_path / "run"
    changes = ["adapter.kind=tltr", "layout=ltu_as", "tell_transcript=true", "train.max_steps=2",
               "stages=[{name: only, trains: [adapter, lora], loss: text}]"]
    train([str(recipe), f"output_dir={run}", *changes])
    split = load_split(load(recipe, run, *changes), "validation")
    model = load_model(run / "student", split.encoder)
    assert split.states[0].shape == (4, 2 * 32), "1.5 s in steps of 0.4 s, two layers"
    assert len(model.generate(split.states[:2], ["a", "b"], ["c", None], max_new_tokens=2)) == 2


def test_asking(trained, recipe, capsys):
    folder, model = recipe.parent, str(trained / "student")
    assert ask([str(folder / "0.wav"), "What?", "--model", model, "--max-new-tokens", "4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1
    assert ask([str(folder / "0.wav"), str(folder / "no.wav"), "--model", model, "--task", "kind",
                "--question", "Who?"]) == 1
    assert "no.wav: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="--task must be one of say, kind, got 'sing'"):
        ask([str(folder / "0.wav"), "--model", model, "--task", "sing"])


def test_the_gap_has_an_interval():
    right = np.array([[1.0, 2], [2.0, 4], [3.0, 2]])
    value, (low, high) = gap(right, right + [[2.0, 0]], 500, 0)
    assert value == pytest.approx(6 / 8) and low <= value <= high
    assert gap(right, right, 500, 0) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("changes, deaf, words", [
    ({}, False, None),
    ({"empty_answers": 0.9}, False, "raise the end's bias"),
    ({"prompt_echoes": 0.5}, False, "the same layout"),
    ({"nll_gap_ci": (-0.1, 0.2)}, True, "learning rate not 0"),
    ({"nll_gap_ci": (0.0, 0.2), "audio_to_text_rms": 40.0}, True, "adapter.match_embeddings"),
    ({"nll_gap_ci": (0.0, 0.2), "audio_similarity": 0.99}, True, "collapsed"),
])
def test_what_the_doctor_says(changes, deaf, words):
    found = verdict({"nll_gap_ci": (1.0, 2.0), "empty_answers": 0.0, "prompt_echoes": 0.0,
                     "audio_to_text_rms": 1.0, "audio_similarity": 0.1} | changes)
    assert found["deaf"] is deaf
    assert found["cause"] is None if words is None else words in found["cause"]


def test_a_launch_that_cuts_weights_is_refused():
    from types import SimpleNamespace

    from accelerate.utils import DistributedType

    from distill.audio_llm.task import check_whole

    def launch(kind: str, stage: int = 0) -> SimpleNamespace:
        plugin = SimpleNamespace(zero_stage=stage)
        return SimpleNamespace(distributed_type=DistributedType[kind],
                               state=SimpleNamespace(deepspeed_plugin=plugin))

    for whole in (launch("NO"), launch("MULTI_GPU"), launch("DEEPSPEED", 2)):
        check_whole(whole)
    for cut in (launch("FSDP"), launch("DEEPSPEED", 3)):
        with pytest.raises(ValueError, match="launch it with ddp.yaml or deepspeed_zero2.yaml"):
            check_whole(cut)
