"""A disk that is not mounted, all or half of it, while labelling: nothing is settled on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pseudo_label.__main__ as command
from distill.data import audio
from distill.data.audio import AudioError
from distill.data.files import read_jsonl, write_jsonl
from distill.data.unreadable import UnreadableError
from distill.testing import write_tiny_recipe
from pseudo_label.labelling import transcripts
from pseudo_label.labelling.leases import Leases

OPTIONS = ("pseudo_label.shard_size=1", "pseudo_label.batch_size=1", "num_threads=1",
           "pseudo_label.packing=best_fit", "views.previous_text_probability=0",
           "filter.max_wer=null")


@pytest.fixture(scope="module")
def recipe(small_teacher, tmp_path_factory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("unmounted"), small_teacher, train=16)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> dict[str, bytes]:
    """Files of a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole")
    label(recipe, run)
    return contents(run)


def label(recipe: Path, run: Path, *overrides: str) -> None:
    command.main([str(recipe), f"output_dir={run}", *OPTIONS, *overrides])


def contents(run: Path) -> dict[str, bytes]:
    folder = run / "pseudo_labels"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("recipe.yaml", ".checked.json")}


def audio_files(recipe: Path) -> list[Path]:
    rows = read_jsonl(recipe.parent / "corpus" / "train.jsonl")
    return [recipe.parent / "corpus" / row["audio_filepath"] for row in rows]


class Away:
    """`with Away(paths):` files that are elsewhere meanwhile."""

    def __init__(self, paths):
        self.paths = list(paths)

    def __enter__(self):
        for path in self.paths:
            path.rename(path.with_suffix(".away"))

    def __exit__(self, *_):
        for path in self.paths:
            path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("share", ["0.05", "1.0"])  # it stops at once, or does what it can
def test_half_of_the_disk(recipe, whole, tmp_path, share, capsys, monkeypatch):
    files = audio_files(recipe)
    allowed = f"data.max_unreadable={share}"
    with Away(files[:3]):
        if share == "0.05":  # known before a model is loaded
            monkeypatch.setattr("distill.whisper.teacher.load_teacher", None)
        with pytest.raises(UnreadableError, match="3 of 16 clips") as error:
            label(recipe, tmp_path, allowed)
        monkeypatch.undo()
        assert ("data.max_unreadable" in str(error.value)) == (share == "0.05")
        assert "3 missing_file (train-" in str(error.value)
        found = contents(tmp_path)
        parts = [name for name in found if name.startswith("part-")]
        assert len(parts) < sum(name.startswith("part-") for name in whole)
        assert bool(parts) == (share == "1.0"), "the rest is labelled"
        assert all(found[name] == whole[name] for name in parts)
        assert not {"filter.json", "kept.jsonl", "drops.json", "scores"} & set(found)
        assert not any(name.startswith("drops-") or name.endswith(".lease") for name in found)
        out = capsys.readouterr().out
        assert out.count("Cannot read clip") == 3 and "Kept" not in out
    label(recipe, tmp_path)
    assert contents(tmp_path) == whole
    with Away(files):  # labelled and scored already: nobody needs them
        label(recipe, tmp_path)
    assert contents(tmp_path) == whole


def test_the_disk_fails_while_it_is_read(recipe, whole, tmp_path, monkeypatch):
    """Files that are there and cannot be opened, and one that comes back meanwhile."""
    bad = str(audio_files(recipe)[5].resolve())
    load = audio.load_audio

    def failing(source, offset=0.0, duration=None):
        if str(source) == bad:
            raise AudioError("cannot_open", f"{source}: Input/output error")
        return load(source, offset, duration)

    with monkeypatch.context() as patch:
        patch.setattr("distill.data.speech.windows.load_audio", failing)
        expected = r"1 of 16 clips could not be opened: 1 cannot_open \(train-5\).*same command"
        with pytest.raises(UnreadableError, match=expected):
            label(recipe, tmp_path)
    assert "kept.jsonl" not in contents(tmp_path)
    label(recipe, tmp_path)
    assert contents(tmp_path) == whole


def test_shards_that_older_versions_sealed_are_labelled_again(recipe, whole, tmp_path, capsys):
    label(recipe, tmp_path)
    folder = tmp_path / "pseudo_labels"
    part = sorted(folder.glob("part-*"))[2]
    row = read_jsonl(part)[0]
    drops = folder / part.name.replace("part", "drops")
    write_jsonl(drops, [{"window": row["id"], "clip": row["pieces"][0]["id"],
                         "reason": "missing_file", "detail": "x.wav"}])
    write_jsonl(part, [])
    (folder / "drops.json").write_text(json.dumps({"missing_file": 1}))
    label(recipe, tmp_path)
    assert contents(tmp_path) == whole
    assert "1 shards were labelled without clips" in capsys.readouterr().out


def test_ctrl_c_says_how_far_it_got(recipe, whole, tmp_path, monkeypatch):
    write = transcripts.write_shard

    def interrupted(folder, index, rows, drops):
        if index == 2:
            raise KeyboardInterrupt
        write(folder, index, rows, drops)

    with monkeypatch.context() as patch:
        patch.setattr(transcripts, "write_shard", interrupted)
        total = sum(name.startswith("part-") for name in whole)
        with pytest.raises(KeyboardInterrupt, match=f"2 of {total} shards are there"):
            label(recipe, tmp_path)
    assert not list((tmp_path / "pseudo_labels").glob("*.lease"))
    label(recipe, tmp_path)
    assert contents(tmp_path) == whole


def test_full_disk_names_the_folder(recipe, whole, tmp_path, monkeypatch):
    def full(folder, index, rows, drops):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transcripts, "write_shard", full)
        with pytest.raises(OSError, match=f"cannot write to {tmp_path}/pseudo_labels: No space"):
            label(recipe, tmp_path)
    label(recipe, tmp_path)
    assert contents(tmp_path) == whole


def test_a_rank_that_ends_with_an_error_waits_for_those_at_work(tmp_path, monkeypatch):
    """Launchers end all ranks as soon as one fails."""
    with Leases(tmp_path) as mine, Leases(tmp_path) as other:
        other._owner["host"] = "another"
        assert other.take("part-00001") and mine.take("part-00002")
        slept = []

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 2:
                other.release("part-00001")

        monkeypatch.setattr("pseudo_label.labelling.leases.time.sleep", sleep)
        mine.wait_for_others()
        assert len(slept) == 2
