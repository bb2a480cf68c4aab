"""A run with a student, and a Hub on loopback that the real client talks to."""

import shutil
import time
from pathlib import Path

import pytest

from distill.data.files import write_json, write_jsonl, write_text
from distill.methods import load_recipe
from distill.testing import write_tiny_corpus
from tests.support.hub.server import HubServer

REPO = "somebody/tiny-student"
RECIPE = """\
method: whisper
language: en
data: {{train: [{train}], test: [{test}]}}
teacher: {{model: openai/whisper-base}}
pseudo_label: {{timestamps: false}}
views: {{timestamp_probability: 0, previous_text_probability: 0}}
evaluation: {{num_bootstrap: 50}}
output_dir: {run}
"""


def model_entry(**changes) -> dict:
    return {
        "model": "m", "dtype": "float32", "device": "cpu", "parameters": 72_593_920,
        "decoder_parameters": 52_000_000, "file_bytes": 290_400_000, "wer": 0.07123,
        "wer_ci": [0.0512, 0.0934], "cer": 0.0345, "cer_ci": None, "wer_orthographic": 0.2468,
        "wer_orthographic_ci": [0.2, 0.3], "cer_orthographic": 0.1357,
        "cer_orthographic_ci": [0.11, 0.17], "insertions": 43, "insertions_per_1000_words": 3.27,
        "repeated_5grams_per_1000_words": 0.0, "looping_units": 1, "rtfx": 41.27,
        "peak_memory_bytes": 1_554_227_200, **changes,
    }


RESULTS = {
    "split": "test", "normalizer": "english", "error_unit": "word", "num_units": 17,
    "num_words": 913, "hours": 0.0938, "drops": {}, "num_bootstrap": 2000,
    "decoding": "greedy, batch 16, no timestamps", "threads": 2,
    "teacher": model_entry(),
    "student": model_entry(parameters=55_781_888, decoder_parameters=35_190_784, wer=0.08351,
                           file_bytes=223_100_000, rtfx=97.31, cer=None),
    "student_against_teacher": {"wer": 0.04},
    "paired": {"wer_difference": 0.01222, "wer_difference_ci": [-0.005, 0.031], "p_value": 0.172},
}
LABELS = {
    "filter": {"max_wer": 0.1, "keep_unreferenced": True, "check_script": False,
               "max_repeated_ngrams": None},
    "kept": 131, "kept_hours": 0.2912, "total": 144, "total_hours": 0.3213,
    "drops": {"truncated": 2, "wer": 11}, "drop_hours": {"truncated": 0.0051, "wer": 0.025},
}
TRAINED = {"settings": "abc", "steps": 500, "best_step": 400, "best_score": 0.0712}


@pytest.fixture(scope="session")
def first_run(tmp_path_factory, tiny_teacher) -> Path:
    """A recipe whose run has a student and an evaluation, and things that are nobody's business;
    not to be changed."""
    from distill.config import to_yaml
    from eval.__main__ import evaluate
    from eval.plots import write_plots

    folder = tmp_path_factory.mktemp("publish")
    run = folder / "runs" / "tiny"
    shutil.copytree(tiny_teacher, run / "student")
    manifests = write_tiny_corpus(folder / "corpus", {"train": 2, "test": 2})
    (folder / "recipe.yaml").write_text(RECIPE.format(run=run, **manifests))
    recipe = load(folder)
    write_json(run / "student.json", TRAINED)
    write_json(run / "pseudo_labels" / "filter.json", LABELS)
    write_json(run / "pseudo_labels" / "drops.json", {"split_long": 3, "unreadable": 5})
    write_text(run / "config.yaml", to_yaml(recipe))
    write_jsonl(run / "metrics.jsonl", [
        {"split": "train", "step": step, "loss": 9.0 / step} for step in (10, 20, 30)])
    for name in ("notes.txt", "optimizer.bin", "train.jsonl", "audio.wav", "average.pt"):
        (run / "student" / name).write_text("not for others")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.speech.measure.measure_both", lambda *_: (RESULTS, []))
        evaluate(recipe, run)  # so that `settings` are those evaluation writes
    write_plots(run)
    return folder


@pytest.fixture
def trained(tmp_path, first_run) -> Path:
    """A copy of it."""
    shutil.copytree(first_run / "runs", tmp_path / "runs")
    text = (first_run / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(text.replace(str(first_run / "runs"),
                                                       str(tmp_path / "runs")))
    return tmp_path


def load(folder: Path, *overrides: str):
    return load_recipe(str(folder), list(overrides))


@pytest.fixture
def sharded(trained, tiny_model) -> Path:
    """The same, its weights in several files."""
    student = trained / "runs" / "tiny" / "student"
    (student / "model.safetensors").unlink()
    tiny_model.save_pretrained(student, max_shard_size="150KB")
    return trained


class _Impatient:
    """`time` for the client: what it would wait before it tries again is not waited."""

    def __getattr__(self, name):
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Started, empty, and where the client in this process finds it, logged in as somebody."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, close_session

    from distill.publish import remote

    server = HubServer().start()
    for name, value in {
        "ENDPOINT": server.address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"), "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr(_http, "time", _Impatient())
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    close_session()
    yield server
    close_session()
    server.shutdown()
    server.server_close()
    assert not server.errors


@pytest.fixture(scope="session")
def prepared(first_run) -> dict[str, Path]:
    """What is published of it: name in the repository -> file."""
    from distill.hub import prepare

    return prepare(load(first_run))


@pytest.fixture
def send(hub, prepared):
    """`send(repo, private)`: as `push` does, without writing the card again."""
    from distill.publish.files import FILES
    from distill.publish.remote import Target, describe, publish

    def run(repo: str = REPO, private: bool = True) -> str:
        target = Target(repo, "hub.repo_id", private=private)
        return describe(target, prepared, publish(target, prepared, "Student", FILES))

    return run


@pytest.fixture
def push(hub, capsys):
    """`push(folder, key=value, ...)`: the command in this process; returns what it printed."""
    from distill.hub import main

    def run(folder: Path, *overrides: str) -> str:
        capsys.readouterr()
        main([str(folder), f"hub.repo_id={REPO}", *overrides])
        return capsys.readouterr().out

    return run
