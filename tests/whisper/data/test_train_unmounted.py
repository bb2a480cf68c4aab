"""A disk that is not mounted, or fails, while a student is trained from audio."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

import distill.train
import pseudo_label.__main__ as label_command
from distill.data.audio import AudioError
from distill.data.speech import windows
from distill.data.unreadable import UnreadableError
from distill.testing import write_tiny_recipe

OPTIONS = ("num_threads=1", "pseudo_label.window_seconds=9", "filter.max_wer=null",
           "scores.encoder_states=none", "train.max_steps=6", "train.save_every=100",
           "train.validate_every=100", "data.validation=[]")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, labels)."""
    folder = tmp_path_factory.mktemp("train_unmounted")
    recipe = write_tiny_recipe(folder, train=12)
    label_command.main([str(recipe), f"labels_dir={folder / 'labels'}", *OPTIONS])
    return recipe, folder / "labels"


def train(labelled, run: Path, *overrides: str) -> dict[str, bytes]:
    """Files of the student."""
    recipe, labels = labelled
    AcceleratorState._reset_state(reset_partial_state=True)
    distill.train.main([str(recipe), f"labels_dir={labels}", f"output_dir={run}", *OPTIONS,
                        *overrides])
    return {path.name: path.read_bytes() for path in (run / "student").iterdir()}


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_training_goes_on_where_the_disk_failed(labelled, tmp_path, monkeypatch):
    whole = train(labelled, tmp_path / "whole")
    audio = labelled[0].parent / "corpus" / "train"
    run = tmp_path / "run"
    audio.rename(audio.with_name("away"))
    with pytest.raises(UnreadableError, match=r"training stops: 12 of 12 clips .*12 missing_file"):
        train(labelled, run)
    audio.with_name("away").rename(audio)
    assert not run.exists(), "known before anything is trained"

    load, count = windows.load_audio, 0

    def failing(source, *arguments):
        nonlocal count
        count += 1
        # a share that hangs for a moment is waited for; one that is gone is not
        if count == 3 or count > 18:
            raise AudioError("cannot_open", f"{source}: Input/output error")
        return load(source, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(windows, "load_audio", failing)
        with pytest.raises(UnreadableError, match=r"training stopped after step (\d), everything is"
                                                  r" saved: cannot_open: window train-.*goes on"):
            train(labelled, run)
    assert len(steps(run)) == 1 and steps(run)[0] not in ("step-000000", "step-000006")
    assert not (run / "student").exists()
    assert train(labelled, run) == whole


def test_workers_say_what_they_could_not_read(labelled, tmp_path, monkeypatch):
    """Not what Python makes of an exception on its way out of a process."""
    def failing(source, *arguments):
        raise AudioError("truncated", f"{source}: half of it")

    monkeypatch.setattr(windows, "load_audio", failing)
    with pytest.raises(UnreadableError, match=r"after step 0.*truncated: window .*: half of it"):
        train(labelled, tmp_path / "run", "train.num_workers=1")
    assert steps(tmp_path / "run") == []


def test_a_full_disk_names_the_run(labelled, tmp_path, monkeypatch):
    often = "train.max_steps=2", "train.save_every=1"
    whole = train(labelled, tmp_path / "whole", *often)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("distill.training.checkpoint._publish", full)
        with pytest.raises(OSError, match=f"cannot write to {tmp_path}/run: No space left"):
            train(labelled, tmp_path / "run", *often)
    assert train(labelled, tmp_path / "run", *often) == whole
