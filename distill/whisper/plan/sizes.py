"""Architecture of the public Whisper models: what they are made of, and how many parameters.

    size = find_size("openai/whisper-large-v3")
    num_parameters(size, decoder_layers=2)  # 756,405,760, of them 636,968,960 in the encoder

Plain arithmetic, no torch: `make NAME.plan` answers before anything is downloaded. Layer counts and
widths are those of the published config.json files (arXiv:2212.04356 table 1; arXiv:2311.00430
table 3 for distil-*; the config.json of distil-small.en for its four decoder layers).
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import WhisperConfig

SOURCE_POSITIONS = 1500  # encoder frames of 20 ms in 30 s
TARGET_POSITIONS = 448  # decoder tokens, prompt included
_ENGLISH_VOCAB = 51_864  # without the language tokens


@dataclass(frozen=True)
class WhisperSize:
    """One architecture. All Whisper models use the same width in encoder and decoder."""

    d_model: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    ffn: int
    vocab: int = 51_865  # 51,864 English only; 51,866 from large-v3 on (Cantonese)
    mel_bins: int = 80

    @property
    def is_multilingual(self) -> bool:
        return self.vocab > _ENGLISH_VOCAB


_TINY = (384, 4, 4, 6, 1536)
_BASE = (512, 6, 6, 8, 2048)
_SMALL = (768, 12, 12, 12, 3072)
_MEDIUM = (1024, 24, 24, 16, 4096)
_LARGE = (1280, 32, 32, 20, 5120)

SIZES = {
    "openai/whisper-tiny": WhisperSize(*_TINY),
    "openai/whisper-tiny.en": WhisperSize(*_TINY, vocab=_ENGLISH_VOCAB),
    "openai/whisper-base": WhisperSize(*_BASE),
    "openai/whisper-base.en": WhisperSize(*_BASE, vocab=_ENGLISH_VOCAB),
    "openai/whisper-small": WhisperSize(*_SMALL),
    "openai/whisper-small.en": WhisperSize(*_SMALL, vocab=_ENGLISH_VOCAB),
    "openai/whisper-medium": WhisperSize(*_MEDIUM),
    "openai/whisper-medium.en": WhisperSize(*_MEDIUM, vocab=_ENGLISH_VOCAB),
    "openai/whisper-large": WhisperSize(*_LARGE),
    "openai/whisper-large-v2": WhisperSize(*_LARGE),
    "openai/whisper-large-v3": WhisperSize(*_LARGE, vocab=51_866, mel_bins=128),
    "openai/whisper-large-v3-turbo": WhisperSize(1280, 32, 4, 20, 5120, 51_866, 128),
    "distil-whisper/distil-small.en": WhisperSize(768, 12, 4, 12, 3072, _ENGLISH_VOCAB),
    "distil-whisper/distil-medium.en": WhisperSize(1024, 24, 2, 16, 4096, _ENGLISH_VOCAB),
    "distil-whisper/distil-large-v2": WhisperSize(1280, 32, 2, 20, 5120),
    "distil-whisper/distil-large-v3": WhisperSize(1280, 32, 2, 20, 5120, 51_866, 128),
}


def find_size(model: str) -> WhisperSize:
    """Architecture of a public model (by Hub id) or of a transformers folder (its config.json).

    Raises:
        ValueError: neither; the nearest known id is named.
    """
    if model in SIZES:
        return SIZES[model]
    path = Path(model) / "config.json"
    if path.is_file():
        return _read_size(path)
    # A user who forgets the organisation should see the whole id.
    by_name = {name.partition("/")[2]: name for name in SIZES}
    near = difflib.get_close_matches(model.rpartition("/")[2], by_name, n=1)
    hint = f"did you mean {by_name[near[0]]}?" if near else f"known: {', '.join(SIZES)}"
    raise ValueError(f"{model!r} is no known model and no folder with a config.json; {hint}")


def _read_size(path: Path) -> WhisperSize:
    config = json.loads(path.read_text(encoding="utf-8"))
    names = {
        "d_model": "d_model",
        "encoder_layers": "encoder_layers",
        "decoder_layers": "decoder_layers",
        "heads": "encoder_attention_heads",
        "ffn": "encoder_ffn_dim",
        "vocab": "vocab_size",
        "mel_bins": "num_mel_bins",
    }
    missing = [name for name in names.values() if name not in config]
    if missing:
        # A CTranslate2 folder has a config.json too, but one about tokens.
        raise ValueError(f"{path} is not that of a transformers Whisper: no {', '.join(missing)}")
    return WhisperSize(**{ours: config[theirs] for ours, theirs in names.items()})


def num_encoder_parameters(size: WhisperSize, layers: int | None = None) -> int:
    """Parameters of the encoder, its sinusoidal positions included.

    transformers keeps the positions as a (frozen) embedding, so they count; OpenAI's code has them
    as a buffer, which is not counted.
    """
    d = size.d_model
    layers = size.encoder_layers if layers is None else layers
    convolutions = 3 * size.mel_bins * d + d + 3 * d * d + d  # two, kernel 3, with biases
    layer = _attention(d) + _feed_forward(size) + 2 * _norm(d)
    return convolutions + SOURCE_POSITIONS * d + layers * layer + _norm(d)


def num_decoder_parameters(size: WhisperSize, layers: int | None = None) -> int:
    """Parameters of the decoder; the output layer is the token embedding and counts once."""
    d = size.d_model
    layers = size.decoder_layers if layers is None else layers
    embeddings = (size.vocab + TARGET_POSITIONS) * d
    layer = 2 * _attention(d) + _feed_forward(size) + 3 * _norm(d)
    return embeddings + layers * layer + _norm(d)


def num_parameters(
    size: WhisperSize, encoder_layers: int | None = None, decoder_layers: int | None = None
) -> int:
    """Parameters of the model transformers builds; layer counts default to those of `size`."""
    encoder = num_encoder_parameters(size, encoder_layers)
    return encoder + num_decoder_parameters(size, decoder_layers)


def _attention(d: int) -> int:
    return 4 * d * d + 3 * d  # the key projection has no bias


def _feed_forward(size: WhisperSize) -> int:
    return 2 * size.d_model * size.ffn + size.ffn + size.d_model


def _norm(d: int) -> int:
    return 2 * d


def whisper_config(model: str) -> WhisperConfig:
    """The architecture as transformers wants it, with the token ids of its vocabulary."""
    from transformers import WhisperConfig

    size = find_size(model)
    end_of_text = 50_257 if size.is_multilingual else 50_256
    return WhisperConfig(
        d_model=size.d_model,
        encoder_layers=size.encoder_layers,
        decoder_layers=size.decoder_layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.ffn,
        decoder_ffn_dim=size.ffn,
        vocab_size=size.vocab,
        num_mel_bins=size.mel_bins,
        max_source_positions=SOURCE_POSITIONS,
        max_target_positions=TARGET_POSITIONS,
        bos_token_id=50_257,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,  # as the tokenizers have it; the published files do not agree
        decoder_start_token_id=end_of_text + 1,  # <|startoftranscript|>
    )
