"""An encoder's reader of prompts: made, saved beside a student's weights, and found again.

    attach(model, "runs/demo-prompted-encoder/student")    # model.prompt_reader, if it has one
    texts_of(model, None, ["Moskowitz, van Dyck."])        # what `encode_about` wants

prompt_reader.safetensors and prompt_reader.json lie in the student's folder, and its config.json
says so (`prompt_reader: true`): files that are not fetched are missed. Who does not know of them
reads a student without prompts, which has the teacher's encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperTokenizerFast
from transformers.utils import cached_file

from distill.data.files import read_json, write_atomic, write_json
from distill.whisper.encoder.prompt_reader import PromptReader, has_reader
from distill.whisper.prompting.reader_config import PromptReaderConfig
from distill.whisper.prompting.text_states import OwnEmbeddings, TextStates, pieces_of

SETTINGS, WEIGHTS, PREFIX = "prompt_reader.json", "prompt_reader.safetensors", "prompt_reader."
VERSION = 1
_KEYS = ("layers", "model", "revision", "fallback_wheel", "states")  # that make a reader


def add_reader(model: Any, config: PromptReaderConfig, tokenizer: Callable[[], Any],
               revision: str | None = None) -> None:
    """Give a WhisperForConditionalGeneration a `prompt_reader` that has learned nothing.

    Args:
        tokenizer: makes the model's.
        revision: that the text model has to have; None: any.

    Raises:
        ValueError: there is no such text model, or it has another revision.
    """
    read: Any = OwnEmbeddings(model, tokenizer)
    if config.model is not None:
        read = TextStates(config, config.states, revision)
    sizes = model.config
    layers = config.layers
    if layers > sizes.encoder_layers:
        raise ValueError(f"student.prompt_reader.layers must be at most the encoder's "
                         f"{sizes.encoder_layers}, got {layers}")
    reader = PromptReader(sizes.encoder_layers, layers, sizes.d_model, read.width)
    reader.read, reader.settings = read, config
    model.prompt_reader = reader.to(model.device, model.dtype)


def save_student(model: Any, folder: Path) -> None:
    """`save_pretrained`, with the reader in files of its own."""
    if not has_reader(model):
        model.save_pretrained(folder)
        return
    plain = {name: value for name, value in model.state_dict().items()
             if not name.startswith(PREFIX)}
    model.config.prompt_reader = True
    model.save_pretrained(folder, state_dict=plain)
    reader = model.prompt_reader
    weights = {name: value.contiguous() for name, value in reader.state_dict().items()}
    write_atomic(folder / WEIGHTS, lambda path: save_file(weights, path))
    write_json(folder / SETTINGS, {"version": VERSION, "text_revision": reader.read.revision,
                                   **{key: getattr(reader.settings, key) for key in _KEYS}})


def attach(model: Any, folder: str | Path) -> None:
    """Give a model the reader of its folder, or of its repository on the Hub, if there is one.

    Raises:
        ValueError: it is of another version, or not all of it is there.
    """
    path = _find(folder, SETTINGS)
    if path is None and getattr(model.config, "prompt_reader", False):
        raise ValueError(
            f"{folder}: its config.json says that its encoder reads prompts, but {SETTINGS} is not "
            f"there, or was not fetched and the Hub does not answer. Fetch all of it ('hf download "
            f"{folder}' where there is a network), or take 'prompt_reader' out of config.json to "
            "have it without prompts")
    if path is None:
        return
    settings = read_json(path)
    if settings.pop("version") != VERSION:
        raise ValueError(f"{path}: of another version of this program")
    revision = settings.pop("text_revision")
    tokenizer = partial(WhisperTokenizerFast.from_pretrained, folder)
    add_reader(model, PromptReaderConfig(**settings), tokenizer, revision)
    weights = _find(folder, WEIGHTS)
    if weights is None:
        raise ValueError(f"{folder}/{WEIGHTS} is missing: the student reads prompts with it")
    found = load_file(weights)
    wrong = sorted(model.prompt_reader.state_dict().keys() ^ found.keys())
    if wrong:
        raise ValueError(f"{weights}: not the weights of this reader; missing or unexpected: "
                         f"{', '.join(wrong[:3])}")
    model.prompt_reader.load_state_dict(found)
    model.prompt_reader.requires_grad_(False)


def _find(folder: str | Path, name: str) -> Path | None:
    """A file of a folder, or of a repository on the Hub; None where it is not there, or was never
    fetched and the Hub does not answer."""
    if Path(folder).is_dir():
        path = Path(folder) / name
        return path if path.is_file() else None
    found = cached_file(str(folder), name, _raise_exceptions_for_missing_entries=False,
                        _raise_exceptions_for_connection_errors=False)
    return None if found is None else Path(found)


def texts_of(model: Any, style: str | None, contents: Sequence[str]) -> list[Tensor | None]:
    """What a model's encoder reads of prompts in one style; None for an empty one."""
    return [model.prompt_reader.read(pieces_of(style, content)) for content in contents]


def refuse_reader(folder: str | Path, what: str) -> None:
    """
    Raises:
        ValueError: the student in this folder has a reader.
    """
    if (Path(folder) / SETTINGS).is_file():
        raise ValueError(f"{what}: the encoder of {folder} reads prompts, which only this program "
                         "can do; a student that reads them with its decoder can be used "
                         "(student.prompt_reader.layers=0)")
