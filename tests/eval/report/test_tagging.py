"""The report page of taggers: whole, escaped, and about what was measured."""

import base64
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.data.files import write_json, write_jsonl, write_text
from distill.metrics.tagging import evaluate_tags, paired_bootstrap_of_map
from eval.report.spectrogram import png, shade, tagged_spectrogram
from eval.report.write import write_report
from tests.eval.report.test_speech import Page

NAMES = ["<b>evil</b> & co", "bell", "dog"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a tagger with a student of random weights."""
    from distill.ced.model.modeling import new_model

    folder = tmp_path_factory.mktemp("runs") / "tagger"
    torch.manual_seed(0)
    new_model("tiny", NAMES, hidden_size=32, num_attention_heads=2,
              num_hidden_layers=1).save_pretrained(folder / "student")
    generator, rows = np.random.default_rng(0), []
    for number in range(6):
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(16_000), 16_000)
        rows.append({"id": f"clip-{number}", "audio_filepath": str(path), "offset": 0.0,
                     "duration": 1.0, "labels": [NAMES[number % 3]],
                     **{k: generator.random(3).tolist() for k in ("student", "teacher")}})
    rows[0]["student"] = [0.9, 0.1, 0.2]  # right
    rows[1]["audio_filepath"] = "gone.wav"
    rows[1]["student"] = [0.9, 0.1, 0.8]  # as wrong as can be
    targets = np.array([[name in row["labels"] for name in NAMES] for row in rows])
    said = {k: np.array([row[k] for row in rows]) for k in ("student", "teacher")}
    systems = {
        key: {**evaluate_tags(values, targets, NAMES, 50), "clips_per_second": 10.0 * (1 + at),
              "ms_per_10_s": 20.0, "parameters": 1_000_000, "models": [key], "bytes": 4}
        for at, (key, values) in enumerate(said.items())
    }
    paired = paired_bootstrap_of_map(said["teacher"], said["student"], targets, 50)
    write_json(folder / "eval" / "results.json", {
        "split": "test", "num_recordings": 6, "num_clips": 6, "hours": 6 / 3600, "batch_size": 4,
        "device": "cpu", "threads": 1, "systems": systems, "paired": {
            "map_ratio": 0.9, "map_difference": paired.difference,
            "map_difference_ci": list(paired.interval), "speed_ratio": 3.5}})
    write_jsonl(folder / "eval" / "predictions.jsonl", rows)
    write_text(folder / "config.yaml", "method: ced\nseed: 7\nteacher: {members: [{model: x}]}\n")
    write_jsonl(folder / "metrics.jsonl", [
        {"split": "train", "step": 1, "loss": 0.8, "soft_bce": 0.5, "frame_bce": 0.3},
        {"split": "train", "step": 2, "loss": 0.6, "soft_bce": 0.4, "frame_bce": 0.2},
        {"split": "validation", "step": 2, "map": 0.5}])
    write_json(folder / "student.json", {"best_step": 1})
    return folder


def test_page_is_whole_and_needs_nothing_else(run):
    path = write_report(run)  # the page of a tagger for a tagger
    page = Page(path)
    for words in ("Teachers together", "3.5 ×", "90.0 %", "Highest 50 % at step 2", "seed 7",
                  "The student is that of step 1.",
                  "d′ of the mean AUC", "size, MB", "of every 0.4 s"):
        assert words in page.text, words
    assert "<b>evil" not in page.source
    links = [value for _, attributes in page.tags for key, value in attributes.items()
             if key in ("src", "href")]
    assert links and all(link.startswith("data:") for link in links)
    sounds = [a["src"] for tag, a in page.tags if tag == "audio"]
    assert len(sounds) == 3 and base64.b64decode(sounds[0].split(",")[1])[:4] == b"OggS"
    assert "No audio: missing_file" in page.text


def test_best_and_worst_clips_are_shown(run):
    text = write_report(run).read_text(encoding="utf-8")
    best, worst = text.split("<h3>Worst</h3>")
    assert "clip-0" in best.split("Best, with the most classes")[1]
    assert "clip-1" in worst


def test_parts_without_input_say_what_makes_them(tmp_path):
    page = Page(write_report(tmp_path))
    assert "There are no results yet" in page.text and "no metrics.jsonl yet" in page.text
    with pytest.raises(ValueError, match="run folder not found"):
        write_report(tmp_path / "none")


def test_png_holds_the_pixels():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = png(pixels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (3, 2)
    start = data.index(b"IDAT")
    size = struct.unpack(">I", data[start - 4 : start])[0]
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + size]), np.uint8)
    np.testing.assert_array_equal(rows.reshape(2, 10)[:, 1:].reshape(2, 3, 3), pixels)


def test_spectrogram_is_the_right_way_up_and_tags_are_where_they_sound():
    features = np.full((64, 100), -100.0)
    features[0] = 0.0  # the lowest band
    shades = shade(features)
    assert shades[-1, 0].sum() > 600 > 100 > shades[0, 0].sum()
    frames = np.zeros((6, 2))
    frames[3, 1] = 0.75
    picture = tagged_spectrogram("t", features, frames, ["dog", "bell"], ["bell"])
    (mark,) = re.findall(r'"bar bar-student" x="([\d.]+)".*?opacity="([\d.]+)"', picture)
    left, width = 122, 232
    assert float(mark[0]) == pytest.approx(left + width * 0.48, abs=0.1) and mark[1] == "0.75"
    assert "● bell" in picture and "● dog" not in picture
