"""Scoring views: killed, spread over ranks, topped up, refused, on a full disk."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

import pseudo_label.__main__ as label_command
from distill.data.files import read_jsonl, write_jsonl
from distill.data.teacher_store import StoreError, TeacherStore
from distill.testing import write_tiny_recipe
from distill.whisper.recipe import load_recipe
from pseudo_label import scores

# A window a clip or two, so that there are many.
COMMON = ("num_threads=1", "pseudo_label.window_seconds=9", "train.max_steps=12")
NO_STATES = ("scores.encoder_states=none", "scores.shard_views=3")


@pytest.fixture(scope="module")
def labelled(small_teacher, tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, folder with labels that nobody has scored)."""
    folder = tmp_path_factory.mktemp("scores")
    recipe = write_tiny_recipe(folder, small_teacher, train=14)
    labels = folder / "labels"
    label_command.main([str(recipe), f"labels_dir={labels}", *COMMON, "teacher.mode=live"])
    for path in labels.glob("part-*.jsonl"):  # random teachers are never right
        rows = read_jsonl(path)
        write_jsonl(path, [{**row, "wer": 0.05 if i % 2 else 1.0} for i, row in enumerate(rows)])
    return recipe, labels


def num_windows(labelled) -> int:
    return sum(len(read_jsonl(path)) for path in labelled[1].glob("part-*.jsonl"))


def arguments(labelled, folder: Path, *overrides: str) -> list[str]:
    recipe, labels = labelled
    return [str(recipe), f"labels_dir={labels}", f"scores.dir={folder}", *COMMON, *overrides]


def fill(labelled, folder: Path, *overrides: str) -> list[str]:
    found = arguments(labelled, folder, *overrides)
    scores.main(found)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """All files. recipe.yaml names the folder, .checked.json the times of files."""
    return {
        str(path.relative_to(folder)): b"" if path.name == "recipe.yaml" else path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".checked.json"
    }


def shards(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name.endswith(".h5")}


def views(found: list[str]) -> dict[str, object]:
    """Key in the store -> view, of all the views a run wants."""
    source = source_of(found)[1]
    return {source.scores_key(view): view for view in source.views_of_run()}


def source_of(found: list[str]):
    from distill.whisper.data.view_source import ViewSource
    from distill.whisper.teacher import load_teacher

    recipe = load_recipe(found[0], found[1:])
    teacher = load_teacher(recipe.teacher)
    config = teacher.model.config
    source = ViewSource(recipe, teacher.processor, teacher.model.generation_config,
                        config.max_target_positions)
    return teacher, source


def accept(found: list[str]) -> None:
    """Open the stores as training does, which refuses whatever is not exactly as it should be."""
    from distill.whisper.data.recorded import RecordedTeacher

    teacher, source = source_of(found)
    recorded = RecordedTeacher(source.recipe, teacher, source, check=True)
    assert recorded(source.batches.update(0)[:2])["teacher"]


# Processes

def finish(process, log: Path) -> None:
    process.join(60)
    assert process.exitcode == 0, log.read_text()


def wait_for_shards(process, folder: Path, count: int) -> None:
    while process.is_alive() and len(list(folder.rglob("shard-*.h5"))) < count:
        time.sleep(0.001)


def test_sigkill_at_random_moments_changes_nothing(labelled, fork, tmp_path):
    """Three kills, spread over the fill, each at a random moment after some shard."""
    fill(labelled, tmp_path / "whole", "scores.shard_views=1")
    whole = tree(tmp_path / "whole")
    total = len(shards(tmp_path / "whole"))
    assert total > 30
    folder, log = tmp_path / "killed", tmp_path / "log"
    found = arguments(labelled, folder, "scores.shard_views=1")
    seed = int(time.time())
    moments = random.Random(seed)
    for kill in range(3):
        process = fork("pseudo_label.scores", found, log)
        before = len(shards(folder))
        wait_for_shards(process, folder, max(before, kill * total // 4) + 1)
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -9, f"it was over before it was killed (seed {seed})"
    assert 0 < len(shards(folder)) < total
    finish(fork("pseudo_label.scores", found, log), log)
    assert tree(folder) == whole, f"seed {seed}"
    text = log.read_text()
    assert " views are there already" in text and "windows are there already" in text
    accept(found)


@pytest.fixture(scope="module")
def one(labelled, tmp_path_factory) -> dict[str, bytes]:
    """Shards as one process fills them."""
    folder = tmp_path_factory.mktemp("one")
    fill(labelled, folder, *NO_STATES)
    return shards(folder)


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.slow)],
                         ids=["together", "late"])
def test_two_ranks_fill_what_one_fills(labelled, one, fork, tmp_path, late):
    folder, log = tmp_path / "two", tmp_path / "log"
    found = arguments(labelled, folder, *NO_STATES)
    ranks = [fork("pseudo_label.scores", found, log, RANK="0", WORLD_SIZE="2")]
    if late:
        wait_for_shards(ranks[0], folder, 2)
    ranks.append(fork("pseudo_label.scores", found, log, RANK="1", WORLD_SIZE="2"))
    for process in ranks:
        finish(process, log)
    assert shards(folder) == one
    store = TeacherStore(folder / "tokens")
    assert store.num_views == len(store.all_rows()) == len(views(found))
    accept(found)


def test_a_rank_alone_writes_its_share(labelled, one, tmp_path, monkeypatch):
    found = arguments(labelled, tmp_path, *NO_STATES)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    scores.main(found)
    share = shards(tmp_path)
    assert 0 < len(share) < len(one)
    with pytest.raises(StoreError, match="views are missing.*scores only what is missing"):
        accept(found)
    monkeypatch.setenv("RANK", "0")
    scores.main(found)
    assert shards(tmp_path) == one and share.items() < one.items()


@pytest.mark.parametrize("augmented", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_ranks_share_encoder_states(labelled, tmp_path, monkeypatch, augmented):
    """A rank scores views whose windows another rank is to encode, and may not be there yet."""
    more = (f"views.augment.probability={augmented}", "scores.shard_views=2", "train.max_steps=4")
    found = arguments(labelled, tmp_path, *more)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        scores.main(found)
        if rank == "1":
            with pytest.raises(StoreError, match="views are missing"):
                accept(found)
    accept(found)


# What is paid for again

MORE = {
    "more steps": ("train.max_steps=8",),
    "another threshold": ("filter.max_wer=null",),
    "another seed": ("seed=1",),
    "other batches": ("train.batch_tokens=300",),
}


@pytest.mark.parametrize("changes", [pytest.param(
    changes, id=name, marks=[pytest.mark.slow] * (name in ("another seed", "other batches")))
    for name, changes in MORE.items()])
def test_only_what_is_new_is_scored(labelled, tmp_path, capsys, changes):
    first = ("filter.max_wer=0.1", "train.max_steps=4", *NO_STATES)
    before = views(fill(labelled, tmp_path, *first))
    kept = shards(tmp_path)
    capsys.readouterr()
    found = fill(labelled, tmp_path, *first, *changes)
    printed = capsys.readouterr().out
    wanted = views(found)
    there, new = wanted.keys() & before.keys(), wanted.keys() - before.keys()
    assert there and new, "the test would pass on a store that is never reused"
    assert f"{len(there)} of {len(wanted)} views are there already" in printed
    assert f"{len(new)} new in" in printed
    store = TeacherStore(tmp_path / "tokens")
    assert store.num_views == len(store.all_rows()) == len(before) + len(new)
    assert kept.items() < shards(tmp_path).items(), "nothing that was sealed is touched"
    accept(found)


def test_a_complete_run_says_so_and_writes_nothing(labelled, tmp_path, capsys):
    found = fill(labelled, tmp_path, "scores.shard_views=8")
    before = tree(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.h5")}
    capsys.readouterr()
    scores.main(found)
    printed = capsys.readouterr().out
    count = len(views(found))
    assert f"{count} of {count} views are there already" in printed
    windows = num_windows(labelled)
    assert windows > 8 and f"{windows} of {windows} windows are there already" in printed
    assert " new in " not in printed
    assert tree(tmp_path) == before
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.h5")}


def test_other_settings_are_refused_and_named(labelled, tmp_path):
    few = ("train.max_steps=2", *NO_STATES)
    found = fill(labelled, tmp_path / "scores", *few)
    teacher = Path(load_recipe(found[0], []).teacher.model)
    others = {name: tmp_path / name for name in ("weights", "tokenizer")}
    for folder in others.values():
        shutil.copytree(teacher, folder)
    weights = bytearray((teacher / "model.safetensors").read_bytes())
    weights[-2] ^= 1  # of the last value's sign, exponent and fraction
    (others["weights"] / "model.safetensors").write_bytes(weights)
    text = (teacher / "tokenizer.json").read_text()
    vocabulary = json.loads(text)
    words = vocabulary["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (others["tokenizer"] / "tokenizer.json").write_text(json.dumps(vocabulary))
    before = tree(tmp_path / "scores")
    for overrides, named, same in [
        ((f"teacher.model={others['weights']}",), {"teacher", "revision"}, {"tokenizer"}),
        ((f"teacher.model={others['tokenizer']}",), {"teacher", "tokenizer"}, {"revision"}),
        (("scores.k=8",), {"k"}, {"method"}),
        (("scores.method=top_k",), {"method"}, {"k"}),
        (("loss.temperature=3.0",), {"temperatures"}, {"k"}),
        (("loss.hidden_weight=1.0",), {"decoder_states"}, {"k"}),
    ]:
        with pytest.raises(StoreError, match="other settings") as error:
            fill(labelled, tmp_path / "scores", *few, *overrides)
        lines = str(error.value).splitlines()
        keys = {line.split(":")[0].strip() for line in lines if line.startswith("  ")}
        assert named <= keys and not same & keys
        assert "into another folder" in lines[-1]
    assert tree(tmp_path / "scores") == before


def test_other_encoder_states_are_refused(labelled, tmp_path):
    fill(labelled, tmp_path, "train.max_steps=1")
    with pytest.raises(StoreError, match='dtype: the store has "float16", asked for "int8"'):
        fill(labelled, tmp_path, "train.max_steps=1", "scores.encoder_states_dtype=int8")


# How often the teacher is asked

@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Windows of every call of an encoder."""
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    counts, forward = [], WhisperEncoder.forward

    def counting(self, input_features, *others, **named):
        counts.append(len(input_features))
        return forward(self, input_features, *others, **named)

    monkeypatch.setattr(WhisperEncoder, "forward", counting)
    return counts


@pytest.mark.parametrize(
    ("states", "augmented"),
    [("disk", 0.5), ("memory", 0.0), ("none", 0.5),
     *(pytest.param("disk", share, marks=pytest.mark.slow) for share in (0.0, 1.0))],
)
def test_how_often_windows_are_encoded(labelled, tmp_path, encoded, states, augmented):
    found = [str(labelled[0]), f"output_dir={tmp_path}", *COMMON, "train.max_steps=4",
             f"scores.encoder_states={states}", f"views.augment.probability={augmented}"]
    label_command.main(found)
    run = views(found)
    heard = [view for view in run.values() if view.augmentation]
    assert bool(heard) == (augmented > 0)
    # labelling hears every window as it is, scoring what it was not told by labelling
    again = len(heard) if states == "disk" else len(run)
    windows = num_windows(labelled)
    assert sum(encoded) == windows + again
    folder = tmp_path / "pseudo_labels" / "scores"
    assert (folder / "encoder_states").exists() == (states == "disk")
    if states == "disk":
        store = TeacherStore(folder / "encoder_states")
        plain = windows if augmented < 1 else 0
        assert store.num_views == len(store.all_rows()) == plain + len(heard)
    encoded.clear()
    scores.main(found)
    assert not encoded, "a complete run asks nobody"


def test_nothing_is_written_that_nobody_reads(labelled, tmp_path):
    fill(labelled, tmp_path / "live", "teacher.mode=live")
    assert not (tmp_path / "live").exists()
    fill(labelled, tmp_path / "ce", "loss.kl_weight=0", "train.max_steps=1")
    assert [path.name for path in (tmp_path / "ce").iterdir()] == ["encoder_states"]
    fill(labelled, tmp_path / "exact", "scores.method=decoder_state", "train.max_steps=1",
         *NO_STATES)
    store = TeacherStore(tmp_path / "exact" / "tokens")
    assert list(store.read(store.all_rows()[0])) == ["hidden"]


def test_a_full_disk_keeps_what_is_sealed(labelled, tmp_path, monkeypatch):
    few = ("train.max_steps=4", "scores.shard_views=2")
    fill(labelled, tmp_path / "whole", *few)
    folder = tmp_path / "scores"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "distill.data.teacher_store.disk.shutil.disk_usage",
        lambda path: usage(10**9, 0, 10**9 if len(shards(folder)) < 8 else 123),
    )
    with pytest.raises(StoreError, match=r"no room to write shard-.*123 are free.*shards stay"):
        fill(labelled, folder, *few)
    sealed = tree(folder)
    assert len(shards(folder)) == 8 and not [name for name in sealed if name.endswith(".tmp")]
    monkeypatch.undo()
    fill(labelled, folder, *few)
    assert tree(folder) == tree(tmp_path / "whole")
    assert shards(folder).items() > {n: b for n, b in sealed.items() if n.endswith(".h5")}.items()


# Batches

@pytest.mark.parametrize("longest", [1, 40, 448, 2 * scores.DECODER_TOKENS])
def test_batches_keep_to_the_budget(longest):
    lengths = np.random.default_rng(longest).integers(1, longest + 1, 400).tolist()
    batches = scores.batches_of(range(400), lengths.__getitem__)
    assert sorted(view for batch in batches for view in batch) == list(range(400))
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        size = len(batch) * max(lengths[view] for view in batch)
        assert size <= scores.DECODER_TOKENS or len(batch) == 1
        if following:  # no batch is smaller than it has to be
            next_size = (len(batch) + 1) * lengths[following[0]]
            assert next_size > scores.DECODER_TOKENS
    in_order = [lengths[view] for batch in batches for view in batch]
    assert in_order == sorted(in_order), "views of like length share a batch"
    assert scores.batches_of([], len) == []
