"""What a frozen text model makes of a prompt: the states that an encoder reads.

    read = TextStates(config)                                # nothing is loaded before it is needed
    read(pieces_of("lower", "Moskowitz, van Dyck."))         # (tokens, read.width); None: no text

Items of a list and sentences are read one by one. So a name has the same states whatever stands
beside it, the order of a list changes nothing, and what was read before is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from distill.data.packaged.text_models import TextModelSource, locate
from distill.progress import quiet_libraries
from distill.whisper.prompting.styles import style_prompt

KEY = "student.prompt_reader"
_ENDS = re.compile(r"(?<=[,.!?;])\s+")
_KEPT = 50_000  # pieces in memory: of names some 600 MB in float16
_LONGEST = 512  # tokens of a piece; the rest of it is not read


def pieces_of(style: str | None, content: str) -> list[str]:
    """The parts of a prompt that are read by themselves."""
    parts = (part.strip().rstrip(",.;") for part in _ENDS.split(content))
    return [*([style_prompt(style)] if style else []), *filter(None, parts)]


class OwnEmbeddings:
    """Reads with a Whisper's own token embeddings: no text model is needed.

    Args:
        model: WhisperForConditionalGeneration.
        tokenizer: makes its tokenizer, when the first text is read.
    """

    revision = None

    def __init__(self, model: Any, tokenizer: Callable[[], Any]):
        self._model, self._make_tokenizer = model, tokenizer
        self.width = model.config.d_model

    @cached_property
    def _tokenizer(self) -> Any:
        return self._make_tokenizer()

    @property
    def _text(self) -> Tensor:
        """Embeddings of all text tokens."""
        return self._model.proj_out.weight.detach()[: self._model.config.eos_token_id].float()

    @cached_property
    def _mean(self) -> Tensor:
        """What all of them have in common."""
        return self._text.mean(0).cpu()

    def sample(self, count: int) -> Tensor:
        """(count, width) of different text tokens, without what all have in common."""
        text = self._text
        return text[:: max(1, len(text) // count)][:count].cpu() - self._mean

    def ends(self, piece: str) -> list[int]:
        """How many letters of a piece have been read after each token."""
        return _ends(self._tokenizer, piece)

    def __call__(self, pieces: Sequence[str]) -> Tensor | None:
        """As `TextStates`."""
        ids = [token for piece in pieces
               for token in self._tokenizer(" " + piece, add_special_tokens=False).input_ids]
        if not ids:
            return None
        states = self._model.proj_out.weight.detach()[ids].float().cpu() - self._mean
        return torch.nn.functional.layer_norm(states, states.shape[-1:])


class TextStates:
    """Reads with a text model.

    Args:
        source: where the model comes from.
        states: see `student.prompt_reader.states`.
        revision: that it has to have; None: any.
    """

    def __init__(self, source: TextModelSource, states: str, revision: str | None = None):
        self.source, self.states, self._asked_revision = source, states, revision
        self._known: dict[str, Tensor] = {}

    @cached_property
    def _found(self) -> tuple[Any, str]:
        folder, revision, _ = locate(self.source, KEY)
        if self._asked_revision not in (None, revision):
            raise ValueError(f"{KEY}.model: this student learned to read {self.source.model} at "
                             f"{self._asked_revision}, and what was found is {revision}")
        return folder, revision

    @property
    def revision(self) -> str:
        return self._found[1]

    @cached_property
    def width(self) -> int:
        """Of the states; known without loading the model."""
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self._found[0]).get_text_config().hidden_size

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """(model, tokenizer)."""
        from transformers import AutoModel, AutoTokenizer

        quiet_libraries()
        folder = self._found[0]
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)

    def __call__(self, pieces: Sequence[str]) -> Tensor | None:
        """float32 (tokens, width) of all pieces, one after the other; None where there are none."""
        new = list(dict.fromkeys(piece for piece in pieces if piece not in self._known))
        while new and len(self._known) + len(new) > _KEPT and self._known:
            self._known.pop(next(iter(self._known)))
        for piece in new:
            self._known[piece] = self._read(piece).half()
        found = [self._known[piece].float() for piece in pieces]
        return torch.cat(found) if sum(map(len, found)) else None

    def ends(self, piece: str) -> list[int]:
        """As of `OwnEmbeddings`."""
        return _ends(self._loaded[1], piece)

    @torch.no_grad()
    def _read(self, piece: str) -> Tensor:
        model, tokenizer = self._loaded
        ids = tokenizer(" " + piece, add_special_tokens=False).input_ids[:_LONGEST]
        if not ids:
            return torch.empty(0, self.width)
        if self.states == "embeddings":
            states = model.get_input_embeddings()(torch.tensor(ids))
        else:  # decoders look at their first token when there is nothing to look at: it is no word
            first = tokenizer.bos_token_id
            first = tokenizer.cls_token_id if first is None else first
            first = tokenizer.eos_token_id if first is None else first
            states = model(input_ids=torch.tensor([[first, *ids]])).last_hidden_state[0, 1:]
        return torch.nn.functional.layer_norm(states, states.shape[-1:])


def _ends(tokenizer: Any, piece: str) -> list[int]:
    found = tokenizer(" " + piece, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in found.offset_mapping][:_LONGEST]
