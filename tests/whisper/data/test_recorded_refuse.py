"""Training on scores of something else, or on broken ones, is refused and says why."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from distill.data.files import read_jsonl, write_jsonl
from distill.data.teacher_store import StoreError, TeacherStore
from distill.testing import write_tiny_teacher
from distill.whisper.data.scoring import scores_folder, states_folder
from pseudo_label.scores import score

NO_STATES = "scores.encoder_states=none"


def refusal(tiny_run, recipe) -> str:
    with pytest.raises(StoreError) as caught:
        tiny_run.task(recipe)
    return str(caught.value)


@pytest.fixture
def copied(tiny_run, tmp_path):
    """Recipe of a copy of the stores that labelling made; it may be broken."""
    recipe = tiny_run.recipe(f"scores.dir={tmp_path / 'scores'}")
    shutil.copytree(tiny_run.recipe().scores.dir, recipe.scores.dir)
    return recipe


def test_the_copy_is_not_refused(tiny_run, copied):
    assert tiny_run.task(copied).recorded is not None


@pytest.fixture
def teacher(tiny_run, tmp_path):
    """(folder of a teacher that may be changed, recipe of what it said)."""
    folder = shutil.copytree(tiny_run.folder / "teacher", tmp_path / "teacher")
    recipe = tiny_run.recipe(f"teacher.model={folder}", f"scores.dir={tmp_path / 'scores'}",
                             NO_STATES, "train.max_steps=1")
    score(recipe)
    return folder, recipe


def test_another_teacher_of_the_same_name(tiny_run, teacher, tmp_path):
    folder, recipe = teacher
    other = write_tiny_teacher(tmp_path / "other", seed=1)
    before = TeacherStore(scores_folder(recipe)).settings["revision"]
    shutil.copy(other / "model.safetensors", folder)
    message = refusal(tiny_run, recipe)
    assert re.search(rf'  revision: the store has "{before}", asked for "[0-9a-f]+"', message)
    assert message.count("the store has") == 1 and "was scored with other settings" in message
    recipe.teacher.model = str(other)
    message = refusal(tiny_run, recipe)
    assert f'  teacher: the store has "{folder}", asked for "{other}"' in message


def test_another_tokenizer(tiny_run, teacher):
    """The same number of ids, two of them changed places."""
    folder, recipe = teacher
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    ids = content["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    path.write_text(json.dumps(content))
    message = refusal(tiny_run, recipe)
    assert "  tokenizer: the store has" in message and message.count("the store has") == 1


@pytest.mark.parametrize(("override", "lines"), [
    ("scores.k=32", ["k: the store has 64, asked for 32"]),
    ("loss.temperature=1.5", ["temperatures: the store has [1.0, 2.0], asked for [1.0, 1.5]"]),
    ("scores.method=top_k", ['method: the store has "head_and_sampled", asked for "top_k"']),
    ("scores.method=decoder_state", [
        'decoder_states: the store has nothing, asked for ["last"]',
        "k: the store has 64, asked for nothing"]),
    ("loss.hidden_weight=1", [
        'decoder_states: the store has nothing, asked for [3, "last"]']),
    (NO_STATES, ['encoder_states: the store has "float16", asked for "float32"']),
    ("teacher.short_audio_margin=1", [
        "short_audio_margin: the store has nothing, asked for 1.0",
        "silence: the store has nothing, asked for 2",
        "silence_level: the store has nothing, asked for -0.65",
        "silence_every: the store has nothing, asked for 2"]),
    ("scores.encoder_states_dtype=int8", [
        'encoder_states: the store has "float16", asked for "int8"']),
])
def test_other_settings(tiny_run, override, lines):
    message = refusal(tiny_run, tiny_run.recipe(override))
    for line in lines:
        assert f"\n  {line}\n" in message
    assert "use the store's settings, score into another folder" in message


def test_encoder_states_of_another_type(tiny_run, copied):
    """Token scores that fit beside states that do not."""
    copied.scores.encoder_states_dtype = "bfloat16"
    shutil.rmtree(scores_folder(copied))
    copied.loss.kl_weight = 0.0
    message = refusal(tiny_run, copied)
    assert 'dtype: the store has "float16", asked for "bfloat16"' in message
    assert str(states_folder(copied)) in message


def test_encoder_states_of_another_margin(tiny_run, tmp_path):
    """Where nothing is scored, and there is no other store to tell."""
    options = ("teacher.short_audio_margin=0.5", "loss.kl_weight=0", "train.max_steps=1",
               f"scores.dir={tmp_path}")
    score(tiny_run.recipe(*options))
    message = refusal(tiny_run, tiny_run.recipe(*options[1:]))
    assert "\n  short_audio_margin: the store has 0.5, asked for nothing\n" in message


def shard_of(recipe, folder) -> Path:
    return TeacherStore(folder(recipe)).shards[0].path


@pytest.mark.parametrize("folder", [scores_folder, states_folder])
def test_a_flipped_bit(tiny_run, copied, folder):
    path = shard_of(copied, folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = refusal(tiny_run, copied)
    assert message.startswith(f"{path}: its content does not match its checksum")
    assert "run `make NAME.label`" in message


@pytest.mark.parametrize("folder", [scores_folder, states_folder])
def test_a_truncated_shard(tiny_run, copied, folder):
    path = shard_of(copied, folder)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 1000])
    message = refusal(tiny_run, copied)
    assert message.startswith(f"{path}: truncated: {size - 1000:,} of {size:,} bytes")
    assert "run `make NAME.label`" in message


def test_a_lost_shard_and_its_repair(tiny_run, copied):
    path = shard_of(copied, states_folder)
    views = TeacherStore(states_folder(copied)).num_views
    path.unlink()
    message = refusal(tiny_run, copied)
    assert re.match(rf"{states_folder(copied)}: \d of {views} views are missing", message)
    score(copied)
    tiny_run.task(copied)
    assert TeacherStore(states_folder(copied)).num_views == views


def test_no_store(tiny_run, tmp_path):
    message = refusal(tiny_run, tiny_run.recipe(f"scores.dir={tmp_path}"))
    assert message.startswith(f"no teacher store in {tmp_path / 'tokens'}")
    assert "run `make NAME.label`" in message


def missing_in(message: str) -> tuple[int, int]:
    """(missing views, views of the run)."""
    assert "run `make NAME.label`: it scores only what is missing" in message
    return tuple(map(int, re.search(r"([\d,]+) of ([\d,]+) views are missing", message).groups()))


def test_a_label_edited_under_the_same_id(tiny_run, copied, tmp_path):
    labels = tmp_path / "labels"
    shutil.copytree(copied.labels_dir, labels, ignore=shutil.ignore_patterns("scores"))
    rows = read_jsonl(labels / "kept.jsonl")
    rows[3]["tokens"][1] += 1
    write_jsonl(labels / "kept.jsonl", rows)
    source = tiny_run.source(tiny_run.recipe())
    edited = [view for view in source.views_of_run() if view.id == rows[3]["id"]]
    copied.labels_dir = str(labels)
    message = refusal(tiny_run, copied)
    assert missing_in(message) == (len(edited), len(source.views_of_run()))
    assert f'"id":"{rows[3]["id"]}"' in message  # and not another one


def test_more_steps_than_were_scored(tiny_run, copied):
    source = tiny_run.source(copied)
    before = set(source.views_of_run())
    copied.train.max_steps = 30
    after = tiny_run.source(copied).views_of_run()
    assert missing_in(refusal(tiny_run, copied)) == (len(set(after) - before), len(after))
    store = TeacherStore(scores_folder(copied))
    shards = {shard.name for shard in store.shards}
    score(copied)
    assert tiny_run.task(copied).recorded is not None
    store.refresh()
    assert store.num_views == len(after), "what was there was scored again"
    assert shards < {shard.name for shard in store.shards}


@pytest.mark.parametrize("key", ["seed", "probability"])
def test_other_draws(tiny_run, copied, key):
    if key == "seed":
        copied.seed = 1
    else:
        copied.views.timestamp_probability = 1.0
    source, scored = tiny_run.source(copied), tiny_run.source(tiny_run.recipe())
    new = set(source.views_of_run()) - set(scored.views_of_run())
    assert missing_in(refusal(tiny_run, copied)) == (len(new), len(source.views_of_run()))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_weights_in_parts_and_short_audio(tiny_run, kind):
    """An encoder that runs layer by layer would find empty weights."""
    live = ("teacher.mode=live", "train.max_steps=1")
    for options, is_refused in ((live, False), ((*live, "teacher.short_audio_margin=0.5"), True)):
        task = tiny_run.task(tiny_run.recipe(*options))
        task.accelerator = SimpleNamespace(distributed_type=getattr(DistributedType, kind))
        if is_refused:
            with pytest.raises(ValueError, match="short_audio_margin: FSDP .*encoder_states=disk"):
                task._check_shards()
        else:
            task._check_shards()
