"""A disk that is not mounted, Ctrl-C: scoring leaves whole groups of views or nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import pseudo_label.__main__ as label_command
from distill.data.audio import AudioError
from distill.data.files import read_jsonl
from distill.data.speech import windows
from distill.data.teacher_store import TeacherStore
from distill.data.unreadable import UnreadableError
from distill.testing import write_tiny_recipe
from pseudo_label import scores
from tests.pseudo_label.test_scores import shards, tree

OPTIONS = ("num_threads=1", "pseudo_label.window_seconds=9", "train.max_steps=4",
           "filter.max_wer=null", "scores.shard_views=3")


@pytest.fixture(scope="module")
def labelled(small_teacher, tmp_path_factory) -> list[str]:
    """Arguments of a recipe with labels that nobody has scored."""
    folder = tmp_path_factory.mktemp("unmounted")
    recipe = write_tiny_recipe(folder, small_teacher, train=16)
    found = [str(recipe), f"labels_dir={folder / 'labels'}", *OPTIONS]
    label_command.main([*found, "teacher.mode=live"])
    return found


def test_a_disk_that_is_not_mounted_seals_nothing(labelled, tmp_path, monkeypatch, capsys):
    """Half of the files are away, or one cannot be read: groups of views are whole or absent, and
    once the disk is back the store has the same bytes as one that nothing disturbed."""
    corpus = Path(labelled[0]).parent / "corpus"
    away = [corpus / row["audio_filepath"] for row in read_jsonl(corpus / "train.jsonl")][:4]
    load = windows.load_audio

    def failing(source, *arguments):
        if str(source) == str(away[0].resolve()):
            raise AudioError("cannot_open", f"{source}: Input/output error")
        return load(source, *arguments)

    for states in ("disk", "none"):
        names = {key: tmp_path / f"{states}-{key}" for key in ("whole", "disturbed")}
        options = {key: [*labelled, f"scores.encoder_states={states}", f"scores.dir={folder}"]
                   for key, folder in names.items()}
        scores.main(options["whole"])
        for path in away:
            path.rename(path.with_suffix(".away"))
        with pytest.raises(UnreadableError, match=r"4 of \d+ clips .*data.max_unreadable"):
            scores.main(options["disturbed"])  # at once
        assert not shards(names["disturbed"])
        with pytest.raises(UnreadableError, match=r"not complete: 4 of \d+ clips.*goes on"):
            scores.main([*options["disturbed"], "data.max_unreadable=1"])
        for path in away:
            path.with_suffix(".away").rename(path)
        with monkeypatch.context() as patch:
            patch.setattr(windows, "load_audio", failing)
            with pytest.raises(UnreadableError, match=r"1 of \d+ clips.*1 cannot_open \(window "):
                scores.main(options["disturbed"])
        some, all_ = shards(names["disturbed"]), shards(names["whole"])
        assert 0 < len(some) < len(all_) and some.items() <= all_.items()
        assert not list(names["disturbed"].rglob("index.json")) or states == "disk"
        scores.main(options["disturbed"])
        assert tree(names["disturbed"]) == tree(names["whole"])
        out = capsys.readouterr().out
        assert "Cannot read clip train-0: missing_file: " in out and "cannot_open" in out


def test_ctrl_c_says_how_much_is_scored(labelled, tmp_path, monkeypatch):
    add = TeacherStore.add

    def interrupted(store, records):
        if len(store.shards) == 2:
            raise KeyboardInterrupt
        return add(store, records)

    monkeypatch.setattr(TeacherStore, "add", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped; 6 of \d+ views are there"):
        scores.main([*labelled, "scores.encoder_states=none", f"scores.dir={tmp_path}"])
