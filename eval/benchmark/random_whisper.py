"""Whispers of any shape with random weights: what they cost depends on their shape alone."""

from __future__ import annotations


def random_whisper(config, seed: int = 0):
    """WhisperForConditionalGeneration in float32, in evaluation mode, without gradients.

    Made without the minutes that drawing all of its weights takes: they are one block of random
    numbers, again and again.
    """
    import torch
    from transformers import WhisperForConditionalGeneration

    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    block = 0.02 * torch.randn(999_983, generator=torch.Generator().manual_seed(seed))
    for name, each in model.named_parameters():
        flat = each.view(-1)
        for at in range(0, len(flat), len(block)):
            flat[at : at + len(block)] = block[: len(flat) - at]
        if "norm" in name and name.endswith("weight"):
            each.fill_(1.0)
    model.tie_weights()
    return model
