"""From audio to text: features, encoder states, and batches of windows.

    decoder = WhisperDecoder(model, processor.tokenizer, "en")  # distill.whisper.decoding
    states = encode_audio(model, processor, audios)             # distill.whisper.encoder
    hypotheses = decoder(states, max_new_tokens=[200] * len(states))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from distill.data.speech.windows import Window, load_patiently
from distill.progress import progress
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import WhisperDecoder
from distill.whisper.encoder.audio import all_padded, audio_features, stack_states
from distill.whisper.encoder.lengths import margin_of, positions_of
from distill.whisper.encoder.padded import log_mel
from distill.whisper.encoder.prompt_reader import encode_about
from distill.whisper.recognition.guard import decode_guarded, outran
from distill.whisper.recognition.halves import SHORTEST, in_halves, joined

MIN_NEW_TOKENS = 24  # the shortest clip may have a word of many tokens and two timestamps


def token_limit(seconds: float, tokens_per_second: float) -> int:
    """Most tokens for a window of this length: a longer text is a loop, not speech."""
    return MIN_NEW_TOKENS + int(seconds * tokens_per_second)


def by_length(windows: Sequence[Window], batch_size: int) -> list[list[Window]]:
    """Batches of windows of like length, the longest first."""
    ordered = sorted(windows, key=lambda window: -window.duration)
    return [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]


def transcribe(
    decoder: WhisperDecoder,
    processor,
    windows: Sequence[Window],
    batch_size: int,
    max_tokens_per_second: float | None = None,
    states_cache: dict[str, Tensor] | None = None,
    description: str | None = None,
    guarded: bool = True,
    audio_of: Callable[[Window], np.ndarray] = load_patiently,
    previous: Mapping[str, Sequence[int]] | None = None,
    phrases: Mapping[str, PhraseList] | None = None,
    texts: Mapping[str, Tensor | None] | None = None,
) -> dict[str, Hypothesis]:
    """Decode windows in batches of like length; {window id: hypothesis}.

    Args:
        max_tokens_per_second: limits the text by the window's length; None: by the model's context
            only.
        states_cache: {window id: encoder states} to read and fill, for a frozen encoder.
        description: shown with a progress bar; None shows none.
        guarded: decode texts that go wrong again: of short clips padded (`recognition.guard`);
            of long windows in halves (`recognition.halves`), where the decoder breaks loops and
            writes no timestamps.
        audio_of: float32 (samples,) at 16 kHz of a window, for those that are heard changed.
        previous: {window id: tokens} read before its text (`distill.whisper.prompting.compose`).
        phrases: {window id: names and terms to prefer in it}; others have the decoder's.
        texts: {window id: (tokens, text width)} that the encoder reads, for models with a
            `prompt_reader`; states with it are not those of `states_cache`.

    Raises:
        AudioError: a window cannot be read.
    """
    batches = by_length(windows, batch_size)
    results: dict[str, Hypothesis] = {}
    shown = progress(batches, len(batches), description or "", "batches", description is not None)
    for batch in shown:
        limits = [decoder.model.config.max_target_positions] * len(batch)
        if max_tokens_per_second is not None:
            limits = [token_limit(window.duration, max_tokens_per_second) for window in batch]
        asked: dict[str, list] = {}  # what other decoders, which know of neither, are not asked
        if previous is not None:
            asked["previous"] = [previous.get(window.id, []) for window in batch]
        if phrases is not None:
            asked["phrases"] = [phrases.get(window.id, decoder.phrases) for window in batch]
        about = None if texts is None else [texts.get(window.id) for window in batch]
        cache = states_cache if about is None else None
        found = _transcribe(decoder, processor, batch, limits, cache, guarded, audio_of, asked,
                            about)
        results |= {w.id: hypothesis for w, hypothesis in zip(batch, found, strict=True)}
    return results


def _transcribe(
    decoder: WhisperDecoder, processor, batch: Sequence[Window], limits: Sequence[int],
    cache: dict[str, Tensor] | None, guarded: bool, audio_of: Callable[[Window], np.ndarray],
    asked: dict[str, list], about: Sequence[Tensor | None] | None,
) -> list[Hypothesis]:
    languages, margin = [window.language for window in batch], margin_of(decoder.model)

    def decode(states: Tensor, rows: list[int]) -> list[Hypothesis]:
        return decoder(states, [limits[row] for row in rows],
                       languages=[languages[row] for row in rows],
                       **{name: [each[row] for row in rows] for name, each in asked.items()})

    def padded(rows: list[int]) -> Tensor:
        features = log_mel(processor, [audio_of(batch[row]) for row in rows])
        return encode_about(decoder.model, all_padded(features),
                            about and [about[row] for row in rows])

    full = positions_of(0.0, None)
    short = [row for row, window in enumerate(batch)
             if guarded and positions_of(window.duration, margin) < full]
    states = _states(decoder.model, processor, batch, cache, audio_of, about)
    found = decode_guarded(decode, states, short, padded, decoder.report)
    bad = [row for row, window in enumerate(batch) if guarded and window.duration >= SHORTEST
           and outran(found[row])]
    if not bad or decoder.on_loop != "break" or decoder.timestamps:
        return found
    twice = [row for row in bad for _ in range(2)]
    halves, audio = in_halves([batch[row] for row in bad], [audio_of(batch[row]) for row in bad])
    texts = _transcribe(
        decoder, processor, halves, [limits[row] for row in twice], None, guarded,
        lambda half: audio[half.id],
        {name: [each[row] for row in twice] for name, each in asked.items()},
        about and [about[row] for row in twice])
    for row, first, second in zip(bad, texts[::2], texts[1::2], strict=True):
        found[row] = joined(first, second)
    return found


def _states(model, processor, windows: Sequence[Window], cache: dict | None,
            audio_of: Callable[[Window], np.ndarray],
            about: Sequence[Tensor | None] | None) -> Tensor:
    if cache is not None and all(window.id in cache for window in windows):
        return stack_states(model, [cache[window.id] for window in windows])
    audios = [audio_of(window) for window in windows]
    states = encode_about(model, audio_features(processor, audios, margin_of(model)), about)
    if cache is not None:
        cache |= {window.id: each for window, each in zip(windows, states, strict=True)}
    return states


def to_text(tokenizer, tokens: Sequence[int]) -> str:
    """Plain text of a hypothesis, without timestamps or other special tokens."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
