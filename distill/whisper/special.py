"""Ids that steer Whisper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

_ENGLISH_END = 50_256  # <|endoftext|> of English-only models, which have GPT-2's tokens


class SpecialTokens:
    """Ids that steer Whisper, looked up by name (their order differs between vocabularies)."""

    def __init__(self, tokenizer, generation_config):
        def find(*names: str) -> int:
            for name in names:
                token = tokenizer.convert_tokens_to_ids(name)
                if token is not None and tokenizer.convert_ids_to_tokens(token) == name:
                    return token
            raise ValueError(f"the tokenizer has no {names[0]}: it is not a Whisper tokenizer")

        self.start = find("<|startoftranscript|>")
        self.end = find("<|endoftext|>")
        self.previous = find("<|startofprev|>")
        self.no_speech = find("<|nospeech|>", "<|nocaptions|>")
        self.no_timestamps = find("<|notimestamps|>")
        self.timestamp_begin = self.no_timestamps + 1
        self._find = find
        self._tokenizer, self._generation_config = tokenizer, generation_config
        configured = getattr(generation_config, "is_multilingual", None)
        self.multilingual = self.end != _ENGLISH_END if configured is None else bool(configured)

    @cached_property
    def languages(self) -> dict[str, int]:
        """{`<|en|>`: its id, ...}; none of a model that knows only English. Some models come
        without the table; their tokenizers know the same."""
        if not self.multilingual:
            return {}
        if configured := getattr(self._generation_config, "lang_to_id", None):
            return dict(configured)
        from transformers.models.whisper.tokenization_whisper import LANGUAGES

        known = self._tokenizer.get_vocab()
        return {name: known[name] for code in LANGUAGES if (name := f"<|{code}|>") in known}

    @property
    def tasks(self) -> dict[str, int]:
        """{`transcribe`: its id, `translate`: its id}; none of a model that knows only English."""
        names = ("transcribe", "translate") if self.multilingual else ()
        return {name: self._find(f"<|{name}|>") for name in names}

    def prefix(self, language: str | None, task: str, timestamps: bool) -> list[int]:
        """`<|startoftranscript|><|en|><|transcribe|>[<|notimestamps|>]`.

        Raises:
            ValueError: unknown language, or none for a multilingual model.
        """
        ids = [self.start]
        if self.multilingual:
            if language is None:
                raise ValueError("language must be set for a multilingual teacher, got null")
            ids += [self._find(f"<|{language}|>"), self._find(f"<|{task}|>")]
        return ids if timestamps else [*ids, self.no_timestamps]

    def prompt(self, before: Sequence[int], context: int, room: int | None = None) -> list[int]:
        """`<|startofprev|>` and the end of the text before, at most half the context, as OpenAI
        does; [] where nothing of the text is left.

        Args:
            context: decoder positions, 448 for every Whisper: 223 tokens of text are kept.
            room: positions that are free, where there may be fewer.
        """
        limit = context // 2 - 1
        kept = min(len(before), limit if room is None else min(limit, room - 1))
        return [self.previous, *before[len(before) - kept :]] if kept > 0 else []
