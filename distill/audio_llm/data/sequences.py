"""From an example to token ids: what is asked, where the audio goes, and which tokens are learned.

    sequence = build(tokenizer, LAYOUTS["user"], "Transcribe speech to text.", None, 25, "hello")
    sequence.ids       # AUDIO stands where the adapter's output goes
    sequence.labels    # IGNORE but for the answer and its end

Parts are tokenised by themselves: a prompt has the same ids whether an answer follows or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.audio_llm.data.layouts import Layout

AUDIO = -1  # in place of a token id
IGNORE = -100  # a label that is not learned; that of distill.losses.token_losses


@dataclass(frozen=True)
class Sequence:
    """ids and labels are equally long; labels[i] is what stands at i, not after it."""

    ids: list[int]
    labels: list[int]
    num_prompt: int  # ids before the answer, audio included


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text; names of special tokens are these tokens, and nothing is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def end_id(tokenizer: Any, layout: Layout) -> int:
    """The token that ends an answer.

    Raises:
        ValueError: the layout's is not one of this tokenizer.
    """
    if layout.end is None:
        return int(tokenizer.eos_token_id)
    found = encode(tokenizer, layout.end)
    if len(found) != 1:
        raise ValueError(f"layout: its end {layout.end!r} is not a single token of the language "
                         f"model ({len(found)} tokens); choose another layout")
    return found[0]


def answer_ids(tokenizer: Any, layout: Layout, answer: str) -> list[int]:
    return [*encode(tokenizer, layout.answer.format(answer=answer)), end_id(tokenizer, layout)]


def spoken_ids(tokenizer: Any, text: str) -> list[int]:
    """Of a transcript; with a space before it, so that all words look alike."""
    return encode(tokenizer, f" {text}" if text else "")


def build(
    tokenizer: Any, layout: Layout, prompt: str, transcript: str | None,
    audio: int | list[int], answer: str | None, whole_text: bool = False,
) -> Sequence:
    """
    Args:
        transcript: told as text; None: not told.
        audio: how many embeddings stand for it; or ids of a text that stands in its place.
        answer: None while it is not known.
        whole_text: all text is learned, not the answer alone.
    """
    before, after = (encode(tokenizer, part) for part in layout.parts(prompt, transcript))
    heard = [AUDIO] * audio if isinstance(audio, int) else list(audio)
    learned = [] if answer is None else answer_ids(tokenizer, layout, answer)
    given = [*before, *heard, *after]
    hidden = [IGNORE] * len(given)
    if whole_text:
        hidden = [IGNORE if each == AUDIO else each for each in given]
        hidden[:1] = [IGNORE]  # nothing comes before it
    return Sequence([*given, *learned], [*hidden, *learned], len(given))
