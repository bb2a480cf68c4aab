"""The store of tag scores: filled, killed, shared out, refused, read epoch by epoch."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.ced.data.view_source import ViewSource
from distill.ced.teachers.ensemble import Ensemble
from distill.ced.teachers.recorded import RecordedScores
from distill.ced.teachers.scores import decode_scores
from distill.ced.teachers.scoring import Blocks, Scorer, store_settings
from distill.data.files import read_json
from distill.data.teacher_store import StoreError, TeacherStore
from distill.data.teacher_store.__main__ import main as store_command
from pseudo_label import tag_scores
from pseudo_label.__main__ import main as label_command

CLASSES = ["bell", "cat", "dog"]
MANY = ("scores.epochs=12", "train.max_steps=40")  # blocks: one an epoch in a corpus this small


def fill(tags, folder: Path, *overrides: str) -> list[str]:
    found = tags.arguments(f"scores.dir={folder}", *overrides)
    tag_scores.main(found)
    return found


def read(tags, folder: Path, *overrides: str) -> RecordedScores:
    recipe = tags.recipe(f"scores.dir={folder}", *overrides)
    source = ViewSource(recipe)
    return RecordedScores(recipe, source, store_settings(recipe, source, CLASSES), check=True)


def tree(folder: Path) -> dict[str, bytes]:
    """All files but those that name folders or times."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())
            if path.name not in ("recipe.yaml", ".checked.json")}


@pytest.fixture(scope="module")
def filled(tags, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "scores"
    fill(tags, folder)
    return folder


def test_what_is_stored_is_what_the_teachers_say(tags, filled):
    recorded = read(tags, filled)
    recipe = recorded.source.recipe
    ensemble = Ensemble(recipe.teacher, CLASSES)
    places = [(3, 1), (0, 0), (11, 1)]
    prepared = Scorer(recipe, recorded.source, ensemble).prepare(places)
    views, columns = recorded(places)
    assert views == prepared.views
    opinion = ensemble(prepared.waves, prepared.features)
    assert np.abs(decode_scores(columns, 3, "zero") - opinion.probabilities).max() < 0.009


def test_stored_epochs_go_round_to_the_last_one(tags, tmp_path):
    """CED never uses its last epoch and uses the first twice in a row."""
    fill(tags, tmp_path, "scores.epochs=4", "train.max_steps=20")
    recorded = read(tags, tmp_path, "scores.epochs=4", "train.max_steps=20")
    views = [recorded([(2, epoch)])[0][0] for epoch in range(9)]
    assert len(set(views[:4])) == 4
    assert views[4:] == [*views[:4], views[0]]


def test_the_epoch_of_a_view_is_in_its_place(tags, filled):
    """CED's workers keep the epoch they were forked in; here a place has its epoch with it, in
    whatever order places are asked for."""
    recorded = read(tags, filled)
    source = recorded.source
    places = [(index, epoch) for index in range(13) for epoch in (5, 0, 2, 1)]
    assert recorded(places)[0] == [source.scored_view(i, epoch % 2) for i, epoch in places]


def test_a_second_run_finds_everything_there(tags, filled, capsys):
    before = tree(filled)
    fill(tags, filled)
    assert "all were there already" in capsys.readouterr().out
    assert tree(filled) == before


def test_more_steps_pay_for_new_epochs_only(tags, tmp_path, capsys):
    fill(tags, tmp_path, "scores.epochs=5", "train.max_steps=1")
    assert read(tags, tmp_path, "scores.epochs=5", "train.max_steps=1").num_epochs == 1
    capsys.readouterr()
    fill(tags, tmp_path, "scores.epochs=5", "train.max_steps=4")
    assert "1 of 3 blocks are there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("teacher.average=logit", "teacher.average"),
        ("teacher.members=[{model: 'toy_teachers:loud'}]", "teacher.members"),
        ("scores.k=2", "k: the store has 3, asked for 2"),
        ("scores.values=float16", "values"),
        ("views.shift=0.1", "views.shift: the store has 0.5, asked for 0.1"),
        ("views.seed=3", "views.seed"),
        ("data.clip_seconds=0.9", "clip_seconds"),
        ("teacher.consistent=false", "views.mixup_probability"),
    ],
)
def test_another_teacher_or_other_settings_are_refused(tags, filled, change, message):
    with pytest.raises(StoreError, match=message):
        fill(tags, filled, change)
    with pytest.raises(StoreError, match=message):
        read(tags, filled, change)


def test_other_classes_are_refused(tags, filled, tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("cat\nbell\ndog\n")
    with pytest.raises(StoreError, match="classes: the store has"):
        fill(tags, filled, f"data.classes={names}")


def test_partners_are_numbers_among_the_same_clips(make_tags, tmp_path):
    tags = make_tags(tmp_path)
    fill(tags, tmp_path / "scores")
    manifest = tmp_path / "data" / "train.jsonl"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(StoreError, match="clips: the store has"):
        fill(tags, tmp_path / "scores")


@pytest.mark.parametrize("mixed", ["", "views.mixup_probability=0"])
def test_other_sound_in_a_file_of_the_same_name_and_size_is_noticed(make_tags, tmp_path, mixed):
    tags, options = make_tags(tmp_path), [mixed] if mixed else []
    fill(tags, tmp_path / "scores", *options)
    path = tmp_path / "data" / "train" / "2.wav"
    path.touch()
    read(tags, tmp_path / "scores", *options)  # a new date alone is nothing
    sound, rate = soundfile.read(path)
    soundfile.write(path, sound[::-1], rate)
    with pytest.raises(StoreError, match="are missing" if mixed else "clips: the store has"):
        read(tags, tmp_path / "scores", *options)


def test_a_missing_epoch_is_said(tags, tmp_path):
    fill(tags, tmp_path, "train.max_steps=1")
    with pytest.raises(StoreError, match=r"1 of 2 views are missing.*make NAME.label"):
        read(tags, tmp_path)


def test_verify_asks_the_teachers_again(tags, filled, tmp_path, monkeypatch, capsys):
    store_command(["verify", str(filled)])
    assert "2 of 2 views scored again: the teacher still says the same" in capsys.readouterr().out
    import toy_teachers

    monkeypatch.setattr(toy_teachers.Half, "__call__", lambda self, waves: np.full(
        (len(waves), 4), 0.05))
    with pytest.raises(ValueError, match="is not what this teacher says"):
        store_command(["verify", str(filled)])


# Killed, and shared out


def blocks_of(folder: Path) -> int:
    return len(list(folder.glob("shard-*.h5")))


def test_killed_before_shards_are_merged(tags, tmp_path, monkeypatch):
    """Nothing is missing then, and yet the store is not done."""
    fill(tags, tmp_path / "whole", *MANY)
    with monkeypatch.context() as patch:
        patch.setattr("distill.data.teacher_store.repack.repack", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fill(tags, tmp_path / "killed", *MANY)
    fill(tags, tmp_path / "killed", *MANY)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_sigkill_at_random_moments_changes_nothing(tags, fork, tmp_path):
    """CED writes HDF5 in place, and starts again from the first epoch."""
    fill(tags, tmp_path / "whole", *MANY)
    folder, log, seed = tmp_path / "killed", tmp_path / "log", int(time.time())
    found = tags.arguments(f"scores.dir={folder}", *MANY)
    moments, killed = random.Random(seed), 0
    for _ in range(3):
        before = blocks_of(folder) if folder.is_dir() else 0
        process = fork("pseudo_label.tag_scores", found, log)
        while process.is_alive() and not (folder.is_dir() and blocks_of(folder) > before):
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        process.join()
        killed += process.exitcode == -9
    assert killed >= 2, f"it was over before it was killed (seed {seed})"
    label_command(found)
    assert tree(folder) == tree(tmp_path / "whole"), f"seed {seed}"
    assert read(tags, folder, *MANY).num_epochs == 12


def test_two_ranks_fill_what_one_fills(tags, fork, tmp_path, capsys):
    folder, log = tmp_path / "two", tmp_path / "log"
    found = tags.arguments(f"scores.dir={folder}", *MANY)
    ranks = [fork("pseudo_label.tag_scores", found, log, RANK=str(rank), WORLD_SIZE="2")
             for rank in range(2)]
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0, log.read_text()
    store = TeacherStore(folder)
    assert store.num_views == len(store.all_rows()) == 12
    assert not list(folder.glob("*.lease*"))
    fill(tags, tmp_path / "one", *MANY)
    one, two = read(tags, tmp_path / "one", *MANY), read(tags, folder, *MANY)
    places = [(index, epoch) for index in range(13) for epoch in range(12)]
    assert one(places)[0] == two(places)[0]
    assert all(np.array_equal(a, two(places)[1][name]) for name, a in one(places)[1].items())


def test_groups_are_numbered_alike_by_whoever_comes_late():
    texts = [f"block {n}" for n in range(600)]
    groups = tag_scores.groups_of(texts, set(texts))
    assert len(groups) == 200 and all(len(group) == 3 for group in groups.values())
    late = tag_scores.groups_of(texts, set(texts[100:]))
    assert {n: g for n, g in late.items() if n > 33} == {n: g for n, g in groups.items() if n > 33}
    assert late[33] == texts[100:102] and min(late) == 33
    many = tag_scores.groups_of([str(n) for n in range(100_000)], {"99999"})
    assert many == {99_999 // 64: ["99999"]}


@pytest.mark.parametrize(("workers", "sizes"), [(0, (1, 2, 7)), (2, (2,))])
def test_any_number_of_workers_and_clips(make_tags, tmp_path, monkeypatch, workers, sizes):
    """CED's dump fails without workers, and where clips do not fill its batches."""
    monkeypatch.setattr("distill.ced.teachers.scoring.BLOCK_CLIPS", 3)
    monkeypatch.setattr("distill.ced.teachers.recorded.BLOCK_CLIPS", 3)
    tags = make_tags(tmp_path, train=[0.5] * 7)
    monkeypatch.setattr(tag_scores, "NUM_GROUPS", 4)  # of two blocks each
    for size in sizes:
        options = (f"scores.num_workers={workers}", f"scores.batch_size={size}")
        fill(tags, tmp_path / f"scores{size}", *options)
        recorded = read(tags, tmp_path / f"scores{size}", *options)
        assert recorded.store.num_rows == 14
        assert len(list(Blocks(recorded.source))) == 6
        assert recorded([(6, 1)])[0] == [recorded.source.scored_view(6, 1)]


# Its size


def test_bytes_of_a_view_at_k_20_of_527_classes(tags, tmp_path, monkeypatch):
    """At most CED's 84, with everything that was drawn, and the files' own bytes among many."""
    import toy_teachers

    names = [f"class {n}" for n in range(527)]

    def sure(waves):
        return np.tile(np.linspace(0.9, 0, 527), (len(waves), 1))

    sure.classes = names
    monkeypatch.setattr(toy_teachers, "loud", sure)
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(names))
    monkeypatch.setattr("distill.ced.teachers.ensemble.content_of", lambda _: "toy")
    options = (f"data.classes={path}", "teacher.members=[{model: 'toy_teachers:loud'}]")
    fill(tags, tmp_path / "scores", *options)
    store = TeacherStore(tmp_path / "scores")
    fixed = 24 + len(store.key(store.all_rows()[0]))  # of a block: digest, offsets, text
    columns = sum(values[0].nbytes for values in store.read(store.all_rows()[0]).values())
    assert columns == 20 * 3 + 3 + 19
    assert columns + fixed / 128 < 83
    from distill.ced.plan import view_bytes

    assert abs(columns + fixed / 128 - view_bytes(tags.recipe(), 527)) < 0.1


# Audio that cannot be read


def test_unreadable_clips_are_counted_and_nobody_learns_from_them(make_tags, tmp_path, capsys):
    tags = make_tags(tmp_path)
    (tmp_path / "data" / "train" / "3.wav").write_bytes(b"RIFF, and nothing else")
    fill(tags, tmp_path / "scores", "views.mixup_probability=0")
    assert "Clips that are left out of training" in capsys.readouterr().out
    recorded = read(tags, tmp_path / "scores", "views.mixup_probability=0")
    keys = [clip.key for clip in recorded.source.clips]
    bad = keys.index("train-3")
    columns = recorded([(index, 0) for index in range(len(keys))])[1]
    assert np.flatnonzero(columns["disagreement"] == 255).tolist() == [bad]
    # told by the store itself: also by a run that finds everything there
    path = tmp_path / "scores" / "unreadable.json"
    told = path.read_bytes()
    assert list(read_json(path).values()) == ["unreadable"] and b"clip train-3" in told
    path.unlink()
    fill(tags, tmp_path / "scores", "views.mixup_probability=0")
    assert path.read_bytes() == told
