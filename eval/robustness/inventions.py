"""Words that nobody said: recordings without speech, and clips joined with pauses between them.

Both are transcribed as `audio-distill transcribe` does it (with timestamps, window after window),
once with its guard, which decodes only where a voice is found, and once without. Half of a guard's
work is to keep what is said: the joined clips show what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.noise.kinds import WITHOUT_SPEECH
from distill.data.speech.windows import join_texts, load_patiently
from distill.data.views.augment import philox, uniforms
from distill.metrics.error_rates import (
    bootstrap_interval,
    error_counts,
    insertions_per_1000_words,
    repeated_ngrams_per_1000_words,
    total,
)
from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
from distill.whisper.recognition.sequential import LongAudio, speech_of, transcribe_long
from distill.whisper.special import SpecialTokens
from eval.robustness.kept import Kept
from eval.robustness.setup import Setup

JOINED = "joined clips"
_WAYS = ("with_guard", "without_guard")
_PAUSES = (0.3, 3.0)  # seconds between joined clips
_JOINED_SECONDS = 120.0  # of each recording of joined clips
_PAUSE_LEVEL = 1e-4  # RMS of pauses: a quiet room, 80 dB below full scale


def invention_texts(loaded: Callable[[], tuple], setup: Setup, kept: Kept) -> dict:
    """Texts of a model: {kind: {seconds, references, with_guard: [text], without_guard: [text]}}.

    Args:
        loaded: returns (model, processor); only called for what is not kept.
    """
    lengths = setup.recipe.robustness.without_speech_seconds
    if not lengths:
        return {}
    found = {}
    transcriber = _Transcriber(loaded, setup)
    for kind in WITHOUT_SPEECH:
        found[kind] = {"seconds": list(lengths), "references": []} | {
            way: kept.get(["without speech", kind, list(lengths), way], partial(
                transcriber.texts, f"{kind}, {way.replace('_', ' ')}",
                partial(_without_speech, kind, setup), way == _WAYS[0]))["texts"]
            for way in _WAYS}
    groups = _groups(setup)
    found[JOINED] = {"seconds": [], "references": [
        join_texts([clip.reference for clip in group], group[0].windows[0].language)
        for group in groups]} | {
        way: kept.get([JOINED, way], partial(
            transcriber.texts, f"{JOINED}, {way.replace('_', ' ')}",
            partial(_joined, groups), way == _WAYS[0]))["texts"]
        for way in _WAYS}
    return found


class _Transcriber:
    """A model with a decoder that writes timestamps, as `eval.transcribe` sets it up."""

    def __init__(self, loaded: Callable[[], tuple], setup: Setup):
        self._loaded, self._setup = loaded, setup
        self._decoder: WhisperDecoder | None = None

    def texts(self, about: str, recordings: Callable[[], dict[str, np.ndarray]],
              guarded: bool) -> dict:
        """`texts` of recordings, in their order."""
        model, processor = self._loaded()
        recipe = self._setup.recipe
        if self._decoder is None:
            several = SpecialTokens(processor.tokenizer, model.generation_config).languages
            self._decoder = WhisperDecoder(
                model, processor.tokenizer, recipe.language or (AUTO if several else None),
                recipe.task, timestamps=True, on_loop="keep", exact=True)
        audios = [_audio(name, samples, guarded) for name, samples in recordings().items()]
        segments = transcribe_long(self._decoder, processor, audios, recipe.evaluation.batch_size,
                                   previous_text=False, description=about)
        return {"texts": [" ".join(segment.text for segment in each) for each in segments]}


def _audio(name: str, samples: np.ndarray, guarded: bool) -> LongAudio:
    def window(start: float, length: float) -> np.ndarray:
        first = round(start * SAMPLE_RATE)
        return samples[first : first + round(length * SAMPLE_RATE)]

    audio = LongAudio(name, len(samples) / SAMPLE_RATE, window)
    audio.speech = partial(speech_of, audio) if guarded else None
    return audio


def _without_speech(kind: str, setup: Setup) -> dict[str, np.ndarray]:
    return {f"{kind}/{seconds:g}": setup.noises.make(
        kind, f"{kind}/{seconds:g}", round(seconds * SAMPLE_RATE)).astype(np.float32)
        for seconds in setup.recipe.robustness.without_speech_seconds}


def _groups(setup: Setup) -> list[list]:
    """Clips of each joined recording, in the order of the manifest."""
    groups: list[list] = [[]]
    for clip in setup.clips:
        if sum(each.duration for each in groups[-1]) > _JOINED_SECONDS:
            groups.append([])
        groups[-1].append(clip)
    return groups


def _joined(groups: list[list]) -> dict[str, np.ndarray]:
    found = {}
    for number, group in enumerate(groups):
        bits = philox(0, JOINED, number)
        parts = []
        for clip in group:
            low, high = _PAUSES
            size = int((low + uniforms(bits, 1)[0] * (high - low)) * SAMPLE_RATE)
            pause = _PAUSE_LEVEL * (2 * uniforms(bits, size) - 1) * 3**0.5
            parts += [pause.astype(np.float32), load_patiently(clip.windows[0])]
        found[f"joined/{number}"] = np.concatenate(parts)
    return found


def invention_figures(
    texts: Mapping[str, dict], normalise: Callable[[str], str], unit: str, num_bootstrap: int,
    seed: int,
) -> dict:
    """Figures of results.json; {} if nothing was transcribed.

    Returns:
        `invented_words_per_minute` {model: {kind: rate}} with the guard,
        `invented_words_per_minute_without_guard`, `inventions` {model: {kind: {minutes, recordings,
        and words of each way}}}, `joined` {model: {way: wer, wer_ci, insertions and repeated
        5-grams per 1,000 words, recall (share of the words), num_words, recordings}}.
    """
    if not any(texts.values()):
        return {}
    rates: dict = {way: {} for way in _WAYS}
    inventions: dict = {}
    joined: dict = {}
    for role, found in texts.items():
        inventions[role] = {}
        for kind in WITHOUT_SPEECH:
            minutes = sum(found[kind]["seconds"]) / 60
            said = {way: sum(error_counts("", normalise(text), unit).insertions
                             for text in found[kind][way]) for way in _WAYS}
            inventions[role][kind] = {
                "minutes": minutes, "recordings": len(found[kind]["seconds"]), **said}
            for way in _WAYS:
                rates[way].setdefault(role, {})[kind] = said[way] / minutes
        joined[role] = {way: _joined_figures(found[JOINED], way, normalise, unit, num_bootstrap,
                                             seed) for way in _WAYS}
    return {"invented_words_per_minute": rates["with_guard"],
            "invented_words_per_minute_without_guard": rates["without_guard"],
            "inventions": inventions, "joined": joined}


def _joined_figures(found: dict, way: str, normalise: Callable[[str], str], unit: str,
                    num_bootstrap: int, seed: int) -> dict:
    texts = [normalise(text) for text in found[way]]
    counts = [error_counts(normalise(reference), text, unit)
              for reference, text in zip(found["references"], texts, strict=True)]
    ends = bootstrap_interval(counts, num_bootstrap, seed)
    sums = total(counts)
    return {"wer": sums.rate, "wer_ci": list(ends) if ends else None,
            "recall": sums.hits / sums.num_reference, "num_words": sums.num_reference,
            "recordings": len(counts),
            "insertions_per_1000_words": insertions_per_1000_words(counts),
            "repeated_5grams_per_1000_words": repeated_ngrams_per_1000_words(texts, unit=unit)}
