"""When each word was said, by what the decoder looked at while it wrote it.

    ((words,),) = word_times(model, tokenizer, states, [[hypothesis.tokens]], [27.5], ["en"])

OpenAI's method (their `timing.py`): the text is read again in one pass, cross-attention of the
alignment heads says which frames each token is about, and dynamic time warping makes a monotonic
path of that. Only the queries and keys of those heads are computed again, so any attention kernel
serves. Text that was translated is aligned with the sound it came from, less surely.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.speech.windows import UNSPACED
from distill.whisper.generation import later_half
from distill.whisper.special import SpecialTokens

FRAME_SECONDS = 0.02  # of an encoder state
_MEDIAN_WIDTH = 7  # frames
_EXCHANGES = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5),
              (1, 4), (1, 3), (3, 4))  # after which the fourth of seven is their median
_BEFORE = "\"'“¿([{-"  # signs that belong to the word after them
_AFTER = "\"'.。,，!！?？:：”)]}、"  # ... before them, where no space tells
_SIGN_SECONDS = 0.2  # the end of a word's sound is about its sign: +0.1 s at 0.3, -0.2 s at 0
_LONGEST = 1.4  # seconds of a word or sign next to a pause
_SLOWEST = {True: 0.1, False: 0.35}  # seconds a letter, by whether the language writes spaces
_SLACK = 1.2  # words may be so much slower than usual
_PAUSE = 0.3  # seconds; shorter ones inside a sentence stay in their word


@dataclass(frozen=True)
class Word:
    """A word with its punctuation.

    Attributes:
        text: as it stands in the text, the space before it included.
        start, end: seconds.
        probability: mean of its tokens', 0 to 1.
    """

    text: str
    start: float
    end: float
    probability: float


@torch.inference_mode()
def word_times(
    model,
    tokenizer,
    states: Tensor,
    texts: Sequence[Sequence[Sequence[int]]],
    lengths: Sequence[float],
    languages: Sequence[str | None],
    task: str = "transcribe",
) -> list[list[list[Word]]]:
    """Words of each segment of each row of a batch.

    Args:
        model: WhisperForConditionalGeneration; any model with the encoder that made the states.
        states: (rows, frames, width) encoder states.
        texts: tokens of each row's segments, which no word crosses; timestamps and other special
            tokens are left out.
        lengths: seconds of sound in each row: no word ends later.
        languages: of each row; None for a model that knows one only.
    """
    if not len(texts):
        return []
    special = SpecialTokens(tokenizer, model.generation_config)
    parts = [[[t for t in part if t < special.end] for part in row] for row in texts]
    texts = [list(chain(*row)) for row in parts]
    prefixes = [special.prefix(language, task, timestamps=False) for language in languages]
    rows = [[*prefix, *text, special.end]
            for prefix, text in zip(prefixes, texts, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [special.end] * (width - len(row)) for row in rows],
                       device=model.device)
    heads = alignment_heads(model)
    with _queries_of(model, heads) as heard:
        states = states.to(model.device, model.dtype)
        hidden = model.model.decoder(ids, encoder_hidden_states=states,
                                     use_cache=False).last_hidden_state
    found = []
    for row, (text, prefix, seconds) in enumerate(zip(texts, prefixes, lengths, strict=True)):
        if not text:
            found.append([[] for _ in parts[row]])
            continue
        first, end = len(prefix) - 1, len(rows[row]) - 1  # a token is looked for by the one before
        frames = min(max(1, round(seconds / FRAME_SECONDS)), states.shape[1])
        scores = torch.cat([_scores(*each, row, len(rows[row]), frames) for each in heard])
        times = FRAME_SECONDS * first_frames(-_weights(scores)[first:end].cpu().numpy())
        logits = model.proj_out(hidden[row, first : end - 1])[:, : special.end].float()
        chances = logits.softmax(-1)[range(len(text)), text].tolist()
        found.append(_words(tokenizer, parts[row], languages[row], times, chances))
    return found


def alignment_heads(model) -> list[tuple[int, int]]:
    """(layer, head) of those that follow the sound: the model's own, or without any, as OpenAI
    does, all heads of the later half of the layers."""
    known = getattr(model.generation_config, "alignment_heads", None)
    if known:
        return sorted((layer, head) for layer, head in known)
    every = later_half(model.config.decoder_layers, model.config.decoder_attention_heads)
    return [(layer, head) for layer, head in every]


@contextmanager
def _queries_of(model, heads: Sequence[tuple[int, int]]):
    """A list that the next pass of the decoder fills: (cross-attention, its heads, what it asks
    (rows, tokens, width), the states) of each layer that has alignment heads."""
    heard, hooks = [], []
    for layer in sorted({layer for layer, _ in heads}):
        def keep(module, args, kwargs, own=[h for at, h in heads if at == layer]):  # noqa: B006
            heard.append((module, own, args[0], kwargs["key_value_states"]))

        attention = model.model.decoder.layers[layer].encoder_attn
        hooks.append(attention.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _scores(attention, heads: list[int], asked: Tensor, states: Tensor, row: int, tokens: int,
            frames: int) -> Tensor:
    """float32 (heads, tokens, frames) of a row, before the softmax."""
    size = attention.head_dim
    query = attention.q_proj(asked[row, :tokens]).view(tokens, -1, size)[:, heads]
    key = attention.k_proj(states[row, :frames]).view(frames, -1, size)[:, heads]
    return torch.einsum("thd,fhd->htf", query.float(), key.float()) * size**-0.5


def _weights(scores: Tensor) -> Tensor:
    """(tokens, frames): how much more a token looks at a frame than other tokens do."""
    total = torch.zeros_like(scores[0])
    for head in scores.softmax(-1):
        std, mean = torch.std_mean(head, dim=0, keepdim=True, unbiased=False)
        total += median_filter((head - mean) / std.clamp_(min=1e-9))
    return total / len(scores)


def median_filter(rows: Tensor) -> Tensor:
    """Running median of 7 over the last dimension of (rows, frames), which is mirrored at its ends.

    A sorting network of whole rows is six times as fast as sorting every seven.
    """
    side, frames = _MEDIAN_WIDTH // 2, rows.shape[-1]
    if frames <= side:
        return rows
    padded = F.pad(rows[None], (side, side), mode="reflect")[0]
    parts = [padded[:, at : at + frames] for at in range(_MEDIAN_WIDTH)]
    for low, high in _EXCHANGES:
        parts[low], parts[high] = (torch.minimum(parts[low], parts[high]),
                                   torch.maximum(parts[low], parts[high]))
    return parts[side]


def first_frames(costs: np.ndarray) -> np.ndarray:
    """The frame at which the cheapest monotonic path through (tokens, frames) comes to each token.

    Dynamic time warping, a diagonal at a time; the path goes on by a token, a frame, or both.
    """
    tokens, frames = costs.shape
    slanted = np.full((tokens + frames - 1, tokens), np.inf, dtype=np.float32)
    for token in range(tokens):  # [token + frame, token]
        slanted[token : token + frames, token] = costs[token]
    steps = np.zeros(slanted.shape, dtype=np.int8)
    last = np.full(tokens + 1, np.inf, dtype=np.float32)  # [0] is before the first token
    before = last.copy()
    before[0] = 0.0
    for place, here in enumerate(slanted):
        ways = np.stack([last[1:], before[:-1], last[:-1]])  # from the left, both, from above
        steps[place] = ways.argmin(0)
        before, last = last, np.concatenate([[np.inf], here + ways.min(0)]).astype(np.float32)
    found = np.zeros(tokens, dtype=np.int64)
    token, frame = tokens - 1, frames - 1
    while token >= 0 and frame >= 0:
        found[token] = frame
        step = steps[token + frame, token]
        token -= step > 0
        frame -= step < 2
    return found


def _words(tokenizer, parts: list[list[int]], language: str | None, times: np.ndarray,
           chances: list[float]) -> list[list[Word]]:
    """Words of segments; `times` (tokens + 1,) is when each token begins, and the last one ends."""
    segments, at = [], 0
    for part in parts:
        segments.append([])
        for word, count in split_words(tokenizer, part, language):
            segments[-1].append(Word(word, float(times[at]), float(times[at + count]),
                                     sum(chances[at : at + count]) / count))
            at += count
    spaced = language not in UNSPACED
    return [merge_punctuation(words, spaced) for words in without_silence(segments, spaced)]


def split_words(tokenizer, text: Sequence[int], language: str | None) -> list[tuple[str, int]]:
    """(word, its number of tokens), joined again the text. Where the language writes no spaces, a
    word is as little as has whole characters."""
    whole = tokenizer.decode(list(text), clean_up_tokenization_spaces=False)
    pieces, first, length = [], 0, 0
    for end in range(1, len(text) + 1):
        part = tokenizer.decode(list(text[first:end]), clean_up_tokenization_spaces=False)
        # a character that is not complete decodes to U+FFFD, which also may be in the text
        if whole.startswith(part, length) or end == len(text):
            pieces.append((part, end - first))
            first, length = end, length + len(part)
    if language in UNSPACED:
        return pieces
    words: list[tuple[str, int]] = []
    for part, count in pieces:
        begins = part[:1].isspace() or not any(c.isalnum() for c in part)
        if begins or not words:
            words.append((part, count))
        else:
            words[-1] = (words[-1][0] + part, words[-1][1] + count)
    return words


def without_silence(
    segments: Sequence[Sequence[Word]], spaced: bool = True
) -> list[list[Word]]:
    """Pauses are in the word after them, or in the sign before them: such ones are made shorter.

    How long a word may be follows from its letters and from the others of the text. Inside a
    sentence there must be a pause indeed, since people also speak slowly.
    """
    words = list(chain(*segments))
    paces = [(word.end - word.start) / _letters(word)
             for word in words if _letters(word) and word.end > word.start]
    pace = min(float(np.median(paces or [0.0])), _SLOWEST[spaced])
    found = []
    for segment in segments:
        found.append([])
        begins = True  # at the beginning or after a sign
        for word in segment:
            letters, length = _letters(word), word.end - word.start
            longest = min(_SLACK * pace * letters, _LONGEST) if letters else _LONGEST
            if not letters:
                word = replace(word, end=min(word.end, word.start + longest))
            elif length > (longest if begins else 1.5 * longest + _PAUSE):
                word = replace(word, start=word.end - longest)
            begins = not letters
            found[-1].append(word)
    return found


def _letters(word: Word) -> int:
    return sum(c.isalnum() for c in word.text)


def merge_punctuation(words: Sequence[Word], spaced: bool = True) -> list[Word]:
    """Signs join the word they belong to; parts of a word, as of `check-in`, are one where the
    language writes spaces."""
    found: list[Word] = []
    opening = ""
    for word in words:
        sign = word.text.strip()
        is_sign = not any(c.isalnum() for c in sign)
        joins = found and not opening and not word.text[:1].isspace()
        if joins and is_sign and (spaced or sign in _AFTER):
            last = found[-1]
            end = min(word.end, last.end + _SIGN_SECONDS)
            found[-1] = replace(last, text=last.text + word.text, end=end)
        elif joins and spaced:
            found[-1] = replace(found[-1], text=found[-1].text + word.text, end=word.end)
        elif is_sign and sign in _BEFORE:
            opening += word.text
        else:
            found.append(replace(word, text=opening + word.text))
            opening = ""
    if opening and found:
        found[-1] = replace(found[-1], text=found[-1].text + opening)
    return found
