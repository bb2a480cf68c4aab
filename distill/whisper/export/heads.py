"""Alignment heads: the cross-attention heads that look at the words as they are said.

Word timestamps are read off the attention of these heads: the cheapest monotonic path through it
says when each token begins. A student keeps the teacher's heads of the layers it has. Where there
are none, or training has made them look elsewhere, others are found: windows of training clips that
were packed one after the other say when the first word of each clip begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distill.data.manifest import Row
from distill.data.speech.windows import Window, load_readable, pack
from distill.whisper.encoder.padded import log_mel
from distill.whisper.export.word_times import speech_begins
from distill.whisper.recognition.words import alignment_heads
from distill.whisper.special import SpecialTokens

NUM_WINDOWS = 12  # of training clips; a dozen has about a hundred beginnings
MAX_HEADS = 4
_CANDIDATES = 8
GOOD_ENOUGH_SECONDS = 0.2  # median error up to which the heads of its generation config stay
_FRAME_SECONDS = 0.02
_FILTER_WIDTH = 7  # frames, as in OpenAI's and CTranslate2's alignment
Head = tuple[int, int]  # (layer, index in the layer)


@dataclass(frozen=True)
class Heads:
    """The heads to write down, and how well they do on training windows."""

    heads: list[Head]
    source: str  # generation config | found | unknown: nothing to measure with
    median_error_seconds: float | None
    num_beginnings: int


def choose_heads(model, processor, rows: Sequence[Row], language: str | None, task: str) -> Heads:
    """The student's alignment heads; never look at test clips with this.

    Args:
        model: WhisperForConditionalGeneration with attention weights (`eager`).
        rows: training clips with transcripts.
    """
    kept = [tuple(pair) for pair in getattr(model.generation_config, "alignment_heads", None) or []]
    windows = readable_windows(rows)
    if not windows:
        rest = alignment_heads(model)
        return Heads(kept or rest, "generation config" if kept else "unknown", None, 0)
    looked = [_attention(model, processor, window, audio, language, task)
              for window, audio in windows]
    count = sum(len(true) for _, _, true in looked)
    if kept:
        error = _median_error(looked, kept)
        if error <= GOOD_ENOUGH_SECONDS:
            return Heads(kept, "generation config", error, count)
    found, best = _find(looked, model.config)
    if kept and error <= best:
        return Heads(kept, "generation config", error, count)
    return Heads(found, "found", best, count)


def training_windows(rows: Sequence[Row]) -> list[Window]:
    """Some windows of several transcribed clips each, from all over the list."""
    usable = [row for row in rows if (row.text or "").strip() and row.duration < 15.0]
    windows = [window for window in pack(usable, "heads", "sequential") if len(window.pieces) > 1]
    return windows[:: max(1, len(windows) // NUM_WINDOWS)][:NUM_WINDOWS]


def readable_windows(rows: Sequence[Row]) -> list[tuple[Window, np.ndarray]]:
    """Those of `training_windows` that can be read, and their audio."""
    return [pair for window in training_windows(rows) if (pair := _readable(window))]


def _readable(window: Window) -> tuple[Window, np.ndarray] | None:
    """A window without what cannot be read, and its audio; None where too little is left."""
    found, audio, _ = load_readable(window)
    return (found, audio) if found is not None and len(found.pieces) > 1 else None


def _find(looked: list, config) -> tuple[list[Head], float]:
    """Heads one by one, each the one that helps those before most; the best such set."""
    every = [(layer, head) for layer in range(config.decoder_layers)
             for head in range(config.decoder_attention_heads)]
    alone = {head: _median_error(looked, [head]) for head in every}
    left = sorted(every, key=alone.__getitem__)[:_CANDIDATES]
    sets = [(alone[left[0]], left[:1])]
    left = left[1:]
    while left and len(sets) < MAX_HEADS:
        error, head = min((_median_error(looked, [*sets[-1][1], head]), head) for head in left)
        sets.append((error, [*sets[-1][1], head]))
        left.remove(head)
    error, heads = min(sets[1:] or sets)  # two bear a text with errors better than one does
    return sorted(heads), error


def _median_error(looked: list, heads: Sequence[Head]) -> float:
    """Seconds between where the heads see clips begin and where they do."""
    errors: list[float] = []
    for weights, firsts, true in looked:
        mean = np.mean([weights[layer][head] for layer, head in heads], axis=0)
        errors += np.abs(begin_frames(-mean)[firsts] * _FRAME_SECONDS - true).tolist()
    return float(np.median(errors))


@torch.no_grad()
def _attention(model, processor, window: Window, audio: np.ndarray, language: str | None,
               task: str):
    """(layers x (heads, text tokens and end, frames) of prepared attention; rows of the first
    tokens of all clips but the first; seconds at which these clips begin)."""
    prefix, tokens, firsts = window_tokens(model, processor, window, language, task)
    kept = [n for n, first in enumerate(firsts) if n and first < len(tokens) - len(prefix) - 1]
    output = model(log_mel(processor, [audio]), output_attentions=True,
                   decoder_input_ids=torch.tensor([tokens]))
    frames = int(window.duration / _FRAME_SECONDS)
    # the row of a token is that of the one before it: what is looked at to say it
    layers = [prepare(each[0, ..., :frames])[:, len(prefix) - 1 : -1] for each in
              output.cross_attentions]
    true = np.array([speech_begins(window, n) for n in kept])
    return layers, np.array([firsts[n] for n in kept], dtype=int), true


def window_tokens(model, processor, window: Window, language: str | None, task: str
                  ) -> tuple[list[int], list[int], list[int]]:
    """(prefix; prefix, transcripts and end; which text tokens are the first of a clip)."""
    special = SpecialTokens(processor.tokenizer, model.generation_config)
    prefix = special.prefix(window.language or language, task, False)
    tokens, firsts = list(prefix), []
    for piece in window.pieces:
        firsts.append(len(tokens) - len(prefix))
        text = " " + piece.text.strip()
        tokens += processor.tokenizer(text, add_special_tokens=False).input_ids
    return prefix, [*tokens[: model.config.max_target_positions - 1], special.end], firsts


def prepare(weights: torch.Tensor) -> np.ndarray:
    """Attention (heads, tokens, frames), scaled over tokens and smoothed over frames, as the
    runtimes do it."""
    weights = weights / weights.sum(-1, keepdim=True)  # what was beyond the window is not asked
    spread = weights.std(-2, keepdim=True, unbiased=False).clamp(min=1e-9)
    scaled = (weights - weights.mean(-2, keepdim=True)) / spread
    side = _FILTER_WIDTH // 2
    padded = torch.nn.functional.pad(scaled, (side, side), mode="reflect")
    return padded.unfold(-1, _FILTER_WIDTH, 1).median(-1).values.numpy()


def begin_frames(cost: np.ndarray) -> np.ndarray:
    """When each token begins on the cheapest monotonic path (dynamic time warping).

    Args:
        cost: (tokens, frames).

    Returns:
        (tokens,) frames.
    """
    tokens, frames = cost.shape
    total = np.full((tokens + 1, frames + 1), np.inf)
    total[0, 0] = 0.0
    step = np.zeros((tokens + 1, frames + 1), dtype=np.int8)
    for diagonal in range(2, tokens + frames + 1):  # all cells of an anti-diagonal at once
        i = np.arange(max(1, diagonal - frames), min(tokens, diagonal - 1) + 1)
        j = diagonal - i
        ways = np.stack([total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]])
        step[i, j] = ways.argmin(0)
        total[i, j] = cost[i - 1, j - 1] + ways.min(0)
    begins = np.zeros(tokens, dtype=int)
    i, j = tokens, frames
    while i > 0:
        begins[i - 1] = j - 1  # the last one written is the earliest
        way = step[i, j] if j > 1 else 1
        i, j = i - (way < 2), j - (way != 1)
    return begins
