"""What a Whisper costs to run and to keep, by arithmetic on its architecture; no torch.

Operations are those of the matrix products, two for a multiply-add. Norms, softmax and log-mel
features are left out: a few per cent.
"""

from __future__ import annotations

from distill.whisper.encoder.level import EVERY
from distill.whisper.plan.sizes import (
    SOURCE_POSITIONS,
    TARGET_POSITIONS,
    WhisperSize,
    num_decoder_parameters,
    num_encoder_parameters,
)


def encoder_flops(
    size: WhisperSize, layers: int | None = None, positions: float = SOURCE_POSITIONS
) -> float:
    """One window, of which so many positions are encoded."""
    d, frames = size.d_model, positions
    layers = size.encoder_layers if layers is None else layers
    convolutions = 2 * 3 * size.mel_bins * d * (2 * frames) + 2 * 3 * d * d * frames
    products = 2 * (4 * d * d + 2 * d * size.ffn) * frames
    attention = 2 * 2 * frames * seen_positions(frames) * d
    return convolutions + layers * (products + attention)


def seen_positions(positions: float) -> float:
    """What attention sees of a window of which so many positions are encoded: these, and of the
    silence behind them every EVERY-th."""
    return positions + (SOURCE_POSITIONS - positions) / EVERY


def cross_attention_flops(
    size: WhisperSize, layers: int | None = None, positions: float = SOURCE_POSITIONS
) -> float:
    """Keys and values of the encoder states for all decoder layers, once a window; those of the
    silence behind it are shared."""
    layers = size.decoder_layers if layers is None else layers
    return layers * 2 * 2 * size.d_model**2 * positions


def token_flops(
    size: WhisperSize, tokens: float, layers: int | None = None, output: bool = True,
    positions: float = SOURCE_POSITIONS,
) -> float:
    """The decoder over `tokens` tokens of one window, without the `cross_attention_flops`; the
    same one token at a time (with a cache) and all at once.

    Args:
        output: with the output layer.
        positions: that are encoded. Fewer are of decoding: training and scoring see all of the
            silence behind a clip.
    """
    d = size.d_model
    layers = size.decoder_layers if layers is None else layers
    products = 2 * (6 * d * d + 2 * d * size.ffn) * tokens  # self: 4 matrices, cross: 2
    attention = 2 * 2 * (seen_positions(positions) + tokens / 2) * d * tokens
    return layers * (products + attention) + output * 2 * size.vocab * d * tokens


def num_trained(
    size: WhisperSize,
    encoder_layers: int,
    decoder_layers: int,
    freeze_encoder: bool,
    freeze_embeddings: bool,
    freeze_positions: bool,
    freeze_feed_forward: bool,
) -> int:
    """Parameters of a student that learn; the encoder's sinusoids never do."""
    d = size.d_model
    trained = num_decoder_parameters(size, decoder_layers)
    trained -= freeze_embeddings * size.vocab * d + freeze_positions * TARGET_POSITIONS * d
    trained -= freeze_feed_forward * decoder_layers * (2 * d * size.ffn + size.ffn + d)
    if not freeze_encoder:
        trained += num_encoder_parameters(size, encoder_layers) - SOURCE_POSITIONS * d
    return trained


def num_reader_parameters(size: WhisperSize, layers: int, text_width: int) -> int:
    """Of the cross-attention to prompts behind so many layers (`student.prompt_reader`)."""
    d = size.d_model
    return layers * (2 * d * d + 2 * d * text_width + d + 2)  # four matrices, a norm, two numbers


STATE_BYTES = {"float16": 2, "bfloat16": 2, "int8": 1, "float32": 4}


def states_bytes(
    size: WhisperSize, dtype: str = "float16", positions: float = SOURCE_POSITIONS
) -> float:
    """Encoder states of a window; int8 has a float32 scale for every frame."""
    scales = 4 * positions * (dtype == "int8")
    return positions * size.d_model * STATE_BYTES[dtype] + scales


def silence_bytes(size: WhisperSize, dtype: str = "float32") -> int:
    """Kept silence: of every encoder layer keys and values at every second position, and states."""
    vectors = 2 * size.encoder_layers * SOURCE_POSITIONS // EVERY + SOURCE_POSITIONS
    return vectors * size.d_model * STATE_BYTES[dtype]


def score_bytes(size: WhisperSize, k: int, num_states: int, num_temperatures: int = 2) -> int:
    """A token in the teacher store: ids and float16 logits of the k kept, the mass of the rest at
    each temperature, and `num_states` decoder states in float16."""
    ids = 2 if size.vocab <= 1 << 16 else 4
    scores = k * (ids + 2) + 4 * num_temperatures if k else 0
    return scores + 2 * size.d_model * num_states
