"""Files of many kinds through the command, with a tiny model; how subtitles look."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from distill.data.audio import load_audio
from distill.endings import OutputError
from distill.whisper.decoding.phrases.trie import BOOST
from distill.whisper.recognition.fallback import GREEDY
from distill.whisper.recognition.sequential import Segment
from distill.whisper.recognition.words import Word
from distill.whisper.student import make_student
from eval.audio_files import output_places
from eval.speech.subtitles import write
from eval.transcribe import _parser, load, load_decoder, main
from tests.support.media_files import write_m4a

SEGMENTS = [
    Segment(0.0, 2.504, "One & <two>.", [1, 2], "en", -0.25, 0.5, 0.0,
            [Word(" One", 0.1, 0.35, 0.91234567)]),
    Segment(3599.9996, 3602.02, "a\n\n--> b", [3], "en", -0.123456789, 0.0, 0.2),
]


def test_subtitles():
    assert write("txt", SEGMENTS[:1], {}) == "One & <two>.\n"
    assert write("srt", SEGMENTS, {}) == (
        "1\n00:00:00,000 --> 00:00:02,504\nOne & <two>.\n\n"
        "2\n01:00:00,000 --> 01:00:02,020\na -> b\n")
    assert write("vtt", SEGMENTS, {}) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.504\nOne &amp; &lt;two&gt;.\n\n"
        "01:00:00.000 --> 01:00:02.020\na -&gt; b\n")
    found = json.loads(write("json", SEGMENTS, {"file": "ü.wav"}))
    assert found["file"] == "ü.wav" and found["segments"][1]["avg_logprob"] == -0.1235
    assert "words" not in found["segments"][1]
    assert found["segments"][0]["words"] == [
        {"text": " One", "start": 0.1, "end": 0.35, "probability": 0.9123}]
    assert [write(kind, [], {}) for kind in ("txt", "srt", "vtt")] == ["", "", "WEBVTT\n"]
    with pytest.raises(ValueError, match="no such format: 'doc'"):
        write("doc", [], {})


def test_places(tmp_path):
    (tmp_path / "a/deep").mkdir(parents=True)
    for name in ("a/x.wav", "a/deep/x.WAV", "a/notes.txt", "x.wav"):
        (tmp_path / name).touch()
    folder, file, out = tmp_path / "a", tmp_path / "x.wav", tmp_path / "out"
    assert output_places([folder, file, file], None) == {
        path: path for path in (folder / "deep/x.WAV", folder / "x.wav", file)}
    assert output_places([folder], out) == {
        folder / "deep/x.WAV": out / "deep/x.WAV", folder / "x.wav": out / "x.wav"}
    with pytest.raises(ValueError, match="would both be written to"):
        output_places([folder, file], out)
    with pytest.raises(ValueError, match="no such file or folder"):
        output_places([tmp_path / "y.wav"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no audio in .*empty: no name ends with .*\.flac"):
        output_places([tmp_path / "empty"], None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, demo_data) -> Path:
    """A folder as users have them."""
    folder = tmp_path_factory.mktemp("calls")
    samples = load_audio(demo_data / "audio" / "agent-pass.ogg")
    soundfile.write(folder / "phone.wav", soxr.resample(samples, 16000, 8000), 8000)
    sound = soxr.resample(samples, 16000, 44100)
    soundfile.write(folder / "stereo.flac", np.stack([sound, 0.5 * sound], 1), 44100)
    soundfile.write(folder / "talk.mp3", sound, 44100)
    (folder / "b").mkdir()
    soundfile.write(folder / "b" / "long.ogg", np.tile(samples, 10), 16000)
    soundfile.write(folder / "nothing.wav", np.zeros((0, 1)), 16000)
    (folder / "text.wav").write_text("this is not audio")
    return folder


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch):
    """A random model is never sure of anything."""
    monkeypatch.setattr("distill.whisper.recognition.sequential.Fallback", lambda: GREEDY)


GOOD = ("phone.wav", "stereo.flac", "talk.mp3", "b/long.ogg")


def test_a_folder(folder, tiny_teacher, tiny_model, tiny_processor, tmp_path, capsys):
    command = [str(folder), "--model", str(tiny_teacher), "--output-dir", str(tmp_path / "out"),
               "--format", "txt", "srt", "vtt", "json"]
    assert main([*command, "--words"]) == 1  # two files are broken
    said = capsys.readouterr()
    assert "nothing.wav: zero-length audio" in said.err and "text.wav: " in said.err
    assert "4 files" in said.out and "2 could not be read" in said.out
    written = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert written == {f"{name}.{kind}" for name in GOOD for kind in ("txt", "srt", "vtt", "json")}
    num_segments = 0
    for name in GOOD:
        found = json.loads((tmp_path / f"out/{name}.json").read_text())
        assert found["file"] == str(folder / name)
        assert not found["segments"] or found["language"] in ("en", "de", "zh")
        assert found["duration"] == pytest.approx(32.85 if "long" in name else 3.285, abs=0.1)
        assert all(s["start"] <= s["end"] and s["words"] for s in found["segments"])
        num_segments += len(found["segments"])
        text = (tmp_path / f"out/{name}.txt").read_text()
        assert text.splitlines() == "\n".join(s["text"] for s in found["segments"]).splitlines()
    assert num_segments > 3
    before = (tmp_path / "out/b/long.ogg.txt").read_text()
    (tmp_path / "out/b/long.ogg.srt").unlink()
    (tmp_path / "out/phone.wav.txt").write_text("typed")
    student = make_student(tiny_model, [0, 3], [0, 1])
    student.save_pretrained(tmp_path / "student")
    tiny_processor.save_pretrained(tmp_path / "student")
    main([*command, "--assistant", str(tmp_path / "student"), "--batch-size", "1"])
    said = capsys.readouterr()
    assert "3 of 6 files are transcribed already" in said.out and "Decoding:" in said.out
    assert (tmp_path / "out/b/long.ogg.txt").read_text() == before  # the model's own text
    assert (tmp_path / "out/phone.wav.txt").read_text() == "typed"
    assert (tmp_path / "out/b/long.ogg.srt").is_file()


def test_int8_with_an_assistant(folder, tiny_teacher, tiny_model, tiny_processor, tmp_path,
                                monkeypatch):
    """Both parts of the model are in int8; the assistant was compared with it in float."""
    from distill.whisper.encoder import int8

    encoders = []
    real = int8.with_int8_encoder
    monkeypatch.setattr(int8, "with_int8_encoder", lambda model: encoders.append(1) or real(model))
    student = make_student(tiny_model, [0, 3], [0, 1])
    student.save_pretrained(tmp_path / "student")
    tiny_processor.save_pretrained(tmp_path / "student")
    command = [str(folder / "phone.wav"), "--model", str(tiny_teacher), "--int8"]
    assert main([*command, "--output-dir", str(tmp_path / "alone")]) in (0, None)
    assert main([*command, "--assistant", str(tmp_path / "student"),
                 "--output-dir", str(tmp_path / "drafts")]) in (0, None)
    texts = [(tmp_path / name / "phone.wav.txt").read_text() for name in ("alone", "drafts")]
    assert texts[0] == texts[1] and texts[0].strip() and len(encoders) == 2


def test_other_containers(tiny_teacher, tmp_path, demo_data, monkeypatch, capsys):
    """By PyAV; where it is not there, the error says what to install."""
    path = tmp_path / "talk.m4a"
    write_m4a(path, load_audio(demo_data / "audio" / "agent-pass.ogg"))
    shutil.copyfile(path, tmp_path / "b.wav")  # what it is, its content says
    command = [str(tmp_path), "--model", str(tiny_teacher), "--language", "en", "--batch-size", "1"]
    assert main(command) == 0
    texts = {file.name: file.read_text() for file in tmp_path.glob("*.txt")}
    assert list(sorted(texts)) == ["b.wav.txt", "talk.m4a.txt"] and len(set(texts.values())) == 1
    assert texts["b.wav.txt"]
    monkeypatch.setattr("distill.data.formats.readers.find_spec", lambda _: None)
    assert main([str(path), "--model", str(tiny_teacher), "--overwrite"]) == 1
    assert "audio-distill[media]" in capsys.readouterr().err


def test_a_model_without_a_table_of_languages(folder, tiny_teacher, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    config = json.loads(path.read_text())
    del config["lang_to_id"], config["is_multilingual"]
    path.write_text(json.dumps(config))
    command = [str(folder / "phone.wav"), "--model", str(tmp_path / "model"), "--output-dir",
               str(tmp_path), "--format", "json", "--language"]
    assert main([*command, "German"]) == 0
    assert json.loads((tmp_path / "phone.wav.json").read_text())["language"] == "de"
    with pytest.raises(ValueError, match="--language xx: .* knows de, en, zh"):
        main([*command, "xx", "--overwrite"])
    path.write_text(json.dumps(config | {"is_multilingual": False}))
    with pytest.raises(ValueError, match="--language de: .* knows en$"):
        main([*command, "de", "--overwrite"])


def test_what_is_refused(folder, tiny_teacher, tmp_path):
    file = str(folder / "phone.wav")
    with pytest.raises(ValueError, match="--language xx: .* knows de, en, zh"):
        main([file, "--model", str(tiny_teacher), "--language", "xx"])
    with pytest.raises(ValueError, match="add --format json"):
        main([file, "--model", str(tiny_teacher), "--words"])
    with pytest.raises(ValueError, match="no Whisper model"):
        load(str(tmp_path))
    for size in ("0", "-3"):
        with pytest.raises(ValueError, match=f"--batch-size must be 1 or more, got {size}"):
            main([file, "--model", str(tiny_teacher), f"--batch-size={size}"])
    for words, what in ((["--hotwords", str(tmp_path / "none")], "one phrase a line"),
                        (["--boost", "2"], "add --hotwords"),
                        (["--hotwords", file, "--boost=-1"], "--boost must be > 0")):
        with pytest.raises(ValueError, match=what):
            main([file, "--model", str(tiny_teacher), *words])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot .*file"):  # before the model is loaded
        main([file, "--model", str(tiny_teacher), "--output-dir", str(tmp_path / "file" / "out")])


def test_hotwords(folder, tiny_teacher, tmp_path):
    (tmp_path / "names.txt").write_text("Moskowitz\n")
    command = [str(folder / "phone.wav"), "--model", str(tiny_teacher), "--language", "en",
               "--output-dir", str(tmp_path), "--hotwords", str(tmp_path / "names.txt")]
    for options, boost in (([], BOOST), (["--boost", "2"], 2.0)):
        decoder, _ = load_decoder(_parser().parse_args([*command, *options]))
        assert (decoder.phrases.phrases, decoder.phrases.boost) == (["Moskowitz"], boost)
    assert main(command) == 0


def test_silence_has_no_text(folder, tiny_teacher, tmp_path, capsys):
    for name, level in (("zeros", 0.0), ("noise", 0.1)):
        sound = level * np.random.default_rng(0).standard_normal(40 * 16000)
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000)
    files = [str(tmp_path / "zeros.wav"), str(tmp_path / "noise.wav"), str(folder / "phone.wav")]
    command = [*files, "--model", str(tiny_teacher), "--output-dir", str(tmp_path / "out"),
               "--format", "txt", "srt", "json"]
    assert main(command) == 0
    assert "no speech in 2" in capsys.readouterr().out
    for name in ("zeros", "noise"):
        assert (tmp_path / f"out/{name}.wav.txt").read_text() == ""
        assert (tmp_path / f"out/{name}.wav.srt").read_text() == ""
        assert json.loads((tmp_path / f"out/{name}.wav.json").read_text())["segments"] == []
    assert (tmp_path / "out/phone.wav.txt").read_text()
    assert main([*command, "--no-vad", "--overwrite"]) == 0
    assert (tmp_path / "out/zeros.wav.txt").read_text()  # what a random model makes up
