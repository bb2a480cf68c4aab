"""A style and a content -> the tokens that a decoder reads before `<|startoftranscript|>`."""

from __future__ import annotations

from collections.abc import Sequence

from distill.whisper.prompting.styles import style_prompt

LIMIT = 223  # tokens of a prompt: half of Whisper's context, as OpenAI has it
_SPACE = "\u0120"  # how byte-level tokens write it


def prompt_tokens(tokenizer, style: str | None, content: str, limit: int) -> list[int]:
    """Tokens of `style content`, without `<|startofprev|>`. What does not fit is cut from the
    beginning of the content, by whole words; the style is never cut.

    Args:
        style: None for none.
        limit: most tokens.
    """
    first = _encode(tokenizer, style_prompt(style)) if style else []
    rest, room = _encode(tokenizer, content), limit - len(first)
    if room < 0:  # the label needs nearly all of the context: rather no prompt than half of a style
        return []
    if len(rest) > room:
        rest = rest[len(rest) - room :] if room else []
        begins = (at for at, token in enumerate(rest)
                  if tokenizer.convert_ids_to_tokens(token).startswith(_SPACE))
        rest = rest[next(begins, len(rest)) :]
    return [*first, *rest]


def num_prompt_tokens(tokenizer, text: str) -> int:
    return len(_encode(tokenizer, text))


def render_tokens(tokenizer, write, tokens: Sequence[int], begin: int) -> list[int]:
    """Tokens of a text written in another way, between the same timestamps.

    Args:
        write: text -> text.
        begin: id of the first timestamp.
    """
    found: list[int] = []
    run: list[int] = []
    for token in [*tokens, begin]:
        if token < begin:
            run.append(token)
            continue
        if run:
            found += _encode(tokenizer, write(tokenizer.decode(run).strip()))
        run = []
        found.append(token)
    return found[:-1]


def _encode(tokenizer, text: str) -> list[int]:
    """As Whisper writes: with a space before. Special tokens in a text have no place in it."""
    if not text.strip():
        return []
    ids = tokenizer(" " + text.strip(), add_special_tokens=False).input_ids
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return [token for token in ids if token < end]
