"""A filler killed again and again ends with the very files of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from distill.data.teacher_store import TeacherStore

FILLER = """\
import sys
import numpy as np
from distill.data.teacher_store import Record, TeacherStore, view_key

def score(text):
    random = np.random.default_rng(list(text.encode()))
    rows = int(random.integers(0, 200))
    return Record(text, {"indices": random.integers(0, 51866, (rows, 8)).astype(np.uint16),
                         "values": random.normal(size=(rows, 8)).astype(np.float16),
                         "log_rest": random.normal(size=(rows, 2)).astype(np.float32)})

texts = [view_key({"id": f"clip-{n:03d}", "epoch": e}) for e in range(2) for n in range(120)]
store = TeacherStore(sys.argv[1], {"teacher": "t"}, create=True)
todo = sorted(store.missing(texts))
print(f"start {len(todo)}", flush=True)
for start in range(0, len(todo), 6):
    store.add([score(text) for text in todo[start:start + 6]], {"by": "filler"})
    print("sealed", flush=True)
store.seal()
print("done", flush=True)
"""
GROUPS = 40
KILLS = 4


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", FILLER, str(folder)], stdout=subprocess.PIPE,
                            text=True)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.name != ".checked.json"}  # holds the times of the files


def kill_at(process: subprocess.Popen, num_lines: int, delay: float) -> int:
    """Kill a filler some shards and some seconds after it began; the views it had to score."""
    first = process.stdout.readline()
    for _ in range(num_lines):
        process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended before"
    return int(first.split()[1])


def test_killed_again_and_again(tmp_path):
    whole = start(tmp_path / "whole")
    assert whole.communicate()[0].split()[1:] == ["240", *["sealed"] * GROUPS, "done"]

    folder, choose, todo = tmp_path / "killed", random.Random(1), []
    for _ in range(KILLS):
        # a shard takes about 5 ms: the delay ends anywhere in one
        views = kill_at(start(folder), choose.randrange(3), choose.uniform(0, 0.008))
        todo.append(views)
        killed = TeacherStore(folder, {"teacher": "t"})  # reads what there is, at any moment
        assert killed.num_views == 6 * len(killed.shards) >= 240 - views
    assert todo == sorted(todo, reverse=True) and todo[0] == 240 and 0 < todo[-1] < 240

    last = start(folder)
    assert last.communicate()[0].split()[-1] == "done"
    expected = files(tmp_path / "whole")
    assert files(folder) == expected  # and nothing else
    assert len(expected) == GROUPS + 2 and set(os.listdir(folder)) == {*expected, ".checked.json"}
    store = TeacherStore(folder, {"teacher": "t"})
    store.check()
    assert store.num_views == len(store.all_rows()) == 240
