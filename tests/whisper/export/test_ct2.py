"""CTranslate2 folders: the same tokens, and what faster-whisper needs beside the weights."""

import json

import numpy as np
import pytest

from distill.whisper.ct2 import read_model
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.padded import encode, log_mel
from distill.whisper.export import runtimes
from distill.whisper.export.ct2 import QUANTIZATIONS, write_ct2
from distill.whisper.export.forced import student_reader
from distill.whisper.export.run import export_student
from distill.whisper.special import SpecialTokens

HEADS = [(1, 1), (0, 1)]


@pytest.fixture(scope="module")
def folders(tiny_export, tmp_path_factory):
    """{weights: CTranslate2 folder}."""
    pytest.importorskip("ctranslate2")
    out = tmp_path_factory.mktemp("ct2")
    for weights in QUANTIZATIONS:
        write_ct2(tiny_export / "run" / "student", out / weights, weights, HEADS)
    return {weights: out / weights for weights in QUANTIZATIONS}


def test_the_same_tokens(folders, student_model, tiny_processor):
    import ctranslate2

    audio = np.random.default_rng(0).normal(size=48_000).astype(np.float32) * 0.1
    features = log_mel(tiny_processor, [audio])
    special = SpecialTokens(tiny_processor.tokenizer, student_model.generation_config)
    (ours,) = WhisperDecoder(student_model, tiny_processor.tokenizer, "de", on_loop="keep")(
        encode(student_model, features), [448])
    model = ctranslate2.models.Whisper(str(folders["float16"]), compute_type="float32")
    (theirs,) = model.generate(ctranslate2.StorageView.from_array(features.numpy()),
                               [special.prefix("de", "transcribe", False)], beam_size=1)
    assert theirs.sequences_ids[0] == ours.tokens
    assert len(ours.tokens) > 3


def test_alignment_heads_are_the_students(folders):
    for folder in folders.values():
        assert json.loads((folder / "config.json").read_text())["alignment_heads"] == [[1, 1],
                                                                                      [0, 1]]


def test_what_faster_whisper_reads(folders, tiny_processor):
    for folder in folders.values():
        names = {path.name for path in folder.iterdir()}
        assert names == {"config.json", "model.bin", "preprocessor_config.json", "tokenizer.json",
                         "vocabulary.json"}
        assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 80
        words = json.loads((folder / "vocabulary.json").read_text())
        assert len(words) == len(tiny_processor.tokenizer)


def test_128_bands_stay_128(tiny_teacher, tmp_path):
    pytest.importorskip("ctranslate2")
    import shutil

    folder = tmp_path / "large"
    shutil.copytree(tiny_teacher, folder)
    path = folder / "processor_config.json"
    facts = json.loads(path.read_text())
    facts["feature_extractor"]["feature_size"] = 128
    path.write_text(json.dumps(facts))
    write_ct2(folder, tmp_path / "out", "float16", HEADS)
    written = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert written["feature_size"] == 128


def test_weights_are_of_their_type(folders):
    for name, folder in folders.items():
        variables = read_model(folder / "model.bin")
        assert variables["decoder/layer_1/ffn/linear_0/weight"].dtype == name
        assert variables["decoder/layer_1/ffn/layer_norm/gamma"].dtype != "int8"


def test_faster_whisper_says_the_same(recipe, tiny_run, capsys):
    pytest.importorskip("faster_whisper")
    loose = ["export.max_wer_increase=9", "export.min_token_agreement=0"]  # a random model's int8
    assert export_student(recipe(*loose), "ct2")
    results = json.loads((tiny_run / "export/ct2/verification.json").read_text())
    plain, integers = results["exports"]
    assert plain["token_agreement"] > 0.7 and plain["compute_type"] == "float32"
    assert plain["num_tokens"] > 10
    assert integers["compute_type"] == "int8_float32"
    assert plain["word_times"]["num_boundaries"] > 0
    assert plain["word_times"]["windows_without_words"] == 0
    assert results["alignment_heads"]["num_beginnings"] > 1
    assert sorted(p.name for p in (tiny_run / "export/ct2").iterdir()) == [
        "float16", "int8", "verification.json"]
    assert "Published" in capsys.readouterr().out


def test_it_reads_a_text_as_we_do(folders, student_model, tiny_processor):
    pytest.importorskip("faster_whisper")
    audio = np.random.default_rng(0).normal(size=48_000).astype(np.float32) * 0.1
    tokens = list(b"Press one, or stay.")
    ours = student_reader(student_model, tiny_processor, "transcribe")(audio, "en", tokens, False)
    for weights, compute, off in (("float16", "float32", 0.05), ("int8", "int8", 0.5)):
        runtime = runtimes.faster_whisper(folders[weights], compute, "transcribe", 1,
                                          tiny_processor, student_model.generation_config)
        theirs = runtime.read(audio, "en", tokens)
        assert theirs.shape == ours.shape == (len(tokens),)
        assert np.abs(theirs - ours).max() < off  # its log-mel, and float16 weights
