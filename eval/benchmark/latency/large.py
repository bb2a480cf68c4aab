"""A model of large-v3's shape on a clip of 2 s: random weights, since speed depends on shapes."""

from __future__ import annotations

import time

LAYERS, WIDTH, HEADS, INNER, VOCABULARY, BANDS = 32, 1280, 20, 5120, 51866, 128
SECONDS, TOKENS, MARGIN = 2.0, 2, 1.0  # few tokens: the decoder costs both ways the same a token


def measure_large(batches: tuple[int, ...] = (1, 8)) -> dict:
    """Seconds of the processor from features to tokens, padded and short, and bytes of silence."""
    import torch

    from distill.whisper.decoding.decoder import Decoder
    from distill.whisper.encoder.lengths import positions_of
    from distill.whisper.encoder.level import LEVEL
    from distill.whisper.encoder.padded import encode_padded
    from distill.whisper.encoder.short import encode_short
    from distill.whisper.encoder.silence import silence_of

    torch.set_num_threads(1)
    model = large_model()
    encoder, silence = model.get_encoder(), silence_of(model.get_encoder())
    decoders = {"padded": Decoder(model), "short": Decoder(model, silence=silence.states)}
    frames = 2 * positions_of(SECONDS, MARGIN) + 2
    generator = torch.Generator().manual_seed(0)
    found: dict = {}
    for batch in batches:
        features = torch.full((batch, BANDS, 3000), LEVEL)
        features[..., : int(100 * SECONDS)] = torch.rand(
            batch, BANDS, int(100 * SECONDS), generator=generator)
        encoders = {"padded": lambda x: encode_padded(encoder, x),
                    "short": lambda x: encode_short(encoder, x[..., :frames])}
        found[str(batch)] = {}
        for name, encode in encoders.items():
            decoders[name].cache(encode(features[:1]) if batch == 1 and name == "short"
                                 else silence.states[None])  # untimed: kernels
            begun = time.process_time()
            cache = decoders[name].cache(encode(features))
            for at in range(TOKENS):
                decoders[name](torch.zeros(batch, 1, dtype=torch.long), [at] * batch, cache)
            found[str(batch)][name] = time.process_time() - begun
    return {"seconds": SECONDS, "tokens": TOKENS, "margin_seconds": MARGIN, "batches": found,
            "silence_bytes": silence.num_bytes}


def large_model():
    """WhisperForConditionalGeneration in float32."""
    from transformers import WhisperConfig

    from eval.benchmark.random_whisper import random_whisper

    return random_whisper(WhisperConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER,
        decoder_ffn_dim=INNER, num_mel_bins=BANDS))
