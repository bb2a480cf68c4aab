"""Faults of the public CED code that the tests of views, clips, scores, store and training do not
show already; each test is named after what goes wrong there."""

import ast
import random
import socket
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.overrides import TorchFunctionMode

from distill.ced.data.view_source import ViewSource
from distill.ced.model.configuration import CedConfig
from distill.ced.tag_loss import clip_bce
from distill.ced.task import CedTask
from distill.ced.teachers.scores import decode_scores
from distill.config import TrainConfig
from distill.data.files import read_json
from distill.data.teacher_store import TeacherStore
from distill.training.average import Average
from distill.training.sharding import Weights
from eval.tagging import measure as tagging
from pseudo_label import tag_scores

LABELS = "teacher.members=[]"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def filled(tags) -> str:
    tag_scores.main(tags.arguments(f"scores.dir={tags.folder / 'bugs'}"))
    return f"scores.dir={tags.folder / 'bugs'}"


def task_of(tags, *overrides: str) -> CedTask:
    return CedTask(tags.recipe(*overrides), Accelerator(cpu=True))


def test_no_view_seeds_or_uses_the_libraries_generators(tags):
    """There: seeds all of them with a tensor, which Python 3.11 refuses."""
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    source = ViewSource(tags.recipe("views.noise_probability=1"))
    for epoch in range(3):
        source.wave(0, source.scored_view(0, epoch))
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[2])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_a_store_has_no_pickles(tags, filled):
    """There: pickled transforms, which new versions of torch refuse to load."""
    folder = Path(filled.removeprefix("scores.dir="))
    suffixes = {path.suffix for path in folder.iterdir() if path.name != ".checked.json"}
    assert suffixes == {".json", ".yaml", ".txt", ".h5"}


def test_no_table_library_stands_between_scores_and_students():
    """There: pandas 3 breaks both the writer and the reader. Imports of parquet come before."""
    files = [path for folder in ("distill/ced", "distill/data")
             for path in (ROOT / folder).rglob("*.py") if "sources" not in path.parts]
    names = {alias.name for path in files for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Import) for alias in node.names}
    assert "numpy" in names and not names & {"pandas", "pyarrow", "torch_audiomentations"}


def test_three_ranks_fill_a_store(tags, tmp_path, monkeypatch):
    """There: batches of a third of the size do not fit its buffers."""
    arguments = tags.arguments(f"scores.dir={tmp_path}", "scores.epochs=7", "train.max_steps=40")
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("2", "0", "1"):
        monkeypatch.setenv("RANK", rank)
        tag_scores.main(arguments)
    store = TeacherStore(tmp_path)
    assert store.num_views == 7 and store.num_rows == 7 * 13


def test_what_a_store_holds_is_written_down_and_counted(tags, filled):
    """There: no manifest, no hashes, the number of epochs guessed from the names of files."""
    folder = Path(filled.removeprefix("scores.dir="))
    settings = read_json(folder / "manifest.json")["settings"]
    assert settings["scores"] == "probabilities" and settings["values"] == "uint8"
    assert settings["num_classes"] == settings["k"] == 3
    index = read_json(folder / "index.json")
    assert index["rows"] == 26 and all(len(each["sha256"]) == 64 for each in index["shards"])
    assert (folder / "classes.txt").read_text() == "bell\ncat\ndog\n"


def test_the_inconsistent_experiment_runs_and_mixes_scores_by_its_own_weights(tags, tmp_path):
    """There: only in one mode of arithmetic."""
    options = ("teacher.consistent=false", f"scores.dir={tmp_path}", "views.mixup_probability=1")
    tag_scores.main(tags.arguments(*options))
    task = task_of(tags, *options)
    places = [(0, 0), (5, 1)]
    batch = task.collate(places)
    for (index, epoch), target in zip(places, batch["targets"].numpy(), strict=True):
        own, stored = (draw(index, epoch) for draw in
                       (task.source.student_view, task.source.scored_view))
        assert own.weight and not stored.weight and own.shift != stored.shift

        def said(index, epoch=epoch):
            columns = task.recorded([(index, epoch)])[1]
            return decode_scores(columns, 3, "tail_mean")[0]

        share = own.weight / 256
        assert np.allclose(target, (1 - share) * said(index) + share * said(own.partner))
    heard = batch["input_values"][0][:, : batch["attention_mask"][0].sum()]
    view = task.source.student_view(0, 0)
    assert torch.equal(heard, task.source.features(task.source.wave(0, view), view))


def test_short_clips_in_a_batch_are_masked(tags, filled):
    """There: zeros after them are heard, other ones by teacher and student."""
    task = task_of(tags, filled)
    lengths = [clip.length for clip in task.source.clips]
    short, long = int(np.argmin(lengths)), int(np.argmax(lengths))
    task.model.eval()
    together, alone = task.collate([(long, 0), (short, 0)]), task.collate([(short, 0)])
    with torch.no_grad():
        both = task.student(together["input_values"], together["attention_mask"]).logits[1]
        one = task.student(alone["input_values"], alone["attention_mask"]).logits[0]
    assert torch.allclose(both, one, atol=1e-5)


def test_an_average_of_weights_leaves_counts_and_statistics_alone(tags, filled):
    """There: counts of batches are added up, and missing keys averaged wrongly."""
    task = task_of(tags, filled)
    buffers = {name: value.clone() for name, value in task.student.named_buffers()}
    weights = Weights(task.model, TrainConfig(), task.accelerator, None)
    average = Average(weights, 0.9)
    for _ in range(3):
        average.update()
    with weights.shown(average.parts):
        for name, value in task.student.named_buffers():
            assert torch.equal(value, buffers[name]), name


def test_each_clip_is_mixed_by_its_own_weight(tags):
    """There: the mean over the batch is taken before the weights are looked at."""
    task = task_of(tags, LABELS, "views.mixup_probability=1")
    places = [(index, 0) for index in range(6)]
    views = [task.source.scored_view(*place) for place in places]
    assert len({view.weight for view in views}) > 3
    labels = task.collate(places)["labels"].numpy()
    for (index, _), view, mixed in zip(places, views, labels, strict=True):
        share = view.weight / 256
        own, theirs = task.labels[index], task.labels[view.partner]
        assert np.allclose(mixed, (1 - share) * own + share * theirs)
    union = task_of(tags, LABELS, "views.mixup_probability=1", "loss.mixed_labels=union")
    assert set(np.unique(union.collate(places)["labels"])) == {0, 1}
    logits = torch.randn(6, 3)
    targets = torch.from_numpy(labels)
    each = torch.stack([clip_bce(a[None], b[None])[0]
                        for a, b in zip(logits, targets, strict=True)])
    assert torch.allclose(clip_bce(logits, targets), each)


def test_a_second_dump_is_the_first_to_the_last_bit(tags, tmp_path):
    """There: nothing is seeded, a dump can be replayed but never made again."""
    for name in ("one", "two"):
        tag_scores.main(tags.arguments(f"scores.dir={tmp_path / name}"))
    shards = [sorted(path.name for path in (tmp_path / name).glob("shard-*"))
              for name in ("one", "two")]
    assert shards[0] == shards[1]  # named by their content


def test_the_best_weights_are_chosen_on_the_validation_split(tags, filled):
    """There: the checkpoints that are averaged are chosen on the test set."""
    task = task_of(tags, filled)
    assert {clip.row.split("-")[0] for clip in task._validation.clips} == {"validation"}
    assert task.validate()["num_clips"] == 3


class _NoQuestions(TorchFunctionMode):
    """Nothing may wait for the value of a tensor."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        asked = (torch.Tensor.__bool__, torch.Tensor.item, torch.Tensor.tolist)
        assert function not in asked, "a device would have to be waited for"
        return function(*args, **(kwargs or {}))


def test_masks_and_steps_ask_no_device_for_anything(tags):
    """There: Python's any() over a tensor of the device, for each clip, mask and step."""
    source = ViewSource(tags.recipe("views.time_masks=2", "views.frequency_masks=2"))
    views = [source.scored_view(index, 0) for index in range(4)]
    assert any(view.time_masks and view.frequency_masks for view in views)
    waves = [source.wave(index, view) for index, view in enumerate(views)]
    with _NoQuestions():
        for wave, view in zip(waves, views, strict=True):
            source.features(wave, view)
    # tensors without values: whoever asked for one would get an error
    sizes = {"input_values": (2, 64, 100), "attention_mask": (2, 100), "weight": (2,),
             "labels": (2, 3)}
    total, _ = task_of(tags, LABELS).model.to("meta")(
        {name: torch.empty(size, device="meta") for name, size in sizes.items()})
    total.backward()


def test_evaluation_needs_what_the_recipe_names_and_no_other_file(tags, tmp_path, monkeypatch):
    """There: two tables of AudioSet that are not in the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", None)
    recipe = tags.recipe(LABELS, f"output_dir={tmp_path / 'run'}")
    task_of(tags, LABELS).save(tmp_path / "run" / "student")
    found = tagging.evaluate(recipe, tmp_path / "run")
    assert [each["name"] for each in found["systems"]["student"]["classes"]] == [
        "bell", "cat", "dog"]


def test_versions_are_not_pinned_to_old_ones_nor_old_interfaces_used(tags):
    """There: versions of years ago, and torch.cuda.amp, which is to be removed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {})
    needed = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    assert needed and not [each for each in needed if "==" in each or "<" in each]
    task = task_of(tags, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = task.model(task.collate([(0, 0), (1, 0)]))
        total.backward()
    assert all("cuda.amp" not in path.read_text() for path in (ROOT / "distill").rglob("*.py"))


@pytest.mark.parametrize("pooling", ["token", "dm"])
def test_poolings_that_are_not_ours_are_refused(pooling):
    """There, in the port: two more are taken, and give something else or nothing."""
    with pytest.raises(ValueError, match=f"pooling must be mean or logit, got '{pooling}'"):
        CedConfig(pooling=pooling, outputdim=527)
    assert not hasattr(CedConfig(pooling="logit"), "pooling")


def test_a_configuration_is_made_without_a_network(monkeypatch):
    """There, in the port: names of classes are fetched from somebody else's repository, and cut at
    their first comma, so that some are the same."""
    monkeypatch.setattr(socket, "socket", None)
    names = {0: "Inside, small room", 1: "Inside, large room or hall"}
    assert CedConfig(id2label=names).id2label == names
    assert CedConfig(outputdim=527).num_labels == 527
