"""Tagging of files: windows, choice of tags, formats, and the command."""

import json

import numpy as np
import pytest
import soundfile
import torch

from eval.tag import main
from eval.tagging.formats import as_audacity, choose, whole, written
from eval.tagging.windows import Row, load_tagger, windows_of
from tests.ced.conftest import make_tagger

CLASSES = ["quiet", "loud", "Dog, bark"]
TOY = "tests.eval.tagging.test_tag:Toy"


class Toy:
    """Hears how loud it is."""

    classes = CLASSES

    def __call__(self, waves):
        loud = np.array([min(1.0, 2 * float(np.abs(wave).mean())) for wave in waves])
        return np.stack([1 - loud, loud, np.full(len(waves), 0.5)], 1)


def write(path, seconds, gain=0.5, rate=16_000, channels=1):
    samples = gain * np.sign(np.sin(np.arange(round(seconds * rate)) * 0.3))
    soundfile.write(path, np.tile(samples[:, None], channels), rate)
    return path


@pytest.mark.parametrize(
    ("seconds", "window", "hop", "expected"),
    [
        (3.0, 10, 10, [(0, 3)]),
        (10.0, 10, 10, [(0, 10)]),
        (20.0, 10, 10, [(0, 10), (10, 20)]),
        (21.0, 10, 10, [(0, 10), (10, 20), (11, 21)]),
        (12.0, 10, 1, [(0, 10), (1, 11), (2, 12)]),
        (12.5, 10, 1, [(0, 10), (1, 11), (2, 12), (2.5, 12.5)]),
    ],
)
def test_windows_hold_everything_once(tmp_path, seconds, window, hop, expected):
    found = windows_of(write(tmp_path / "a.wav", seconds, rate=8000), window, hop)
    assert [(round(w.start, 6), round(w.end, 6)) for w in found] == expected
    assert [w.new for w in found] == [0.0, *(w.end for w in found[:-1])]
    assert sum(w.end - w.new for w in found) == pytest.approx(seconds)


def rows_of(*scores, seconds=1.0):
    return [Row(i * seconds, (i + 1) * seconds, seconds, np.array(s)) for i, s in enumerate(scores)]


def test_a_whitelist_competes_before_the_top_k_not_after():
    """Whisper-AT takes the top k first: a whitelist then gets fewer tags, or none."""
    scores = np.array([0.9, 0.8, 0.3])
    assert choose(CLASSES, ["Dog, bark"], 1, 0.1)(scores) == [("Dog, bark", 0.3)]
    assert choose(CLASSES, None, 2, 0.1)(scores) == [("quiet", 0.9), ("loud", 0.8)]
    assert choose(CLASSES, None, 20, 0.5)(scores) == [("quiet", 0.9), ("loud", 0.8)]
    with pytest.raises(ValueError, match="no 'lound'; it has 'loud'"):
        choose(CLASSES, ["lound"], 1, 0.1)
    with pytest.raises(ValueError, match="--threshold"):
        choose(CLASSES, None, 5, 1.5)


def test_tags_of_a_file_are_means_over_its_time():
    rows = [Row(0, 10, 10, np.array([0.2, 0.0, 0])), Row(2, 12, 2, np.array([0.8, 0.6, 0]))]
    told = whole(rows, choose(CLASSES, None, 5, 0.5))
    assert [each["label"] for each in told] == ["quiet", "loud"]
    assert told[0]["score"] == pytest.approx((0.2 * 10 + 0.8 * 2) / 12, abs=1e-6)
    assert (told[1]["peak"], told[1]["peak_start"], told[1]["peak_end"]) == (0.6, 2, 12)


def test_audacity_labels_go_on_while_the_class_does():
    rows = rows_of([0.9, 0, 0], [0.8, 0.7, 0], [0.1, 0.6, 0], [0.95, 0, 0])
    text = as_audacity(rows, choose(CLASSES, None, 5, 0.5), {})
    assert text.splitlines() == ["0.000\t2.000\tquiet 0.90", "1.000\t3.000\tloud 0.70",
                                 "3.000\t4.000\tquiet 0.95"]


def test_csv_quotes_names_with_commas():
    rows, choice = rows_of([0, 0, 0.7]), choose(CLASSES, None, 5, 0.5)
    text = written("csv", rows, choice, {"file": "a.wav"})
    assert text == 'file,start,end,label,score\na.wav,0.000,1.000,"Dog, bark",0.700000\n'


def test_the_command_tags_files_and_folders_of_any_format_and_rate(tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write(folder / "a.wav", 2.5, gain=0.5, rate=44_100, channels=2)
    write(folder / "deep" / "b.ogg", 0.05, gain=0.01, rate=8000)
    write(folder / "c.flac", 1.0, gain=0.1)
    out = tmp_path / "out"
    command = [str(folder), "--model", TOY, "--window", "1", "--batch-size", "2",
               "--format", "json", "csv", "audacity", "--output-dir", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "a.wav: loud 0.91, Dog, bark 0.50\n" in said and "3 files, 0:04 of audio" in said
    told = json.loads((out / "a.wav.tags.json").read_text())
    assert told["duration"] == 2.5 and told["model"] == TOY
    assert [(w["start"], w["end"]) for w in told["windows"]] == [(0, 1), (1, 2), (1.5, 2.5)]
    assert told["windows"][2]["tags"][0]["label"] == "loud"
    assert (out / "deep" / "b.ogg.tags.csv").read_text().count("\n") == 3
    assert (out / "c.flac.labels.txt").read_text().startswith("0.000\t1.000\tquiet 0.80")
    assert main(command) == 0
    assert "3 of 3 files are tagged already" in capsys.readouterr().out


def test_a_file_that_fails_is_named_the_others_go_on(tmp_path, capsys):
    write(tmp_path / "a.wav", 1.0)
    (tmp_path / "b.wav").write_bytes(b"no audio at all")
    whole_file = write(tmp_path / "c.wav", 30.0).read_bytes()
    (tmp_path / "c.wav").write_bytes(whole_file[: len(whole_file) // 2])
    samples = np.zeros(32_000)
    samples[20_000] = np.nan  # in the second window
    soundfile.write(tmp_path / "d.wav", samples, 16_000, subtype="FLOAT")
    write(tmp_path / "e.wav", 1.0)
    assert main([str(tmp_path), "--model", TOY, "--window", "1", "--format", "json"]) == 1
    out, err = capsys.readouterr()
    assert "a.wav: loud" in out and "e.wav: loud" in out
    assert "b.wav: unreadable" in err and "d.wav: not_finite" in err
    assert not (tmp_path / "d.wav.tags.json").exists()


def test_settings_that_cannot_be_are_named(tmp_path):
    path = str(write(tmp_path / "a.wav", 1.0))
    for extra, says in [
        (["--hop", "20"], "at most the window"), (["--window", "0.1"], "at least 0.15"),
        (["--batch-size", "0"], "--batch-size"), (["--frames"], "--frames needs a CED model"),
        (["--frames", "--hop", "1"], "remove --hop"),
    ]:
        with pytest.raises(ValueError, match=says):
            main([path, "--model", TOY, *extra])
    with pytest.raises(ValueError, match="no such file"):
        main([str(tmp_path / "b.wav"), "--model", TOY])
    with pytest.raises(ValueError, match="--model .*model_type"):
        main([path, "--model", str(tmp_path)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from distill.ced.model.extractor import CedFeatureExtractor

    folder = tmp_path_factory.mktemp("tagger")
    make_tagger().save_pretrained(folder)
    CedFeatureExtractor().save_pretrained(folder)
    return str(folder)


def test_frames_are_tagged_every_160_ms(folder, tmp_path):
    path = write(tmp_path / "a.wav", 13.0)
    tagger = load_tagger(folder, frames=True)
    windows = windows_of(path, 10.0, 10.0)
    rows = [row for each in tagger([(w, w.samples()) for w in windows]) for row in each]
    assert rows[0].start == 0 and rows[-1].end == 13
    assert [r.end for r in rows[:-1]] == [r.start for r in rows[1:]]
    assert sum(row.weight for row in rows) == pytest.approx(13.0)
    assert len(rows) == 62 + 18 and max(row.weight for row in rows) < 0.26
    from distill.ced.model.frontend import log_mel

    with torch.no_grad():
        features = log_mel(torch.from_numpy(windows[0].samples()))
        expected = make_tagger()(features[None]).frame_logits[0, 5].sigmoid()
    assert np.allclose(rows[5].scores, expected, atol=1e-5)
    assert rows[5].start == pytest.approx(0.8)


def test_our_models_and_any_other_of_transformers(folder, tmp_path):
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    path = write(tmp_path / "a.wav", 2.0, rate=22_050)
    assert main([str(path), "--model", folder, "--format", "json"]) == 0
    ours = json.loads((tmp_path / "a.wav.tags.json").read_text())
    with torch.no_grad():
        from distill.ced.model.frontend import log_mel
        from distill.data.audio import load_audio

        features = log_mel(torch.from_numpy(load_audio(path)))[None]
        scores = make_tagger()(features).logits[0].sigmoid()
    assert ours["tags"][0]["score"] == pytest.approx(float(scores.max()), abs=1e-4)
    other = tmp_path / "ast"
    config = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=16, max_length=64, id2label={0: "yes", 1: "no"})
    ASTForAudioClassification(config).save_pretrained(other)
    ASTFeatureExtractor(max_length=64).save_pretrained(other)
    command = [str(path), "--model", str(other)]
    with pytest.raises(ValueError, match="activation"):
        main(command)
    assert main([*command, "--activation", "softmax", "--top-k", "1"]) == 0


def test_frames_are_probabilities_as_whole_clips_are(folder, tmp_path):
    """One class a clip: softmax in both."""
    window = windows_of(write(tmp_path / "a.wav", 1.0), 10.0, 10.0)[0]
    for activation in ("softmax", "sigmoid"):
        tagger = load_tagger(folder, activation, frames=True)
        sums = [row.scores.sum() for row in tagger([(window, window.samples())])[0]]
        assert (np.abs(np.array(sums) - 1) < 1e-6).all() == (activation == "softmax")
