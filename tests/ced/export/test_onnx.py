"""Exported taggers in their real runtimes."""

import importlib
import re
import sys

import numpy as np
import pytest
import torch

import distill.ced.export.run
from distill.ced.export.onnx_graph import FILES, LABELS_FILE, export_tagger, write_labels
from distill.ced.export.onnx_verify import (
    HALF_HOP,
    onnxruntime_run,
    reference_scores,
    sherpa_run,
    verify,
)
from distill.ced.export.run import export_student, text_table
from distill.ced.model.checkpoint import load_checkpoint
from distill.ced.model.remote_code import write_code
from distill.ced.recipe import load_recipe
from distill.data.files import read_json, write_json
from tests.ced.conftest import LABELS, spectrogram, wave

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sherpa_onnx")
LENGTHS = [0.05, 0.15, 1.3, 10.0, 10.3, 25.0]


@pytest.fixture(scope="module")
def exported(tagger_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    assert {path.name for path in export_tagger(tagger_folder, out)} == {*FILES, LABELS_FILE}
    return out


def run_of(path, inputs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


@torch.no_grad()
@pytest.mark.parametrize("frames", [5, 16, 40, 1001, 1012, 1024, 2016, 2100])
def test_batches_of_any_length_in_pieces_inside_the_graph(tagger, exported, frames):
    """One step, whole pieces, and pieces moved back; the usual export refuses 1,013 frames."""
    features = torch.stack([spectrogram(frames, seed) for seed in range(3)])
    expected = tagger(features).logits.sigmoid().numpy()
    assert np.allclose(run_of(exported / "model.onnx", features), expected, atol=1e-6)


def test_batches_of_waves(tagger, exported):
    """One of them quiet: its floor is its own."""
    waves = np.stack([wave(2.0, seed=1), wave(2.0, seed=2, gain=1e-4)])
    said = run_of(exported / "wave.onnx", torch.from_numpy(waves))
    assert np.allclose(said, reference_scores(tagger, waves), atol=1e-4)


@torch.no_grad()
def test_one_class_a_clip_is_a_softmax(tagger_folder, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(tagger_folder, tmp_path / "tagger")
    config = json.loads((folder / "config.json").read_text())
    config["problem_type"] = "single_label_classification"
    (folder / "config.json").write_text(json.dumps(config))
    export_tagger(folder, tmp_path / "out", ["model.onnx"])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.onnx", LABELS_FILE}
    said = run_of(tmp_path / "out" / "model.onnx", spectrogram(2100)[None])
    model = load_checkpoint(folder)
    expected = model(spectrogram(2100)[None]).logits.softmax(-1).numpy()
    assert np.allclose(said, expected, atol=1e-6) and said.sum() == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="model.onnx, model.int8.onnx.*got tags.onnx"):
        export_tagger(folder, tmp_path, ["tags.onnx"])


@pytest.mark.parametrize(
    ("name", "limit"),
    [("model.onnx", 1e-5), ("wave.onnx", 1e-4), ("model.int8.onnx", 0.05),
     ("wave.int8.onnx", 0.05)],
)
def test_onnxruntime_gives_the_same_for_any_length(tagger, exported, name, limit):
    waves = [wave(seconds, seed=seed) for seed, seconds in enumerate(LENGTHS)]
    run = onnxruntime_run(exported / name)
    said = np.stack([run(each) for each in waves])
    difference = np.abs(said - reference_scores(tagger, waves)).max()
    assert difference < limit
    assert said.shape == (len(LENGTHS), len(LABELS)) and said.max() < 1


def test_exported_files_are_one_each_with_static_classes(exported):
    """sherpa-onnx reads the number of classes from the output's shape, the file from memory."""
    import onnx

    model = onnx.load(exported / "model.onnx", load_external_data=False)
    given, told = model.graph.input, model.graph.output
    shape = [d.dim_value or d.dim_param for d in given[0].type.tensor_type.shape.dim]
    assert len(given) == 1 and len(told) == 1 and shape == ["N", 64, "T"]
    assert told[0].type.tensor_type.shape.dim[1].dim_value == len(LABELS)
    assert {p.key: p.value for p in model.metadata_props}["model_type"] == "CED"
    assert not list(exported.glob("*.data"))


def test_sherpa_onnx_needs_half_a_hop_of_zeros(tagger, exported):
    generator = np.random.default_rng(0)
    waves = []
    for seconds in (1.0, 3.0, 12.0):  # clicks that die away: when a frame begins matters
        time = np.arange(int(16_000 * seconds))
        noise = generator.normal(size=len(time))
        waves.append((0.3 * noise * np.exp(-(time % 1500) / 100)).astype(np.float32))
    own = reference_scores(tagger, waves)

    def distance(zeros):
        run = sherpa_run(exported / "model.onnx", len(LABELS), zeros)
        return np.abs(np.stack([run(each) for each in waves]) - own).mean()

    assert distance(HALF_HOP) < 0.005
    assert distance(0) > 2 * distance(HALF_HOP)


def test_labels_are_as_sherpa_onnx_reads_them(tmp_path):
    """Minimal quoting or CRLF end its process."""
    write_labels(["Dog, bark", "Rain", '2" pipe'], tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_bytes() == (
        b'index,mid,display_name\n0,/c/0,"Dog, bark"\n1,/c/1,"Rain"\n2,/c/2,"2\' pipe"\n')
    with pytest.raises(ValueError, match="one line"):
        write_labels(["a\r\nb"], tmp_path / "labels.csv")


def test_verify_measures_every_file_in_every_runtime(tagger, exported):
    waves = [wave(0.5 + seed / 5, seed=seed) for seed in range(4)]
    targets = np.eye(5)[:4]
    entries = verify(tagger, exported, waves, targets)
    assert len(entries) == 2 * 3 + 2
    assert all(entry["num_clips"] == 4 and entry["ms_per_clip"] > 0 for entry in entries)
    first = next(e for e in entries if e["file"] == "model.onnx" and e["runtime"] == "onnxruntime")
    assert first["max_difference"] < 1e-5 and first["map_loss"] == pytest.approx(0, abs=1e-9)
    assert "mean_average_precision" not in verify(tagger, exported, waves[:1])[0]


def test_a_recipe_exports_what_passes(tagger_folder, exported, tmp_path, monkeypatch, capsys):
    """The files come from the fixture: exporting takes seconds."""
    import shutil

    import soundfile

    from distill.data.manifest import Row, write_manifest

    rows = []
    for number, label in enumerate(LABELS):
        soundfile.write(tmp_path / f"{number}.wav", wave(1.0, seed=number), 16_000)
        rows.append(Row(id=label, audio_filepath=f"{number}.wav", duration=1.0, labels=[label]))
    write_manifest(tmp_path / "test.jsonl", rows)
    run = tmp_path / "run"
    shutil.copytree(tagger_folder, run / "student")
    (tmp_path / "recipe.yaml").write_text(
        f"method: ced\noutput_dir: {run}\ndata: {{train: [test.jsonl], test: [test.jsonl]}}\n")
    recipe = load_recipe(tmp_path, [])
    monkeypatch.setattr("distill.ced.export.onnx_graph.export_tagger", lambda folder, out: [
        shutil.copyfile(path, out / path.name) for path in exported.iterdir()])
    recipe.export.max_map_loss = 1.0
    assert export_student(recipe, "onnx")
    assert {p.name for p in (run / "export/onnx").iterdir()} == {
        *FILES, LABELS_FILE, "verification.json"}
    assert "Exported and verified already" not in capsys.readouterr().out
    write_code(run / "student")  # as pushing does
    write_json(run / "student/results.json", {})
    assert export_student(recipe, "onnx")
    assert "Exported and verified already" in capsys.readouterr().out
    (run / "export/onnx/wave.onnx").unlink()
    (run / "export/onnx/.partial-dead").mkdir()  # of a run that was killed
    assert export_student(recipe, "onnx")
    assert "Exported and verified already" not in capsys.readouterr().out
    assert (run / "export/onnx/wave.onnx").is_file()
    assert not (run / "export/onnx/.partial-dead").exists()
    recipe.export.max_map_loss = -1.0  # nothing can pass
    assert not export_student(recipe, "onnx")
    assert not list((run / "export/onnx").glob("*.onnx"))
    table = text_table(read_json(run / "export/onnx/verification.json"))
    assert re.search(r"REFUSED wave.onnx, onnxruntime: it loses .*max_map_loss", table)
    with pytest.raises(ValueError, match="to=onnx, got to=ct2"):
        export_student(recipe, "ct2")
    monkeypatch.setattr("distill.ced.export.run.PACKAGES", ("no-such-package",))
    with pytest.raises(ValueError, match=r"no-such-package is not installed: pip .*\[export\]"):
        export_student(recipe, "onnx")


def test_the_first_run_of_a_file_is_not_timed(tagger, monkeypatch, tmp_path):
    heard = []

    def run(wave):
        heard.append(len(wave))
        return np.zeros(5, np.float32)

    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr("distill.ced.export.onnx_verify.runs_of",
                        lambda *_: [("x", "model.onnx", run)])
    monkeypatch.setattr("distill.ced.export.onnx_verify.time.perf_counter", lambda: len(heard))
    (entry,) = verify(tagger, tmp_path, [wave(0.5), wave(0.6)])
    assert heard == [8000, 8000, 9600] and entry["ms_per_clip"] == 1000.0


def test_without_the_extra_the_command_can_still_say_so(monkeypatch):
    """The packages are not imported before it is known that they are there."""
    monkeypatch.setattr(distill.ced.export, "run", distill.ced.export.run)  # and back
    for name in ("run", "onnx_graph", "onnx_verify"):
        monkeypatch.delitem(sys.modules, f"distill.ced.export.{name}")
    for name in ("onnx", "onnxruntime", "sherpa_onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    importlib.import_module("distill.ced.export.run")
    with pytest.raises(ImportError):
        importlib.import_module("distill.ced.export.onnx_graph")
