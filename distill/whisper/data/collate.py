"""A view -> inputs and labels of both decoders.

Teacher and student always get the same `decoder_input_ids`, prompts included; the reference
scripts rebuild the teacher's from the labels and lose the prompt. Labels of the prompt and of
padding are `IGNORE`; the language, task and timestamp tokens carry loss, so that the student can
still detect a language.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill.data.views.draws import View
from distill.losses.token_losses import IGNORE
from distill.whisper.prompting.compose import prompt_tokens, render_tokens
from distill.whisper.prompting.styles import render
from distill.whisper.special import SpecialTokens


@dataclass(frozen=True)
class TokenRow:
    """Decoder input and labels of one view, equally long; not padded."""

    inputs: list[int]
    labels: list[int]

    @property
    def num_valid(self) -> int:
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True)
class TokenRules:
    """Turns label rows into token rows.

    Attributes:
        language, task: of the recipe; a row's own language comes first.
        context: decoder positions, 448 for every Whisper.
        timestamps: whether the labels have timestamps.
        tokenizer: of the teacher; for views with a prompt.
    """

    special: SpecialTokens
    language: str | None
    task: str
    context: int
    timestamps: bool
    tokenizer: Any = None

    def __call__(self, row: dict, view: View, reads_prompt: bool = True) -> TokenRow:
        """Build the view of a label row (see `pseudo_label`).

        Args:
            reads_prompt: False leaves the prompt out, as for a student whose encoder reads it; the
                label is the same.

        Raises:
            ValueError: the label alone is longer than the context.
        """
        begin = self.special.timestamp_begin
        keep = view.timestamps and self.timestamps
        text = [t for t in row["tokens"] if keep or t < begin]
        prefix = self.special.prefix(row["language"] or self.language, self.task, keep)
        asked = view.prompt
        if asked and asked.style not in (None, "mixed"):  # which is the label as it is
            write = partial(render, asked.style)
            styled = render_tokens(self.tokenizer, write, text, begin)
            if len(prefix) + len(styled) <= self.context:
                text = styled
            else:  # capitals need more tokens: too long in this style, the label keeps its own
                asked = replace(asked, style=None)
        body = [*prefix, *text, self.special.end]
        room = self.context + 1 - len(body)
        if room < 0:
            raise ValueError(f"label {row['id']} has {len(text)} tokens, the decoder's context "
                             f"is {self.context}")
        before = [t for t in row.get("prompt", []) if keep or t < begin]
        prompt = self.special.prompt(before, self.context, room) if view.previous else []
        if asked and reads_prompt:
            limit = min(self.context // 2, room) - 1
            words = prompt_tokens(self.tokenizer, asked.style, asked.content, limit)
            prompt = self.special.prompt(words, self.context, room)
        full = [*prompt, *body]
        labels = full[1:]
        labels[: len(prompt)] = [IGNORE] * len(prompt)
        inputs = full[:-1]
        return TokenRow(inputs, labels)


def pad(rows: list[TokenRow], pad_token: int) -> tuple[Tensor, Tensor]:
    """Right-padded (batch, longest) int64: decoder input ids, labels (`IGNORE` on padding).

    Decoders are causal: what is right of a row's end changes nothing before it.
    """
    width = max(len(row.inputs) for row in rows)
    inputs = torch.full((len(rows), width), pad_token)
    labels = torch.full((len(rows), width), IGNORE)
    for index, row in enumerate(rows):
        inputs[index, : len(row.inputs)] = torch.tensor(row.inputs)
        labels[index, : len(row.labels)] = torch.tensor(row.labels)
    return inputs, labels
