"""Clips that cannot be read: what is told, what ends a stage, what is tried again."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from distill.ced.data import clips
from distill.data import unreadable
from distill.data.audio import AudioError
from distill.data.speech import windows
from distill.data.unreadable import Unreadable, UnreadableError, read_patiently
from eval import linear_probe


@pytest.mark.parametrize(
    ("total", "share", "allowed"),
    [
        (10, 0.05, 1),  # a single bad file of ten says nothing about the others
        (19, 0.05, 1), (40, 0.05, 2), (1000, 0.05, 50), (10, 0.0, 0), (10, 1.0, 10),
        (1, 0.05, 0),  # nothing is left
        (2, 0.05, 1), (1, 1.0, 1),
    ],
)
def test_how_many_end_a_stage(total, share, allowed):
    faults = Unreadable(total, share, "labelling")
    for index in range(allowed):
        faults.add(f"clip-{index}", AudioError("empty", "x.wav"))
        faults.add(f"clip-{index}", AudioError("empty", "x.wav"))  # in a second packing
    faults.check()
    if allowed < total:
        faults.add("one more", AudioError("truncated", "y.wav"))
        with pytest.raises(UnreadableError, match=r"1 truncated \(one more\).*data.max_unreadable"):
            faults.check()


def test_first_clips_are_told_and_all_counted(capsys):
    faults = Unreadable(100, 1.0, "labelling")
    faults.note("clip-0", "empty")  # of an earlier run
    for index in range(20):
        faults.add(f"clip-{index}", AudioError("empty", f"{index}.wav: no samples"))
    faults.add("other", AudioError("missing_file", "other.wav"))
    out = capsys.readouterr().out.splitlines()
    assert len(out) == unreadable.TOLD + 1 and "only counted" in out[-2]
    assert out[0] == "Cannot read clip clip-1: empty: 1.wav: no samples"
    assert faults.text() == "20 empty, 1 missing_file" and faults.num_transient == 1


def test_only_faults_of_the_moment_leave_a_stage_undone():
    faults = Unreadable(100, 0.5, "scoring")
    faults.add("a", AudioError("empty", "a.wav"))
    faults.finish("data.train")
    for name in "bcdef":
        faults.add(name, AudioError("missing_file", f"{name}.wav"))
    with pytest.raises(UnreadableError, match=r"5 of 100 clips could not be opened: 5 missing_file "
                                              r"\(b, c, d, ...\).*data.train.*goes on"):
        faults.finish("data.train")


def test_missing_files_are_found_without_reading(tmp_path, capsys):
    paths = [tmp_path / f"{index}.wav" for index in range(40)]
    for path in paths[:38]:
        path.write_text("no audio, but there")
    clips = [(path.stem, str(path)) for path in paths]
    faults = Unreadable(40, 0.05, "labelling")
    faults.stat(clips)
    assert faults.counts == {"missing_file": 2} and "38.wav" in capsys.readouterr().out
    paths[0].unlink()
    with pytest.raises(UnreadableError, match=r"3 of 40 clips \(7.5%\).*mounted"):
        Unreadable(40, 0.05, "labelling").stat(clips)
    assert unreadable.file_fault(paths[1] / "below-a-file.wav").reason == "missing_file"


def test_what_could_not_be_opened_is_tried_again(monkeypatch):
    monkeypatch.setattr(unreadable, "_waited_in_vain", False)

    def reader(*outcomes):
        left = list(outcomes)

        def read():
            if (reason := left.pop(0)) != "fine":
                raise AudioError(reason, "x.wav")
            return len(left)

        return read

    assert read_patiently(reader("cannot_open", "missing_file", "fine")) == 0
    with pytest.raises(AudioError, match="missing_file"):
        read_patiently(reader("cannot_open", "missing_file", "missing_file", "fine"))
    with pytest.raises(AudioError, match="cannot_open"):  # a lost disk: nobody waits for each file
        read_patiently(reader("cannot_open", "fine"))
    assert read_patiently(reader("fine")) == 0
    assert read_patiently(reader("missing_file", "fine")) == 0
    with pytest.raises(AudioError, match="truncated"):  # it stays as it is
        read_patiently(reader("truncated", "fine"))


class Hanging:
    """`load_audio` of a share that hangs: of every file, the first try fails."""

    def __init__(self, monkeypatch, module):
        self.tried, self.load = [], module.load_audio
        monkeypatch.setattr(module, "load_audio", self)

    def __call__(self, path, *arguments):
        self.tried.append(path)
        if self.tried.count(path) == 1:
            raise AudioError("cannot_open", f"{path}: Input/output error")
        return self.load(path, *arguments)


@pytest.fixture
def wav(tmp_path, monkeypatch):
    monkeypatch.setattr(unreadable, "_waited_in_vain", False)
    soundfile.write(tmp_path / "a.wav", np.full(16_000, 0.5, np.float32), 16_000)
    return str(tmp_path / "a.wav")


def test_taggers_try_again(wav, monkeypatch):
    hanging = Hanging(monkeypatch, clips)
    sound = clips.load_sound(clips.Clip("a", "a", wav, 0, 16_000, None))
    assert len(sound) == 16_000 and hanging.tried == [wav] * 2


def test_windows_try_again(wav, monkeypatch):
    hanging = Hanging(monkeypatch, windows)
    window = windows.Window("a", (windows.Piece("a", wav, 0.0, 1.0, 0.0, None),))
    assert len(windows.load_patiently(window)) == 16_000 and hanging.tried == [wav] * 2


def test_the_linear_probe_tries_again(wav, monkeypatch):
    hanging = Hanging(monkeypatch, linear_probe)
    model = SimpleNamespace(sample_rate=16_000)
    module = SimpleNamespace(get_scene_embeddings=lambda audio, _: audio[:, :3])
    found, kept, failed = linear_probe.embed(
        [linear_probe.Sound(wav, ("a",), 0.0, 1.0)], module, model, "probe")
    assert found.shape == (1, 3) and len(kept) == 1 and not failed and hanging.tried == [wav] * 2
