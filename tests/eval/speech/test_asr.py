"""The evaluation command on a tiny student, and its parts."""

from __future__ import annotations

import dataclasses
import gc
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration

from distill.data.audio import load_audio
from distill.data.files import read_json, read_jsonl, write_json
from distill.data.manifest import Row, read_manifest, write_manifest
from distill.testing import write_tiny_recipe
from distill.whisper.data.corpus import evaluation_utterances
from distill.whisper.data.corpus import test_utterances as find_utterances
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.recipe import load_recipe
from distill.whisper.recognition.fallback import GREEDY
from distill.whisper.student import make_student
from eval.__main__ import main
from eval.memory import PeakMemory
from eval.speech import asr
from eval.speech.asr import is_loop
from eval.speech.table import text_table

pytestmark = pytest.mark.usefixtures("remembered")


@pytest.fixture(autouse=True)
def no_sound(monkeypatch):
    """To compress what is heard takes longer than all else; tests of the report do."""
    monkeypatch.setattr("eval.report.examples._opus", lambda samples, level: b"")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Path]:
    """(recipe, run folder with a student that is not trained)."""
    folder = tmp_path_factory.mktemp("evaluate")
    recipe = write_tiny_recipe(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder / "teacher")
    target = folder / "run" / "student"
    make_student(model, [0, 3], [0, 1]).save_pretrained(target)
    for path in (folder / "teacher").glob("*.json"):
        if not (target / path.name).exists():
            shutil.copy(path, target)
    return recipe, folder / "run"


def evaluate(recipe: Path, run: Path, *overrides: str) -> dict:
    main([str(recipe), f"output_dir={run}", *overrides])
    return read_json(run / "eval" / "results.json")


def test_results_are_those_of_the_predictions(run, capsys):
    recipe, folder = run
    results = evaluate(recipe, folder)
    rows = read_jsonl(folder / "eval" / "predictions.jsonl")
    assert results["num_units"] == len(rows)
    assert {"split", "normalizer", "num_words", "hours", "decoding", "paired"} <= results.keys()
    from distill.metrics.error_rates import error_counts, total
    from distill.metrics.normalize import normalizer

    clean = normalizer("english", "en")
    for role in ("teacher", "student"):
        counts = total(error_counts(clean(r["reference"]), clean(r[role])) for r in rows)
        assert results[role]["wer"] == pytest.approx(counts.rate)
        low, high = results[role]["wer_ci"]
        assert low <= results[role]["wer"] <= high
        assert results[role]["rtfx"] > 0 and results[role]["peak_memory_bytes"] > 10**8
        assert results[role]["dtype"] == "float32"
    assert results["student"]["parameters"] < results["teacher"]["parameters"]
    assert text_table(results) in capsys.readouterr().out
    student, teacher = ({**results[role], "bleu": None, "peak_memory_bytes": None}
                        for role in ("student", "teacher"))
    shown = text_table({**results, "student": student, "teacher": teacher})
    assert "BLEU" not in shown and "peak memory" not in shown  # nobody has them: no empty rows
    shown = text_table({**results, "student": student})
    assert re.search(r"peak memory +\d+ MB +-$", shown, re.M)
    assert (folder / "report" / "index.html").is_file()


def test_clip_by_clip(run, capsys, monkeypatch):
    """Errors are those of the clips packed by themselves, times are of all ways."""
    monkeypatch.setattr("eval.speech.clip_times._ROUNDS", 1)
    monkeypatch.setattr("eval.speech.clip_times._TIMED", 2)
    recipe, folder = run
    options = ("evaluation.clips=true", "teacher.short_audio_margin=0.5")
    results = evaluate(recipe, folder, *options)
    clips = results["clips"]
    alone = evaluate(recipe, folder, "evaluation.pack=false")
    assert clips["num_clips"] == alone["num_units"] and clips["num_words"] == alone["num_words"]
    assert clips["student_wer"] == alone["student"]["wer"]
    assert clips["short_audio_margin"] == {"teacher": 0.5, "student": None}
    low, high = clips["wer_difference_ci"]
    assert low <= clips["wer_difference"] <= high
    assert clips["wer_difference"] == clips["student_wer"] - clips["teacher_wer"]
    assert len(clips["milliseconds"]) == 5 and min(clips["milliseconds"].values()) > 0
    assert clips["speedup_vs_padded_teacher_fp32"] > 0
    assert clips["speedup_vs_transformers_int8"] > 0
    assert clips["milliseconds_in_batch"].keys() == {"batch_size", *clips["milliseconds"]}
    low, high = clips["int8_wer_difference_ci"]
    assert low <= clips["int8_wer_difference"] <= high
    assert clips["int8_wer_difference"] == clips["student_int8_wer"] - clips["teacher_wer"]
    assert clips["megabytes"].keys() == {"teacher", "student", "student_int8"}
    assert clips["megabytes"]["student_int8"] < clips["megabytes"]["student"] < (
        clips["megabytes"]["teacher"])
    printed = capsys.readouterr().out
    first = printed[printed.index("Clip by clip: "):].splitlines()[4]  # what a user gets
    assert first.split()[:2] == ["student,", "int8"] and first.endswith(" MB")
    assert printed.index("Clip by clip: ") < printed.index("Joined to windows of up to 30 s:")
    assert "clips" not in alone


def test_a_second_evaluation_is_the_first(run, capsys, monkeypatch):
    recipe, folder = run
    before = evaluate(recipe, folder)
    monkeypatch.setattr("distill.whisper.teacher.load_teacher", None)  # must not be needed
    assert evaluate(recipe, folder) == before
    assert "done already" in capsys.readouterr().out


def test_another_student_is_measured_again(run, tmp_path):
    recipe, folder = run
    shutil.copytree(folder, tmp_path / "run")
    before = evaluate(recipe, tmp_path / "run")
    write_json(tmp_path / "run" / "student.json", {"settings": "others"})
    assert evaluate(recipe, tmp_path / "run")["settings"] != before["settings"]


def test_no_student_and_no_test_split(run, tmp_path):
    recipe, folder = run
    with pytest.raises(ValueError, match="NAME.train"):
        evaluate(recipe, tmp_path)
    with pytest.raises(ValueError, match="data.test"):
        evaluate(recipe, folder, "data.test=[]")


def test_loops_are_counted_whether_ended_or_not():
    said = Hypothesis([1, 2, 3], -0.1, 0.0, truncated=False, looped=False)
    assert not is_loop(said)
    assert is_loop(dataclasses.replace(said, looped=True))
    assert not is_loop(dataclasses.replace(said, tokens=list(range(400)), truncated=True))
    assert is_loop(dataclasses.replace(said, tokens=[7] * 400, truncated=True))


def test_long_clips_are_units_with_their_reference(demo_data):
    rows, _ = read_manifest(demo_data / "test.jsonl")
    long = [row for row in rows if row.duration > 30]
    utterances, drops = evaluation_utterances(rows, "test", packed=True)
    assert not drops and len(long) == 2
    by_id = {utterance.id: utterance for utterance in utterances}
    for row in long:
        assert by_id[row.id].reference == row.text
        assert len(by_id[row.id].windows) == 2
        assert by_id[row.id].duration == pytest.approx(row.duration, abs=0.01)
    words = sum(len(utterance.reference.split()) for utterance in utterances)
    assert words == sum(len(row.text.split()) for row in rows)  # nothing is lost or twice
    apart, _ = evaluation_utterances(rows, "test", packed=False)
    assert len(apart) == len(rows)


@pytest.mark.parametrize("way", ["speech", "sequential"])
def test_long_audio(run, demo_data, tmp_path, way, monkeypatch):
    """A minute with pauses of noise: one unit, whatever its windows leave out."""
    monkeypatch.setattr("distill.whisper.recognition.sequential.Fallback", lambda: GREEDY)
    recipe, folder = run
    prompts = [load_audio(demo_data / "audio" / f"{name}.ogg")
               for name in ("agent-pass", "demo-abouttotry")]
    pause = 0.01 * np.random.default_rng(0).standard_normal(20 * 16000)
    samples = np.concatenate([part for prompt in prompts for part in (pause, prompt)])
    soundfile.write(tmp_path / "long.wav", samples.astype(np.float32), 16000)
    short = read_manifest(recipe.parent / "corpus" / "test.jsonl")[0][0]
    long = Row("long", str(tmp_path / "long.wav"), len(samples) / 16000, text="one two")
    write_manifest(tmp_path / "test.jsonl", [short, long])
    options = [f"data.test=[{tmp_path / 'test.jsonl'}]", f"evaluation.long_audio={way}",
               f"labels_dir={tmp_path}"]
    copy = tmp_path / "run"
    shutil.copytree(folder / "student", copy / "student")
    results = evaluate(recipe, copy, *options)
    row = next(r for r in read_jsonl(copy / "eval" / "predictions.jsonl") if r["id"] == "long")
    assert results["num_units"] == 2 and row["reference"] == "one two"
    assert row["duration"] == pytest.approx(long.duration, abs=1e-3)
    assert results["hours"] * 3600 == pytest.approx(short.duration + long.duration, abs=1e-3)
    heard = sum(piece["duration"] for piece in row["pieces"])
    assert (heard < long.duration - 25) == (way == "speech")
    said = {"speech": "cut where nobody speaks", "sequential": "by timestamps"}
    assert said[way] in results["decoding"]
    recipe = load_recipe(recipe, [*options, f"output_dir={copy}"])
    sizes = {whole: [w.duration for u in find_utterances(recipe, whole)[0] for w in u.windows]
             for whole in (False, True)}
    assert max(sizes[False]) <= 30
    assert (max(sizes[True]) > 30) == (way == "sequential")


def test_peak_memory_sees_what_is_allocated():
    """200 MB that are there when the work ends, however short; and what was let go before."""
    gc.collect()  # memory given back in between would be missing from the difference
    with PeakMemory() as small:
        pass
    with PeakMemory() as brief:
        block = torch.ones(50_000_000)
    assert brief.peak_bytes - small.peak_bytes > 150e6
    end = time.monotonic() + 60
    with PeakMemory() as gone:
        while gone.peak_bytes < brief.peak_bytes - 50e6 and time.monotonic() < end:
            time.sleep(0.01)  # until somebody has looked
        del block
    assert gone.peak_bytes - small.peak_bytes > 150e6


def test_what_was_said_before_a_stop_is_kept(run, tmp_path, monkeypatch):
    """Ctrl-C in the second batch of the teacher: the student is not asked again, nor is the first
    batch, and the results are those of a run that nobody stopped."""
    recipe, folder = run
    shutil.copytree(folder / "student", tmp_path / "run" / "student")
    options = [f"output_dir={tmp_path / 'run'}", "evaluation.batch_size=1", "evaluation.pack=false"]
    asked = []

    def stop_after(count):
        def transcribe(decoder, processor, windows, *more, **options):
            if more[0] == 1 and not options:  # no warm-up
                asked.append(windows[0].id)
                if len(asked) > count:
                    raise KeyboardInterrupt
            return real(decoder, processor, windows, *more, **options)
        return transcribe

    real = asr.transcribe
    monkeypatch.setattr(asr, "transcribe", stop_after(5))
    with pytest.raises(KeyboardInterrupt):
        main([str(recipe), *options])
    assert len(asked) == 6 and len(set(asked[:4])) == 4  # of four clips
    with open(tmp_path / "run" / "eval" / ".teacher.said.jsonl", "a") as file:
        file.write('{"found": {"torn')  # a power cut
    asked.clear()
    monkeypatch.setattr(asr, "transcribe", stop_after(100))
    main([str(recipe), *options])
    assert len(asked) == 3
    ours = read_json(tmp_path / "run" / "eval" / "results.json")
    monkeypatch.setattr(asr, "transcribe", real)
    shutil.copytree(folder / "student", tmp_path / "whole" / "student")
    main([str(recipe), f"output_dir={tmp_path / 'whole'}", *options[1:]])
    whole = read_json(tmp_path / "whole" / "eval" / "results.json")
    for role in ("teacher", "student"):
        assert ours[role]["wer"] == whole[role]["wer"] and ours[role]["rtfx"] > 0
    assert not [*(tmp_path / "run" / "eval").glob(".*.jsonl")]
    name = "predictions.jsonl"
    assert (tmp_path / "run" / "eval" / name).read_text() == (
        tmp_path / "whole" / "eval" / name).read_text()


def test_pictures_that_cannot_be_drawn_cost_nothing_else(run, capsys, monkeypatch):
    recipe, folder = run
    evaluate(recipe, folder)
    shutil.rmtree(folder / "report")
    monkeypatch.setattr("eval.plots.write_plots", lambda run: 1 / 0)
    with pytest.raises(ValueError, match="pictures .*cannot be drawn .*; results and report"):
        evaluate(recipe, folder)
    assert (folder / "report" / "index.html").is_file()
    assert "teacher" in capsys.readouterr().out


def test_references_without_a_word_are_refused_before_a_model_is_loaded(run, tmp_path, monkeypatch):
    recipe, folder = run
    rows = read_manifest(recipe.parent / "corpus" / "test.jsonl")[0]
    silent = [dataclasses.replace(row, text="[music]") for row in rows]
    write_manifest(tmp_path / "test.jsonl", silent)
    monkeypatch.setattr(asr, "transcribe", None)
    with pytest.raises(ValueError, match="data.test: no word is left of . transcripts once they"):
        evaluate(recipe, folder, f"data.test=[{tmp_path / 'test.jsonl'}]")
