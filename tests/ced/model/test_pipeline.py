"""Taggers in transformers: Auto classes, the pipeline, code beside the weights."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    dynamic_module_utils,
    pipeline,
)

from distill.ced.model.extractor import CedFeatureExtractor
from distill.ced.model.modeling import CedForAudioClassification, CedModel
from distill.ced.model.remote_code import standalone, write_code
from tests.ced.conftest import LABELS, wave
from tests.support.rounding import assert_same_but_rounding


def test_auto_classes_load_what_was_saved(tagger, tagger_folder):
    assert isinstance(AutoFeatureExtractor.from_pretrained(tagger_folder), CedFeatureExtractor)
    model = AutoModelForAudioClassification.from_pretrained(tagger_folder)
    assert isinstance(model, CedForAudioClassification)
    encoder = AutoModel.from_pretrained(tagger_folder).eval()
    assert isinstance(encoder, CedModel)
    inputs = CedFeatureExtractor()(wave(1.0), return_tensors="pt")
    with torch.no_grad():
        a, b = encoder(**inputs), tagger.encoder(**inputs)
    assert_same_but_rounding(a.pooler_output, b.pooler_output)
    assert a.last_hidden_state.shape == (1, 6, 128)


@torch.no_grad()
@pytest.mark.parametrize("seconds", [0.05, 0.15, 3.0, 10.0, 25.0])
def test_pipeline_scores_are_sigmoids_of_logits_by_default(tagger, tagger_folder, seconds):
    """The port on the Hub has probabilities as logits: a softmax, or a sigmoid, of sigmoids."""
    tag = pipeline("audio-classification", str(tagger_folder))
    sound = wave(seconds)
    scores = {each["label"]: each["score"] for each in tag(sound, top_k=None)}
    inputs = CedFeatureExtractor()(sound, return_tensors="pt")
    expected = tagger(**inputs).logits[0].sigmoid().tolist()
    assert scores == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-6)
    assert sum(scores.values()) != pytest.approx(1, abs=1e-3)


def test_pipeline_takes_batches_of_clips_of_one_length(tagger_folder):
    tag = pipeline("audio-classification", str(tagger_folder))
    sounds = [wave(1.0, seed) for seed in range(3)]
    batched = tag(sounds, batch_size=3, top_k=None)
    for one, sound in zip(batched, sounds, strict=True):
        alone = {each["label"]: each["score"] for each in tag(sound, top_k=None)}
        assert {e["label"]: e["score"] for e in one} == pytest.approx(alone, abs=1e-5)


def test_code_beside_the_weights_needs_no_package_of_ours(
    tagger, tagger_folder, tmp_path, modules_folder
):
    folder = Path(shutil.copytree(tagger_folder, tmp_path / "tagger"))
    written = {path.name for path in write_code(folder)}
    assert "modeling_ced.py" in written
    for path in folder.glob("*.py"):
        assert not re.search(r"^\s*(from|import) distill", path.read_text(), re.MULTILINE)
    told = json.loads((folder / "config.json").read_text())["auto_map"]
    told |= json.loads((folder / "preprocessor_config.json").read_text())["auto_map"]
    loaded = {  # as with trust_remote_code=True, where no such class is registered
        name: dynamic_module_utils.get_class_from_dynamic_module(where, folder)
        for name, where in told.items()
    }
    model = loaded["AutoModelForAudioClassification"].from_pretrained(folder)
    assert type(model).__module__.startswith("transformers_modules.")
    assert type(model.config).__module__.startswith("transformers_modules.")
    extractor = loaded["AutoFeatureExtractor"].from_pretrained(folder)
    inputs = extractor(wave(2.0), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        assert_same_but_rounding(model.eval()(**inputs).logits, tagger(**inputs).logits)
    # with the package it is ours
    assert isinstance(AutoModelForAudioClassification.from_pretrained(folder),
                      CedForAudioClassification)


def test_code_that_needs_more_of_ours_is_not_written():
    with pytest.raises(AssertionError, match="not copied"):
        standalone("from distill.data.audio import load_audio\n")


def test_float64_and_resampled_sound(tagger_folder):
    tag = pipeline("audio-classification", str(tagger_folder))
    scores = [{each["label"]: each["score"] for each in tag(sound)}
              for sound in (wave(1.0).astype(np.float64), wave(1.0))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
