"""Files are whole or absent, whenever a process dies; JSON comes back as it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distill.data.files import (
    hash_of,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
    write_text,
)

KILLED = """\
import os, signal, sys
from pathlib import Path
from distill.data.files import write_atomic

def write(temporary):
    with open(temporary, "w") as file:
        file.write("half of the new t")
        file.flush()
        os.fsync(file.fileno())
        {inside}
    {after}

{before}
write_atomic(Path(sys.argv[1]), write)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
MOMENTS = {
    "while writing": {"inside": KILL, "after": "pass", "before": ""},
    "after writing": {"inside": "pass", "after": KILL, "before": ""},
    "before the rename": {
        "inside": "pass", "after": "pass",
        "before": f"os.replace = lambda *_: {KILL}",
    },
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("old", [None, "the old text"])
def test_a_killed_writer_leaves_the_old_file(tmp_path, moment, old):
    path = tmp_path / "part.jsonl"
    if old is not None:
        path.write_text(old)
    code = KILLED.format(**MOMENTS[moment])
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert (path.read_text() if path.exists() else None) == old
    # what is left cannot be taken for the file, nor for a shard (`part-*.jsonl`)
    assert list(tmp_path.glob("part*")) == ([path] if old else [])
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_failing_writer_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, write)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_machines_whose_processes_have_the_same_number(tmp_path, monkeypatch):
    """As containers that share a folder: all of them are process 1."""
    monkeypatch.setattr("os.getpid", lambda: 1)

    def in_between(temporary: Path) -> None:
        temporary.write_text("one")
        with monkeypatch.context() as patch:
            patch.setattr("socket.gethostname", lambda: "another")
            write_text(tmp_path / "file", "another")

    write_atomic(tmp_path / "file", in_between)
    assert (tmp_path / "file").read_text() == "one"


def test_a_new_file_in_a_new_folder(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"
    assert os.listdir(tmp_path / "a" / "b") == ["c.txt"]


LINES = "line\u2028separator \u2029 \x0b \x0c \x1c \x85 end\nnew \r\n line"


def test_jsonl_round_trip_with_unicode_line_separators(tmp_path):
    """`str.splitlines` would break a row at each of these."""
    rows = [{"text": LINES, "n": 1}, {"text": "你好 🙂", "n": None}, {"text": "last"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    assert "你好" in (tmp_path / "a.jsonl").read_text(encoding="utf-8")  # readable by people


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, LINES], "b": {"ü": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl:3: not a JSON object"):
        read_jsonl(tmp_path / "a.jsonl")


def test_empty_jsonl(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [])
    assert read_jsonl(tmp_path / "a.jsonl") == []


def test_hash():
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 2}) != hash_of({"a": "2"})
    assert hash_of({}) == "44136fa355b3678a"  # it is written into files: it must never change


def test_half_of_an_appended_line_is_left_out(tmp_path):
    """A power cut tears the last line of metrics.jsonl; the run must go on from what is whole."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_jsonl(path, may_be_torn=True) == [{"step": 1}, {"step": 2}]
    with pytest.raises(ValueError, match="a.jsonl:3: not a JSON object"):
        read_jsonl(path)
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')  # not the last: somebody's edit
    with pytest.raises(ValueError, match="a.jsonl:2"):
        read_jsonl(path, may_be_torn=True)
