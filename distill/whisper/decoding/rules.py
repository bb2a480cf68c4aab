"""Logits processors of Whisper: suppressed tokens and rules of timestamps, for many positions.

The rules are those of OpenAI's decoding.py (ApplyTimestampRules) as transformers has them. There
all sequences have one length; here each position has its own history.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.whisper.decoding.output.shortlist import RoughLogits
from distill.whisper.special import SpecialTokens


class LogitsRules:
    """Forbids tokens by setting their logits to -inf.

    Args:
        generation_config: of the model; `suppress_tokens`, `begin_suppress_tokens` and
            `max_initial_timestamp_index` are used.
        special: ids of special tokens.
        timestamps: whether the model may write them.
        size: of the vocabulary.
    """

    def __init__(self, generation_config, special: SpecialTokens, timestamps: bool, size: int,
                 device: torch.device | str):
        self.timestamps = timestamps
        self.end, self.begin = special.end, special.timestamp_begin
        self.latest_first = getattr(generation_config, "max_initial_timestamp_index", None)
        self.always = torch.zeros(size, device=device)
        self.always[generation_config.suppress_tokens or []] = -torch.inf
        self.always[special.no_timestamps if timestamps else self.begin :][
            : 1 if timestamps else None] = -torch.inf
        self.first = self.always.clone()
        self.first[generation_config.begin_suppress_tokens or []] = -torch.inf

    def __call__(self, logits: Tensor, generated: Sequence[Sequence[int]],
                 lengths: Sequence[int] | None = None, rough: RoughLogits | None = None
                 ) -> Tensor:
        """Apply the rules in place.

        Args:
            logits: (positions, vocabulary).
            generated: tokens of each position's sequence, without the prompt.
            lengths: how many of these tokens come before each position; None: all of them.
            rough: where not all logits are exact: what makes those exact that decide here.
        """
        if lengths is None:
            lengths = [len(tokens) for tokens in generated]
        if self.timestamps and rough is not None:
            rough.settle(self.begin)
        if all(lengths):
            logits += self.always
        else:
            for row, length in zip(logits, lengths, strict=True):
                row += self.always if length else self.first
        if self.timestamps:
            for row, tokens, length in zip(logits, generated, lengths, strict=True):
                self._forbid(row, tokens, length)
            if rough is not None:
                rough.refine(logits[:, : self.begin])
            self._prefer_timestamps(logits)
        return logits

    def _forbid(self, row: Tensor, tokens: Sequence[int], length: int) -> None:
        """Timestamps come in pairs, begin early, and do not go back."""
        begin = self.begin
        if not length:
            row[:begin] = -torch.inf
            if self.latest_first is not None:
                row[begin + self.latest_first + 1 :] = -torch.inf
            return
        is_pair = length < 2 or tokens[length - 2] >= begin
        opens = tokens[length - 1] >= begin
        if opens and is_pair:
            row[begin:] = -torch.inf
        elif opens:
            row[: self.end] = -torch.inf
        before = (tokens[at] for at in range(length - 1, -1, -1))
        last = next((token for token in before if token >= begin), None)
        if last is not None:
            row[begin : last if opens and not is_pair else last + 1] = -torch.inf

    def _prefer_timestamps(self, logits: Tensor) -> None:
        """A timestamp comes where all of them together are likelier than any one text token."""
        text = logits[:, : self.begin]
        likelier = logits[:, self.begin :].logsumexp(-1) > text.amax(-1)
        text.masked_fill_(likelier[:, None], -torch.inf)
