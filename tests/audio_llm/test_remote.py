"""Saved models in transformers, by the code beside them, in a process without this package."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from distill.audio_llm.remote.modeling import AudioLlmForAnswers
from distill.audio_llm.settings import read_settings
from eval.audio_llm.parts import load_model, load_split
from tests.audio_llm.test_training import load, recipe, trained  # noqa: F401

ALONE = """
import json, sys
sys.modules["distill"] = None                  # importing it fails
import numpy as np
from transformers import AutoModel, AutoTokenizer
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
assert tokenizer.eos_token == model.core.tokenizer.eos_token
wave = np.sin(np.arange(24_000) / 5).astype(np.float32)
states = model.states(wave)
print(json.dumps({"answers": model.ask([wave, wave[:8000]], ["Say it.", "Which?"],
                                       max_new_tokens=5),
                  "states": [len(states), float(np.abs(states).mean())],
                  "prompts": model.prompts}))
"""


@pytest.mark.slow
def test_without_this_package(trained, recipe, tmp_path):  # noqa: F811
    folder = trained / "student"
    found = subprocess.run([sys.executable, "-c", ALONE, str(folder)], capture_output=True,
                           text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    said = json.loads(found.stdout)
    assert said["prompts"] == read_settings(folder).prompts and len(said["answers"]) == 2
    model = AudioLlmForAnswers.from_pretrained(str(folder))
    wave = np.sin(np.arange(24_000) / 5).astype(np.float32)
    assert said["states"][0] == len(model.states(wave)) == 75
    split = load_split(load(recipe, trained), "validation")
    ours = load_model(folder, split.encoder)
    states = [model.states(wave), model.states(wave[:8000])]
    assert ours.generate(states, ["Say it.", "Which?"], max_new_tokens=5) == said["answers"]


def test_states_of_all_layers(trained, recipe, tmp_path):  # noqa: F811
    from distill.audio_llm.recipe import AdapterConfig

    settings = read_settings(trained / "student")
    split = load_split(load(recipe, trained), "validation")
    encoder = type(split.encoder)(settings.encoder, AdapterConfig(kind="tltr"), tmp_path, "cpu",
                                  False)
    model = AudioLlmForAnswers.from_pretrained(str(trained / "student"))
    model.core.settings.adapter.kind = "tltr"
    wave = np.sin(np.arange(30_000) / 5).astype(np.float32)
    (wanted,) = encoder.encode([wave])
    assert np.allclose(model.states(wave), wanted, atol=1e-2), "float16 are kept"
    with pytest.raises(ValueError, match="31.0 s of audio; the encoder hears 30 s"):
        model.states(np.zeros(31 * 16_000, np.float32))


def test_others_are_refused(trained, tiny_llm, tmp_path):  # noqa: F811
    folder = tmp_path / "student"
    shutil.copytree(trained / "student", folder)
    settings = json.loads((folder / "audio_llm.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(settings["encoder"]["model"], other)
    weights = load_file(other / "model.safetensors")
    save_file({name: each * 2 for name, each in weights.items()}, other / "model.safetensors",
              metadata={"format": "pt"})
    revision = settings["encoder_revision"]
    with pytest.raises(ValueError, match=f"revision {revision} of its encoder; .*other has other"):
        AudioLlmForAnswers.from_pretrained(str(folder), encoder=str(other))
    with pytest.raises(ValueError, match="of its language_model; .*other has other weights"):
        AudioLlmForAnswers.from_pretrained(str(folder), language_model=str(other))
    state = load_file(folder / "audio_llm.safetensors")
    del state["adapter.blank"]
    save_file(state, folder / "audio_llm.safetensors")
    with pytest.raises(ValueError, match=r"missing \['adapter.blank'\]"):
        AudioLlmForAnswers.from_pretrained(str(folder))
    settings["language_model"]["model"] = "someone/model"
    (folder / "audio_llm.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="not from the Hub .*: give language_model=FOLDER"):
        AudioLlmForAnswers.from_pretrained(str(folder))
