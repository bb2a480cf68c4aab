"""What passes is published, what does not leaves nothing but its numbers."""

import errno
import json
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch

from distill import export
from distill.config import ConfigError
from distill.data.model_files import model_stamp
from distill.whisper.export import run as run_module
from distill.whisper.export import verify as verify_module
from distill.whisper.export.forced import student_reader
from distill.whisper.export.run import export_student
from distill.whisper.export.table import text_table
from distill.whisper.export.verify import refusals
from distill.whisper.recognition.transcribe import to_text


@pytest.fixture
def ours(student_model, tiny_processor):
    """`transcribe(audio, language)` as our decoder does it."""
    from distill.whisper.decoding.whisper_decoder import WhisperDecoder
    from distill.whisper.encoder.padded import encode, log_mel

    model = student_model
    decoder = WhisperDecoder(model, tiny_processor.tokenizer, "en", on_loop="keep")

    def transcribe(audio: np.ndarray, language: str) -> str:
        states = encode(model, log_mel(tiny_processor, [audio]))
        return to_text(tiny_processor.tokenizer, decoder(states, [448])[0].tokens)

    return transcribe


def results(run) -> dict:
    return json.loads((run / "export" / "ggml" / "verification.json").read_text())


def test_the_same_words_are_published(recipe, tiny_run, fake_runtime, ours, capsys):
    fake_runtime(ours)
    assert export_student(recipe(), "ggml")
    assert (tiny_run / "export/ggml/float16/weights").read_text() == "weights"
    (entry,) = results(tiny_run)["exports"]
    assert entry["wer_difference"] == 0 and entry["token_agreement"] == 1 and not entry["refused"]
    assert entry["identical_windows"] == results(tiny_run)["num_windows"]
    assert not list((tiny_run / "export/ggml").glob(".partial*"))
    assert "100.0 %" in capsys.readouterr().out


def test_it_is_done_once(recipe, tiny_run, fake_runtime, ours, capsys, monkeypatch):
    fake_runtime(ours)
    assert export_student(recipe(), "ggml")
    monkeypatch.setattr(run_module, "_export", lambda *_: pytest.fail("done already"))
    assert export_student(recipe(), "ggml")
    assert "already" in capsys.readouterr().out
    for name in ("results.json", "preprocessor_config.json"):  # as pushing does
        (tiny_run / "student" / name).write_text("{}")
    assert export_student(recipe(), "ggml")
    for change in ((), ("export.max_wer_increase=0.3",)):
        if not change:
            shutil.rmtree(tiny_run / "export/ggml/float16")
        with pytest.raises(pytest.fail.Exception):
            export_student(recipe(*change), "ggml")


def test_another_student_is_another_stamp(tiny_run):
    student = tiny_run / "student"
    before = model_stamp(student)
    (student / "results.json").write_text("{}")
    assert model_stamp(student) == before
    shutil.copytree(student, student.parent / "copy", copy_function=shutil.copy)
    assert model_stamp(student.parent / "copy") == before, "dates are no part of a model"
    path = student / "generation_config.json"
    path.write_text(path.read_text().replace("true", "false", 1))
    assert model_stamp(student) != before


def test_other_words_are_refused_with_the_numbers(recipe, tiny_run, fake_runtime, ours, capsys):
    fake_runtime(ours)
    assert export_student(recipe(), "ggml")
    fake_runtime(lambda audio, language: "something else, and many more words than were said " * 3)
    assert not export_student(recipe("export.max_wer_increase=0.02"), "ggml")
    assert [p.name for p in (tiny_run / "export/ggml").iterdir()] == ["verification.json"]
    (entry,) = results(tiny_run)["exports"]
    assert len(entry["refused"]) == 2 and entry["wer_difference"] > 0.02
    shown = capsys.readouterr().out
    assert "REFUSED" in shown and "export.max_wer_increase allows +2.00" in shown
    assert f": 0.0 % [0.0, 0.0] of {entry['num_tokens']} tokens are ours" in shown


def test_what_is_for_certain_beyond_a_limit_is_refused(recipe):
    """Differences that chance alone explains are no reason; `make demo.export` met the first."""
    limits = recipe().export
    fine = {"wer": 0.26, "own_wer": 0.24, "wer_difference": 0.0, "wer_difference_ci": [0.0, 0.0],
            "token_agreement": 1.0, "token_agreement_ci": [1.0, 1.0], "num_tokens": 900,
            "token_loss": 0.0, "token_loss_ci": [0.0, 0.0], "num_read_tokens": 900}
    cases = [  # what differs, words of each reason
        ({"wer_difference": 0.026, "wer_difference_ci": [-0.0065, 0.072]}, []),
        ({"wer_difference": 0.012, "wer_difference_ci": [0.009, 0.015]}, []),
        ({"wer_difference": 0.03, "wer_difference_ci": [0.011, 0.06]}, ["+1.10, +6.00"]),
        ({"wer_difference": -0.2, "wer_difference_ci": [-0.4, -0.1]}, []),
        ({"wer_difference": 0.5, "wer_difference_ci": None}, ["+50.00 points, "]),  # one unit
        ({"wer_difference": None, "wer_difference_ci": None}, []),
        ({"token_agreement": 0.85, "token_agreement_ci": [0.7, 0.93]}, []),
        ({"token_agreement": 0.85, "token_agreement_ci": [0.82, 0.89]}, ["85.0 % [82.0, 89.0]"]),
        ({"token_agreement": 0.85, "token_agreement_ci": None}, ["85.0 % of 900"]),
        ({"token_loss": 0.02, "token_loss_ci": [0.01, 0.03]}, []),
        ({"token_loss": 0.15, "token_loss_ci": [0.05, 0.25]}, []),
        ({"token_loss": 0.4, "token_loss_ci": [0.3, 0.5]}, ["0.400 nats less likely [0.300"]),
        ({"token_loss": None, "token_loss_ci": None}, []),
    ]
    for differs, reasons in cases:
        found = refusals(fine | differs, limits, "word")
        assert len(found) == len(reasons) and all(
            part in reason for part, reason in zip(reasons, found, strict=True)), (differs, found)


def test_broken_copies_are_refused(recipe, tiny_run, fake_runtime, ours, student_model,
                                   tiny_processor):
    """Weights that were spoiled, and a vocabulary that is not the student's."""
    def copy(spoil: float):
        model = deepcopy(student_model)
        with torch.no_grad():
            model.model.decoder.embed_positions.weight *= 1 - spoil
        read = student_reader(model, tiny_processor, "transcribe")
        return lambda audio, language, tokens: read(audio, language, tokens, False)

    fake_runtime(ours, read=copy(1e-4))
    assert export_student(recipe(), "ggml")
    (entry,) = results(tiny_run)["exports"]
    assert abs(entry["token_loss"]) < 0.01 < 1 < entry["num_read_tokens"]
    low, high = entry["token_loss_ci"]
    assert low <= entry["token_loss"] <= high
    for read in (copy(2.0), lambda audio, language, tokens: np.full(len(tokens), np.nan)):
        fake_runtime(ours, read=read)
        assert not export_student(recipe("export.max_wer_increase=9"), "ggml")
        (entry,) = results(tiny_run)["exports"]
        (reason,) = entry["refused"]
        assert "nats less likely" in reason and entry["token_loss"] > 0.1
        shutil.rmtree(tiny_run / "export")
    shifted = str.maketrans({chr(n): chr(n + 1) for n in range(ord("A"), ord("z"))})
    fake_runtime(lambda *inputs: ours(*inputs).translate(shifted), read=copy(0.0))
    assert not export_student(recipe("export.max_wer_increase=9"), "ggml")
    (reason,) = results(tiny_run)["exports"][0]["refused"]
    assert "tokens are ours" in reason


def test_loops_say_nothing_of_a_copy(recipe, tiny_run, fake_runtime, ours):
    """One window loops: its end is cut, and its tokens are not compared."""
    first = []

    def transcribe(audio, language):
        text = ours(audio, language)
        first.append(len(audio))
        return text + " no" * 80 if len(audio) == first[0] else text

    fake_runtime(transcribe)
    assert export_student(recipe("export.max_wer_increase=9"), "ggml")
    (entry,) = results(tiny_run)["exports"]
    assert (entry["looping_windows"], entry["own_looping_windows"]) == (1, 0)
    assert entry["token_agreement"] == 1 and entry["wer_difference_without_loops"] == 0
    assert entry["num_units_without_loops"] == results(tiny_run)["num_units"] - 1
    assert entry["wer_difference"] < 1


def test_words_at_the_wrong_time_are_refused(recipe, tiny_run, fake_runtime, ours):
    spoken = {}

    def words(audio, language):
        text = spoken.setdefault(len(audio), ours(audio, language))
        return [(text, 0.0, 1.0)]

    fake_runtime(ours, words)
    assert export_student(recipe(), "ggml")  # a random model says nothing that was said
    times = results(tiny_run)["exports"][0]["word_times"]
    assert times["num_recognised"] == 0 and times["num_boundaries"] > 0


def test_what_cannot_be_known_is_refused(recipe, tiny_run, fake_runtime, ours):
    fake_runtime(ours, lambda *_: [])
    assert export_student(recipe(), "ggml")  # no first word of a clip is in the texts either
    found, limits = results(tiny_run), recipe().export
    (entry,) = found["exports"]
    entry["word_times"]["num_in_texts"] = 3
    assert "no word times: 3 clips" in refusals(entry, limits, "word")[0]
    late = entry["word_times"] | {"median_error_seconds": 0.22, "num_recognised": 67}
    fine = entry | {"word_times": late | {"median_error_ci_seconds": [0.19, 0.24]}}
    assert not refusals(fine, limits, "word")  # 67 beginnings do not tell it from 0.2 s
    worse = entry | {"word_times": late | {"median_error_ci_seconds": [0.21, 0.24]}}
    assert "0.22 s [0.21, 0.24] off" in refusals(worse, limits, "word")[0]
    entry |= {"word_times": None, "wer_difference": 9.0, "wer_difference_ci": None}
    assert refusals(entry, limits, "char")[0].startswith("CER ")
    table = text_table(found | {"error_unit": "char"})
    assert "CER [95 % CI]" in table and "WER" not in table
    fake_runtime(lambda *_: "no " * 80)
    assert not export_student(recipe("export.max_wer_increase=99"), "ggml")
    (entry,) = results(tiny_run)["exports"]
    assert entry["num_tokens"] == 0 and entry["token_agreement"] is None
    assert ["all windows loop" in reason for reason in entry["refused"]] == [True]
    assert "100.0 %" not in text_table(results(tiny_run))


@pytest.mark.parametrize("stage", ["_WRITERS", "_RUNTIMES"])
def test_a_full_disk_leaves_nothing(recipe, tiny_run, fake_runtime, ours, monkeypatch, stage):
    fake_runtime(ours)
    write = run_module._WRITERS["ggml"]

    def fail(student, out, *_):
        if stage == "_WRITERS":
            write(student, out)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(getattr(run_module, stage), "ggml", fail)
    with pytest.raises(OSError, match="No space"):
        export_student(recipe(), "ggml")
    assert not list((tiny_run / "export/ggml").iterdir())


def test_a_stopped_export_goes_on(recipe, tiny_run, fake_runtime, ours, monkeypatch):
    """Copies are written once, and what was measured is not measured again."""
    asked = []

    def transcribe(audio, language):
        asked.append(len(audio))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ours(audio, language)

    fake_runtime(transcribe)
    with pytest.raises(KeyboardInterrupt):
        export_student(recipe(), "ggml")
    assert not (tiny_run / "export/ggml/float16").exists(), "nothing is published yet"
    monkeypatch.setitem(run_module._WRITERS, "ggml", lambda *_: pytest.fail("written already"))
    monkeypatch.setattr(verify_module, "transcribe", lambda *_: pytest.fail("ours is known"))
    with monkeypatch.context() as stopped:
        stopped.setattr(run_module, "_publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_student(recipe(), "ggml")
    before = len(asked)
    assert export_student(recipe(), "ggml")
    assert len(asked) == before, "the runtime was done"
    assert (tiny_run / "export/ggml/float16/weights").read_text() == "weights"
    assert not list((tiny_run / "export/ggml").glob(".partial*"))


def interrupted(*_):
    raise KeyboardInterrupt


def test_what_a_killed_export_left_goes(recipe, tiny_run, fake_runtime, ours):
    left = tiny_run / "export/ggml/.partial-dead/float16"
    left.mkdir(parents=True)
    fake_runtime(ours)
    assert export_student(recipe(), "ggml")
    assert not left.parent.exists()


def test_errors(recipe, tiny_run, monkeypatch):
    with pytest.raises(ConfigError, match="to must be one of: ct2, onnx, ggml; got gguf"):
        export.main(["demo", "to=gguf"])
    with pytest.raises(ConfigError, match="got nothing"):
        export.main(["demo"])
    monkeypatch.setitem(run_module.PACKAGES, "ggml", ("no-such-package",))
    with pytest.raises(ValueError, match=r"no-such-package is not installed: pip .*\[export\]"):
        export_student(recipe(), "ggml")
    (tiny_run / "student/config.json").unlink()
    with pytest.raises(ValueError, match="no student in .*make run.train"):
        export_student(recipe(), "ct2")


def test_the_exit_code(tiny_export, tiny_run, fake_runtime):
    fake_runtime(lambda audio, language: "no")
    assert export.main([str(tiny_export / "recipe"), f"output_dir={tiny_run}", "to=ggml"]) == 1


@pytest.mark.parametrize("override", ["export.max_wer_increase=-1", "export.max_word_time_error=0",
                                      "export.max_token_loss=0",
                                      "export.min_token_agreement=95"])
def test_limits_make_sense(recipe, override):
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        recipe(override)
