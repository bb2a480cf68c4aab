"""What Whisper may say next: suppressed tokens, rules of timestamps; for many places at once.

The rules are those of OpenAI's decoding.py (ApplyTimestampRules) as transformers has them; there
they work on rows of equal length, here each place has a history of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Rules:
    """Forbids tokens by setting their logits to -inf.

    Args:
        generation_config: of the model; `suppress_tokens`, `begin_suppress_tokens` and
            `max_initial_timestamp_index` are used.
        special: `distill.whisper.decoding.whisper_decoder.SpecialTokens` of its tokenizer.
        timestamps: whether they may be written.
    """

    def __init__(self, generation_config, special, timestamps: bool, size: int, device):
        self.timestamps = timestamps
        self.end, self.begin = special.end, special.timestamp_begin
        self.latest_first = getattr(generation_config, "max_initial_timestamp_index", None)
        self.always = torch.zeros(size, device=device)
        self.always[generation_config.suppress_tokens or []] = -torch.inf
        self.always[special.no_timestamps if timestamps else self.begin :][
            : 1 if timestamps else None] = -torch.inf
        self.first = self.always.clone()
        self.first[generation_config.begin_suppress_tokens or []] = -torch.inf

    def __call__(self, scores: Tensor, said: Sequence[Sequence[int]]) -> Tensor:
        """Apply the rules in place.

        Args:
            scores: (places, vocabulary) logits.
            said: what was said before each place, prompt and prefix left out.
        """
        if all(said):
            scores += self.always
        else:
            for row, before in zip(scores, said, strict=True):
                row += self.always if before else self.first
        if self.timestamps:
            for row, before in zip(scores, said, strict=True):
                self._forbid(row, before)
            self._prefer_timestamps(scores)
        return scores

    def _forbid(self, row: Tensor, said: Sequence[int]) -> None:
        """Timestamps come in pairs, begin early, and do not go back."""
        begin = self.begin
        if not said:
            row[:begin] = -torch.inf
            if self.latest_first is not None:
                row[begin + self.latest_first + 1 :] = -torch.inf
            return
        is_pair = len(said) < 2 or said[-2] >= begin
        opens = said[-1] >= begin
        if opens and is_pair:
            row[begin:] = -torch.inf
        elif opens:
            row[: self.end] = -torch.inf
        last = next((token for token in reversed(said) if token >= begin), None)
        if last is not None:
            row[begin : last if opens and not is_pair else last + 1] = -torch.inf

    def _prefer_timestamps(self, scores: Tensor) -> None:
        """A timestamp comes where all of them together are likelier than any one text token."""
        text = scores[:, : self.begin]
        likelier = scores[:, self.begin :].logsumexp(-1) > text.amax(-1)
        text.masked_fill_(likelier[:, None], -torch.inf)
