"""How long is left, under a clock of our own: lines of a log file and a bar say the same."""

import io
import re

import pytest

from distill import progress as module
from distill.progress import progress


class Clock:
    """Goes on by what the making of an item took."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def run(clock: Clock, monkeypatch, gaps: list[float], initial: int = 0, is_terminal=False):
    """[(done, seconds left or None, seconds really left)] of everything that was shown.

    Args:
        gaps: seconds before each item; what comes at once has 0.
    """
    class Screen(io.StringIO):
        at: list[float] = []

        def isatty(self):
            return is_terminal

        def write(self, text):
            if re.search(r"\d/\d", text):
                self.at.append(clock.now)
            return super().write(text)

    screen = Screen()
    screen.at = []
    monkeypatch.setattr(module.sys, "stderr", screen)

    def items():
        for gap in gaps:
            clock.now += gap
            yield None

    end = clock.now + sum(gaps)
    total = initial + len(gaps)
    assert len(list(progress(items(), total, "labelling", "windows", True, initial))) == len(gaps)
    texts = [t for t in re.split(r"[\n\r]", screen.getvalue()) if f"/{total}" in t]
    assert all(re.search(rf"\d+/{total} windows", text) for text in texts)
    if gaps and not is_terminal:
        assert texts[-1].endswith("done") and f" {total}/{total} windows" in texts[-1]
    found = []
    for text, now in zip(texts, screen.at, strict=True):
        left = re.search(r"about (?:(\d+):)?(\d+):(\d\d) left", text)
        seconds = left and sum(int(n or 0) * 60**i for i, n in enumerate(reversed(left.groups())))
        found.append((int(re.search(rf"(\d+)/{total}", text)[1]), seconds, end - now))
    return found


CASES = {
    # name: (gaps, lines of a log that have an estimate, at least)
    "shards at once": ([60.0, *[0.0] * 11] * 24, 20),
    "shards at once, the first after loading": (
        [200.0, *[0.0] * 11, *[30.0, *[0.0] * 11] * 23], 20),
    "shards of different sizes": ([40.0, *[0.0] * 3, 80.0, *[0.0] * 7] * 12, 15),
    "one by one": ([8.0] * 100, 30),
    "one by one, the first slow": ([300.0, *[2.0] * 300], 20),
    "thousands a second, the first slow": ([60.0, *[0.001] * 120_000], 4),
    "few and slow": ([600.0] * 6, 2),
}


@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_is_left_is_about_right_from_the_first_estimate_on(clock, monkeypatch, is_terminal):
    for name, (gaps, at_least) in CASES.items():
        shown = run(clock, monkeypatch, gaps, is_terminal=is_terminal)
        told = [each for each in shown if each[1] is not None]
        assert len(told) >= at_least, name
        for done, left, truth in told:
            assert 0.5 * truth - 10 <= left <= 2 * truth + 10, (name, done, left, truth)
        first = next((at for at, gap in enumerate(gaps) if at and gap), 0)
        assert all(left is None for done, left, _ in shown if done <= first), name


def test_the_rate_is_that_of_late(clock, monkeypatch):
    """Long windows first: the second half takes a tenth of the time of the first."""
    shown = run(clock, monkeypatch, [10.0] * 100 + [1.0] * 1000)
    done, left, truth = next(each for each in shown if each[0] > 900)
    assert left == pytest.approx(truth, rel=0.1)


def test_what_is_overdue_is_not_said_to_take_no_time(clock, monkeypatch):
    """Training stands still for a minute and a half, for a validation, before step 45."""
    shown = run(clock, monkeypatch, [1.0] * 44 + [90.0] + [1.0] * 55)
    assert [left for done, left, _ in shown if done == 45] == [None]
    assert all(left != 0 for done, left, _ in shown if done < 100)


def test_a_run_that_goes_on(clock, monkeypatch):
    """What was done before took no time of this run."""
    for done, left, truth in run(clock, monkeypatch, [30.0] * 20, initial=400):
        assert left is None or left == pytest.approx(truth, abs=1), done


def test_short_runs_say_one_line(clock, monkeypatch):
    assert [each[0] for each in run(clock, monkeypatch, [1.0] * 7)] == [7]
    assert run(clock, monkeypatch, []) == []
