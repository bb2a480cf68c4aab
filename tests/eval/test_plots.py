"""Pictures of a card: drawn from what there is, gone with it."""

import re

from distill.data.files import write_json, write_jsonl
from eval.plots import write_plots


def entry(**more) -> dict:
    return {"wer": 0.2, "wer_ci": [0.1, 0.3], "cer": 0.07, "cer_ci": None, "rtfx": 31.4,
            "dtype": "float32", "device": "cpu"} | more


def test_what_there_is(tmp_path):
    results = {"split": "test", "error_unit": "word", "teacher": entry(),
               "student": entry(wer=0.25)}
    write_json(tmp_path / "eval" / "results.json", results)
    write_jsonl(tmp_path / "metrics.jsonl", [
        {"split": "train", "step": 10, "loss": 3.0}, {"split": "train", "step": 20, "loss": 2.0},
        {"split": "validation", "step": 20, "wer": 0.5}])
    found = write_plots(tmp_path)
    assert [p.stem for p in found] == ["1-quality", "2-speed", "3-loss", "4-validation"]
    quality, speed, loss, validation = (path.read_text() for path in found)
    assert "20.0\u00a0% [10.0, 30.0]" in quality and "25.0\u00a0% [10.0, 30.0]" in quality
    assert "31.4" in speed and "from 3 to 2" in loss and "from 50 to 50" in validation
    assert all(re.match(r'<svg xmlns="http://www.w3.org/2000/svg" viewBox', p.read_text())
               for p in found)
    write_json(tmp_path / "eval" / "results.json", results | {"error_unit": "char"})
    (tmp_path / "metrics.jsonl").unlink()
    assert [path.stem for path in write_plots(tmp_path)] == ["1-quality", "2-speed"]
    assert "7.0\u00a0%" in (tmp_path / "eval/plots/1-quality.svg").read_text()


def test_taggers(tmp_path):
    student = {"mean_average_precision": 0.61, "mean_average_precision_ci": [0.5, 0.7],
               "clips_per_second": 120.5}
    write_json(tmp_path / "eval" / "results.json", {
        "split": "test", "device": "cpu", "systems": {"student": student, "member1": student}})
    quality, speed = (path.read_text() for path in write_plots(tmp_path))
    assert "61.0\u00a0% [50.0, 70.0]" in quality and "mAP" in quality
    assert "120.5" in speed and quality.count("<rect class=") == 1
