"""What was pushed is loaded through the same Hub, by the very lines of its card."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.data.audio import load_audio
from distill.data.files import read_json, write_json
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.prompt_reader import has_reader
from distill.whisper.prompting.reader_config import PromptReaderConfig
from distill.whisper.prompting.reader_files import SETTINGS, WEIGHTS, add_reader, save_student
from distill.whisper.recognition.loading import load
from tests.support.hub.repository import Blob, Repository

ROOT = Path(__file__).resolve().parents[2]
REPO = "somebody/tiny-student"


def snippets(card: str) -> list[str]:
    return [part.split("```")[0] for part in card.split("```python\n")[1:]]


def test_the_lines_of_the_card_run(trained, first_run, hub, push, tiny_teacher):
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    settings = trained / "runs/tiny/student/generation_config.json"
    write_json(settings, read_json(settings) | {"max_length": 40})  # pipelines search with 5 beams
    push(trained)
    names = [path for path in tiny_teacher.iterdir() if path.is_file()]
    hub.repos["model", "openai/whisper-base"] = teacher = Repository(private=False)
    files = {path.name: Blob(path.read_bytes(), path.suffix == ".safetensors") for path in names}
    hub.objects |= {blob.sha256: blob.content for blob in files.values() if blob.is_lfs}
    teacher.commit("teacher", files)
    # gone from here: what is loaded comes from the Hub
    local = (trained / "runs/tiny/student").rename(trained / "elsewhere")
    wave = first_run / "corpus" / "test" / "0.wav"

    samples = load_audio(str(wave))
    processor = WhisperProcessor.from_pretrained(local)
    features = processor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    student = WhisperForConditionalGeneration.from_pretrained(local)
    tokens = student.generate(features, language="en", task="transcribe")
    (text,) = processor.batch_decode(tokens, skip_special_tokens=True)
    # a random model writes timestamps, which ours forbids where none are asked for
    states = student.model.encoder(features).last_hidden_state.detach()
    (ours,) = WhisperDecoder(student, processor.tokenizer, "en")(states, max_new_tokens=[200])
    own_text = processor.decode(ours.tokens, skip_special_tokens=True)
    assert len(text) > 5 and len(own_text) > 5

    card = hub.repos["model", REPO].files["README.md"].content.decode()
    scope, said = {"samples": samples, "np": np}, []
    pipelined, loaded, assisted, batched, faster = snippets(card)
    pipelined = pipelined.replace('"audio.wav"', "samples")  # which would need ffmpeg
    for snippet in (pipelined, loaded, assisted, batched):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(snippet, scope)
        said.append(out.getvalue().strip())
    assert said == [text.strip()] * 3 + [own_text.strip()]
    assert "from faster_whisper import WhisperModel" in faster
    # weights come once for the student and once for the teacher, then from the cache
    assert hub.count(f"GET /storage/{files['model.safetensors'].sha256}") == 2


def test_a_reader_of_prompts_comes_with_its_student(hub, tiny_model, tiny_processor, tmp_path):
    add_reader(tiny_model, PromptReaderConfig(layers=1, model=None), lambda: None)
    tiny_model.prompt_reader.layers[0].gate.data.fill_(2.0)
    save_student(tiny_model, tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    hub.repos["model", REPO] = repository = Repository(private=False)
    files = {path.name: Blob(path.read_bytes(), False) for path in tmp_path.iterdir()}
    repository.commit("student", files)
    loaded = load(REPO)[0].prompt_reader
    assert loaded.layers[0].gate == 2.0 and loaded.read(["Ann"]) is not None
    del files[WEIGHTS]
    hub.repos["model", "somebody/broken"] = repository = Repository(private=False)
    repository.commit("student", files)
    with pytest.raises(ValueError, match=f"somebody/broken/{WEIGHTS} is missing"):
        load("somebody/broken")
    del files[SETTINGS]
    hub.repos["model", "somebody/half"] = repository = Repository(private=False)
    repository.commit("student", files)
    with pytest.raises(ValueError, match="somebody/half: .* reads prompts, but prompt_reader.json"):
        load("somebody/half")  # as where the rest of it is kept, and the Hub does not answer
    settings = read_json(tmp_path / "config.json")
    del settings["prompt_reader"]
    files["config.json"] = Blob(json.dumps(settings).encode(), False)
    hub.repos["model", "somebody/plain"] = repository = Repository(private=False)
    repository.commit("student", files)
    assert not has_reader(load("somebody/plain")[0])


@pytest.mark.slow
def test_the_command_itself(trained, hub, tmp_path):
    """In a process of its own, as it is called: address from HF_ENDPOINT, login from a file."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("hf_good")
    clean = {key: value for key, value in os.environ.items()
             if not key.startswith("HF_") and "proxy" not in key.lower()}
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "distill.hub", str(trained), f"hub.repo_id={REPO}"],
        cwd=ROOT, capture_output=True, text=True, env=clean | settings)
    assert ran.returncode == 0, ran.stderr
    assert f"Published: {hub.address}/{REPO}/commit/" in ran.stdout and not ran.stderr
    assert hub.repos["model", REPO].private

