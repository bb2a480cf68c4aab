"""Clips that cannot be read: what is told, what ends a stage, what is tried again."""

import pytest

from distill.data import unreadable
from distill.data.audio import AudioError
from distill.data.unreadable import Unreadable, UnreadableError, read_patiently


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
    monkeypatch.setattr(unreadable, "WAITS_SECONDS", (0.0, 0.0))

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
    with pytest.raises(AudioError, match="truncated"):  # it stays as it is
        read_patiently(reader("truncated", "fine"))
