"""How often a student's next token is its teacher's: what speculative decoding with it gains by.

The teacher's own greedy tokens of the validation windows are decoded once and kept in
`<labels_dir>/validation_tokens.jsonl`. A student reads them in one pass of its decoder, which tells
at every position whether it would have drafted what comes next (arXiv:2211.17192 sec. 2, greedy).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from distill.data.files import hash_of, read_jsonl, write_jsonl
from distill.data.speech.windows import Window
from distill.losses.matmul import fast_linears, product
from distill.losses.token_losses import IGNORE, chunks
from distill.whisper.data.collate import TokenRow, pad
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import stack_states
from distill.whisper.model import decoder_states
from distill.whisper.recipe import WhisperRecipe, margin_setting
from distill.whisper.recognition.transcribe import transcribe
from distill.whisper.teacher import Teacher

NUM_DRAFTS = 4  # tokens a student drafts before its teacher looks at them

# Tokens of the teacher


def teacher_tokens(
    recipe: WhisperRecipe,
    teacher: Teacher,
    windows: Sequence[Window],
    local_windows: Sequence[Window],
    accelerator: Accelerator,
    cache: dict[str, Tensor] | None,
) -> dict[str, list[int]]:
    """{window id: tokens, end of text included}, from the file, which is made if it is not there.

    All ranks have to call it: each decodes its own windows, the main one reads and writes.

    Args:
        windows: all that are validated on.
        local_windows: those of this rank.
        cache: {window id: encoder states} to fill while decoding.
    """
    path = Path(recipe.labels_dir) / "validation_tokens.jsonl"
    settings = _settings(recipe, teacher, windows)
    # the main rank decides for all: others may see the file earlier or later
    known = [_read(path, settings) if accelerator.is_main_process else None]
    tokens = broadcast_object_list(known)[0]
    if tokens is None:
        found = gather_object(_decode(recipe, teacher, local_windows, accelerator, cache))
        tokens = dict(sorted(found))
        if accelerator.is_main_process:
            rows = [{"id": name, "tokens": ids} for name, ids in tokens.items()]
            write_jsonl(path, [{"settings": settings}, *rows])
    return tokens


def _settings(recipe: WhisperRecipe, teacher: Teacher, windows: Sequence[Window]) -> str:
    """Hash of what decides the tokens; where the audio lies does not."""
    audio = [
        [w.id, w.language, [(p.id, p.offset, p.duration, p.start) for p in w.pieces]]
        for w in windows
    ]
    return hash_of({
        "teacher": teacher.revision, "windows": audio, "language": recipe.language,
        "task": recipe.task, "max_tokens_per_second": recipe.evaluation.max_tokens_per_second,
        **margin_setting(recipe),
    })


def _read(path: Path, settings: str) -> dict[str, list[int]] | None:
    if not path.is_file():
        return None
    head, *rows = read_jsonl(path)
    return {row["id"]: row["tokens"] for row in rows} if head["settings"] == settings else None


def _decode(
    recipe: WhisperRecipe,
    teacher: Teacher,
    windows: Sequence[Window],
    accelerator: Accelerator,
    cache: dict[str, Tensor] | None,
) -> list[tuple[str, list[int]]]:
    """(window id, tokens) of the teacher.

    A text that loops is ended, whatever evaluation.on_loop says: where a loop is broken, the token
    is not the one that the teacher would have chosen. Short clips are not padded then, either:
    teacher and student are compared on the same encoder states.
    """
    decoder = WhisperDecoder(teacher.model, teacher.processor.tokenizer, recipe.language,
                            recipe.task, on_loop="end")
    config = recipe.evaluation
    found = transcribe(
        decoder, teacher.processor, windows, config.batch_size, config.max_tokens_per_second,
        cache, "teacher on validation" if accelerator.is_main_process else None, guarded=False,
    )
    end = decoder.special.end
    return [
        (name, hypothesis.tokens + ([] if hypothesis.truncated or hypothesis.looped else [end]))
        for name, hypothesis in found.items()
    ]


# How often the student would have said the same


def agreement_counts(
    decoder: WhisperDecoder,
    windows: Sequence[Window],
    states: dict[str, Tensor],
    tokens: dict[str, list[int]],
) -> list[float]:
    """[tokens that the student would have drafted, tokens, times that the teacher looks at drafts]
    of a batch of windows; zeros where the teacher's tokens are not known.

    Args:
        decoder: of the student.
        states: {window id: (frames, width)} the student's encoder states.
        tokens: see `teacher_tokens`.
    """
    known = [window for window in windows if tokens.get(window.id)]
    if not known:
        return [0.0, 0.0, 0.0]
    found = agreement(
        decoder, stack_states(decoder.model, [states[window.id] for window in known]),
        [tokens[window.id] for window in known], [window.language for window in known],
    )
    return [float(sum(map(sum, found))), float(sum(map(len, found))),
            float(sum(count_verifies(each, NUM_DRAFTS) for each in found))]


@torch.no_grad()
def agreement(
    decoder: WhisperDecoder,
    states: Tensor,
    tokens: Sequence[Sequence[int]],
    languages: Sequence[str | None],
) -> list[list[bool]]:
    """Whether each token is the student's likeliest after those before it, as `decoder` chooses.

    Args:
        states: (batch, frames, width) encoder states.
        tokens: of each row, without the prefix; not empty.
        languages: of each row, where it differs from the decoder's.
    """
    prefixes = [decoder.special.prefix(language or decoder.language, decoder.task,
                                       decoder.timestamps) for language in languages]
    rows = [
        TokenRow([*prefix, *text[:-1]], [*[IGNORE] * (len(prefix) - 1), *text])
        for prefix, text in zip(prefixes, tokens, strict=True)
    ]
    inputs, labels = (each.to(states.device) for each in pad(rows, decoder.special.end))
    with fast_linears():
        hidden, _ = decoder_states(decoder.model, inputs, states, ())
    valid = labels != IGNORE
    is_first = torch.zeros_like(valid)
    is_first[:, len(prefixes[0]) - 1] = True
    chosen = _choose(decoder, hidden[valid], is_first[valid])
    same = (chosen == labels[valid]).tolist()
    ends = torch.tensor([len(text) for text in tokens]).cumsum(0).tolist()
    return [same[end - len(text) : end] for text, end in zip(tokens, ends, strict=True)]


def _choose(decoder: WhisperDecoder, hidden: Tensor, is_first: Tensor) -> Tensor:
    """Greedy tokens (tokens,) of decoder states (tokens, width)."""
    weight = decoder.model.proj_out.weight.to(hidden.dtype)
    chosen = []
    for rows in chunks(hidden):
        logits = product(hidden[rows], weight).float()
        logits += torch.where(is_first[rows, None], decoder.rules.first, decoder.rules.always)
        chosen.append(logits.argmax(-1))
    return torch.cat(chosen)


def count_verifies(agreed: Sequence[bool], num_drafts: int) -> int:
    """How often a teacher looks at drafts until its text is complete.

    It keeps the drafts up to the first it would not have chosen, and adds one token itself. All
    that is kept is its own text, so what the student drafts next depends on that text alone.
    """
    count = at = 0
    while at < len(agreed):
        drafts = list(agreed[at : at + num_drafts])
        at += (drafts.index(False) if False in drafts else len(drafts)) + 1
        count += 1
    return count


def agreement_metrics(agreed: float, tokens: float, verifies: float) -> dict[str, float]:
    """From counts over all ranks; empty if there are none.

    Returns:
        acceptance: share of the teacher's tokens that the student would have drafted.
        expected_tokens_per_verify: tokens of a text per look of the teacher at NUM_DRAFTS drafts;
            the end of a text cuts its last run short.
    """
    if not tokens:
        return {}
    return {"acceptance": agreed / tokens, "expected_tokens_per_verify": tokens / verifies}
