"""Parameter counts by arithmetic against models that transformers builds, and as published."""

import json

import pytest

from distill.whisper.plan.sizes import (
    SIZES,
    find_size,
    num_encoder_parameters,
    num_parameters,
    whisper_config,
)


@pytest.mark.parametrize(
    ("model", "encoder_layers", "decoder_layers"),
    [
        ("openai/whisper-tiny", None, None),
        ("openai/whisper-tiny.en", 3, 1),
        ("openai/whisper-base", None, 2),
        ("openai/whisper-small.en", None, 4),
        ("openai/whisper-medium", 1, 24),
        ("openai/whisper-large-v2", 16, 2),
        ("openai/whisper-large-v3", None, 2),
        ("openai/whisper-large-v3-turbo", None, None),
        ("distil-whisper/distil-medium.en", None, None),
    ],
)
def test_equals_what_transformers_builds(model, encoder_layers, decoder_layers):
    import torch
    from transformers import WhisperForConditionalGeneration

    config = whisper_config(model)
    config.encoder_layers = encoder_layers or config.encoder_layers
    config.decoder_layers = decoder_layers or config.decoder_layers
    with torch.device("meta"):
        built = WhisperForConditionalGeneration(config)
    built.tie_weights()
    size = find_size(model)
    expected = sum(parameter.numel() for parameter in built.parameters())  # counts a tied one once
    assert num_parameters(size, encoder_layers, decoder_layers) == expected
    encoder = sum(parameter.numel() for parameter in built.model.encoder.parameters())
    assert num_encoder_parameters(size, encoder_layers) == encoder


# Published counts are rounded to the million and made from the same checkpoints: half a million.
@pytest.mark.parametrize(
    ("model", "encoder_layers", "decoder_layers", "millions"),
    [
        ("openai/whisper-large-v2", None, None, 1543),  # arXiv:2311.00430, ablation of layers
        ("openai/whisper-large-v2", None, 16, 1124),
        ("openai/whisper-large-v2", None, 8, 914),
        ("openai/whisper-large-v2", None, 2, 756),  # distil-large-v2
        ("openai/whisper-large-v3", None, 2, 756),  # distil-large-v3
        ("openai/whisper-medium.en", None, 2, 394),  # distil-medium.en
        ("openai/whisper-small.en", None, 4, 166),  # distil-small.en: four decoder layers, not two
        ("openai/whisper-large-v3-turbo", None, None, 809),
    ],
)
def test_published_counts(model, encoder_layers, decoder_layers, millions):
    count = num_parameters(find_size(model), encoder_layers, decoder_layers)
    assert abs(count / 1e6 - millions) <= 0.5


# OpenAI's table (arXiv:2212.04356 table 1) counts the tied output layer's table once too, but is
# up to 3.5 % off its own checkpoints (tiny 39 against 37.8), so it only tells the sizes apart.
@pytest.mark.parametrize(
    ("model", "millions"),
    [("tiny", 39), ("base", 74), ("small", 244), ("medium", 769), ("large-v2", 1550)],
)
def test_counts_of_the_whisper_paper(model, millions):
    count = num_parameters(find_size(f"openai/whisper-{model}"))
    assert abs(count / 1e6 / millions - 1) < 0.035


# 441 M of the ablation with 16 encoder layers (and 809 of 32-4 for large-v2).
def test_encoder_layers_are_counted_too():
    size = find_size("openai/whisper-large-v2")
    assert abs(num_parameters(size, 16, 2) / 1e6 - 441) <= 0.5
    assert abs(num_parameters(size, 32, 4) / 1e6 - 809) <= 0.5


def test_token_ids():
    english, many = whisper_config("openai/whisper-tiny.en"), whisper_config("openai/whisper-tiny")
    assert (english.eos_token_id, english.decoder_start_token_id) == (50256, 50257)
    assert (many.eos_token_id, many.decoder_start_token_id) == (50257, 50258)


def test_find_size(tmp_path):
    for model, size in SIZES.items():
        assert size.d_model == 64 * size.heads and size.ffn == 4 * size.d_model, model
    whisper_config("openai/whisper-base").save_pretrained(tmp_path)
    assert find_size(str(tmp_path)) == find_size("openai/whisper-base")
    with pytest.raises(ValueError, match="did you mean openai/whisper-large-v3"):
        find_size("whisper-large-v3")
    (tmp_path / "config.json").write_text(json.dumps({"suppress_ids": []}))  # CTranslate2's
    with pytest.raises(ValueError, match="not that of a transformers Whisper: no d_model"):
        find_size(str(tmp_path))
