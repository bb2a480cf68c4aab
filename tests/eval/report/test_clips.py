"""The page's part on clips, each by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.data.files import read_json, write_json
from eval.report.write import write_report
from tests.eval.report.test_speech import Page

CLIPS = {
    "num_clips": 119, "mean_seconds": 2.32, "num_words": 611, "looping_clips": 1,
    "teacher_looping_clips": 0, "teacher_wer": 0.0851, "teacher_wer_ci": [0.056, 0.126],
    "student_wer": 0.0966, "student_wer_ci": [0.066, 0.138], "student_int8_wer": 0.0949,
    "student_int8_wer_ci": [0.066, 0.135], "wer_difference": 0.0115,
    "wer_difference_ci": [-0.003, 0.028], "int8_wer_difference": 0.0098,
    "int8_wer_difference_ci": None, "speedup_vs_padded_teacher_fp32": 5.8,
    "speedup_vs_transformers_int8": 8.9, "timed_clips": {"count": 8, "mean_seconds": 1.97},
    "milliseconds": {"teacher, transformers, float32": 841.0, "teacher, padded, float32": 717.0,
                     "teacher, float32": 193.0, "student, float32": 163.0, "student, int8": 118.0},
    "milliseconds_in_batch": {
        "batch_size": 8, "teacher, transformers, float32": 840.0, "teacher, padded, float32": 700.0,
        "teacher, float32": 180.0, "student, float32": 150.0, "student, int8": 110.0},
    "megabytes": {"teacher": 290.4, "student": 256.8, "student_int8": 65.2},
}


@pytest.fixture
def run(tmp_path) -> Path:
    model = {"model": "a", "wer": 0.1, "substitutions": 1, "deletions": 0, "insertions": 0}
    results = {"split": "test", "normalizer": "english", "num_units": 12, "num_words": 762,
               "hours": 0.09, "num_bootstrap": 2000, "teacher": model, "student": model}
    write_json(tmp_path / "eval" / "results.json", results)
    return tmp_path


def test_clips_by_themselves_come_first(run):
    path = run / "eval" / "results.json"
    write_json(path, read_json(path) | {"clips": CLIPS})
    text = Page(write_report(run)).text
    assert text.index("Clip by clip") < text.index("Teacher and student")
    assert "Milliseconds a clip 118 student, int8, one at a time; 65 MB of weights" in text
    assert "Student WER 9.66 % 95 % interval [6.6, 13.8]" in text
    assert "Speed 5.8\u00d7 of the teacher that hears 30 s for every clip; float32" in text
    assert "Student - teacher: +1.15 points of WER [-0.3, +2.8], paired bootstrap" in text
    assert "Clips that loop: 1 of the student's, 0 of the teacher's" in text
    # a way, ms a clip, ms in a batch, its errors and its size; nobody counted the padded ways'
    assert "student, int8 118 110 9.49 % [6.6, 13.5] 65 MB" in text
    assert "teacher, padded, float32 717 700 \N{EN DASH} \N{EN DASH}" in text


def test_results_of_before_have_no_sizes(run):
    path = run / "eval" / "results.json"
    before = {key: value for key, value in CLIPS.items() if key != "megabytes"}
    write_json(path, read_json(path) | {"clips": before})
    assert "student, int8 118 110 9.49 % [6.6, 13.5] \N{EN DASH}" in Page(write_report(run)).text
