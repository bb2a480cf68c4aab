"""Times of words, from the decoder's cross-attention.

    ((words,),) = word_times(model, tokenizer, states, [[hypothesis.tokens]], [27.5], ["en"])

OpenAI's method (their `timing.py`): the decoder reads the text again in one pass, the
cross-attention of its alignment heads gives a weight to each token and frame, and dynamic time
warping finds the best monotonic path. Queries and keys of those heads are computed here once more,
so the model may use any attention kernel. Translated text is aligned with the speech of the other
language, less precisely.
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
from distill.whisper.encoder.audio import complete
from distill.whisper.generation import later_half
from distill.whisper.special import SpecialTokens

FRAME_SECONDS = 0.02  # of an encoder state
_MEDIAN_WIDTH = 7  # frames
_EXCHANGES = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5),
              (1, 4), (1, 3), (3, 4))  # then the fourth of seven is their median
_BEFORE = "\"'“¿([{-"  # signs that belong to the next word
_AFTER = "\"'.。,，!！?？:：”)]}、"  # ... to the word before, if no space tells
_SIGN_SECONDS = 0.2  # of a sign, added to its word: its end errs by +0.1 s at 0.3, -0.2 s at 0
_LONGEST = 1.4  # most seconds of a word or sign next to a pause
_SLOWEST = {True: 0.1, False: 0.35}  # most seconds a letter, with spaces between words or none
_SLACK = 1.2  # words may take so much longer than the median pace says
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
    with _captured_inputs(model, heads) as captured:
        states = complete(model, states.to(model.device, model.dtype))
        hidden = model.model.decoder(ids, encoder_hidden_states=states,
                                     use_cache=False).last_hidden_state
    found = []
    for row, (text, prefix, seconds) in enumerate(zip(texts, prefixes, lengths, strict=True)):
        if not text:
            found.append([[] for _ in parts[row]])
            continue
        first, end = len(prefix) - 1, len(rows[row]) - 1  # a token is predicted at the one before
        frames = min(max(1, round(seconds / FRAME_SECONDS)), states.shape[1])
        attention = torch.cat([_attention_logits(*each, row, len(rows[row]), frames)
                               for each in captured])
        times = FRAME_SECONDS * first_frames(-_weights(attention)[first:end].cpu().numpy())
        logits = model.proj_out(hidden[row, first : end - 1])[:, : special.end].float()
        probabilities = logits.softmax(-1)[range(len(text)), text].tolist()
        found.append(_words(tokenizer, parts[row], languages[row], times, probabilities))
    return found


def alignment_heads(model) -> list[tuple[int, int]]:
    """(layer, head) of the cross-attention heads that follow the audio.

    They are in the generation config. If not, they are, as OpenAI's, all heads of the later half
    of the layers.
    """
    known = getattr(model.generation_config, "alignment_heads", None)
    if known:
        return sorted((layer, head) for layer, head in known)
    every = later_half(model.config.decoder_layers, model.config.decoder_attention_heads)
    return [(layer, head) for layer, head in every]


@contextmanager
def _captured_inputs(model, heads: Sequence[tuple[int, int]]):
    """A list that the next pass of the decoder fills, for each layer with alignment heads:
    (cross-attention module, its heads, its input (rows, tokens, width), encoder states)."""
    captured, hooks = [], []
    for layer in sorted({layer for layer, _ in heads}):
        def keep(module, args, kwargs, chosen=[h for at, h in heads if at == layer]):  # noqa: B006
            captured.append((module, chosen, args[0], kwargs["key_value_states"]))

        attention = model.model.decoder.layers[layer].encoder_attn
        hooks.append(attention.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


def _attention_logits(attention, heads: list[int], hidden: Tensor, states: Tensor, row: int,
                      tokens: int, frames: int) -> Tensor:
    """float32 (heads, tokens, frames) of a row, before the softmax."""
    size = attention.head_dim
    query = attention.q_proj(hidden[row, :tokens]).view(tokens, -1, size)[:, heads]
    key = attention.k_proj(states[row, :frames]).view(frames, -1, size)[:, heads]
    return torch.einsum("thd,fhd->htf", query.float(), key.float()) * size**-0.5


def _weights(logits: Tensor) -> Tensor:
    """(tokens, frames): attention of a token to a frame, relative to the other tokens'."""
    total = torch.zeros_like(logits[0])
    for head in logits.softmax(-1):
        std, mean = torch.std_mean(head, dim=0, keepdim=True, unbiased=False)
        total += median_filter((head - mean) / std.clamp_(min=1e-9))
    return total / len(logits)


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
    """The first frame of each token on the cheapest monotonic path through (tokens, frames).

    Dynamic time warping, one diagonal after the other; a step goes one token further, one frame, or
    both.
    """
    tokens, frames = costs.shape
    slanted = np.full((tokens + frames - 1, tokens), np.inf, dtype=np.float32)
    for token in range(tokens):  # [token + frame, token]
        slanted[token : token + frames, token] = costs[token]
    steps = np.zeros(slanted.shape, dtype=np.int8)
    last = np.full(tokens + 1, np.inf, dtype=np.float32)  # [0] is before the first token
    before = last.copy()
    before[0] = 0.0
    for diagonal, here in enumerate(slanted):
        ways = np.stack([last[1:], before[:-1], last[:-1]])  # from the left, both, from above
        steps[diagonal] = ways.argmin(0)
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
           probabilities: list[float]) -> list[list[Word]]:
    """Words of segments; `times` (tokens + 1,): where tokens begin, and where the last one ends."""
    segments, at = [], 0
    for part in parts:
        segments.append([])
        for word, count in split_words(tokenizer, part, language):
            segments[-1].append(Word(word, float(times[at]), float(times[at + count]),
                                     sum(probabilities[at : at + count]) / count))
            at += count
    spaced = language not in UNSPACED
    return [merge_punctuation(words, spaced) for words in without_silence(segments, spaced)]


def split_words(tokenizer, text: Sequence[int], language: str | None) -> list[tuple[str, int]]:
    """(word, its number of tokens); all words joined are the text. If the language writes no
    spaces, a word is the fewest tokens that make whole characters."""
    whole = tokenizer.decode(list(text), clean_up_tokenization_spaces=False)
    pieces, first, length = [], 0, 0
    for end in range(1, len(text) + 1):
        part = tokenizer.decode(list(text[first:end]), clean_up_tokenization_spaces=False)
        # an incomplete character decodes to U+FFFD, but this may also be in the text itself
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
    """Words without the pauses that alignment puts into the next word, or into the sign before.

    The longest time of a word follows from its number of letters and the pace of the text. Inside a
    sentence only words that are much longer are cut, because people also speak slowly.
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
    """Add signs to the word they belong to, and join parts of a word such as `check-in` if the
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
