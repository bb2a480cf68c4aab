"""A model's transcripts of clips, padded or encoded at their own length, and kept on disk.

    ways = Transcriber(model, processor, batch_size=8, with_segments=False, noise=None, kept=kept)
    padded = ways.transcribe(clips, None)
    short = ways.transcribe(clips, 1.0)

Texts are as the model says them: what is bad is not decoded again here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.files import hash_of
from distill.data.formats.places import fingerprints
from distill.data.speech.windows import Window, load_patiently
from distill.kept_lines import append, begin
from distill.progress import progress
from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
from distill.whisper.encoder.audio import audio_features, encode_features
from distill.whisper.encoder.lengths import set_margin
from distill.whisper.encoder.level import EVERY, LEVEL, VERSION
from distill.whisper.recognition.guard import outran
from distill.whisper.recognition.transcribe import by_length, to_text, token_limit
from distill.whisper.recognition.words import word_times
from distill.whisper.special import SpecialTokens
from eval.speech.short_audio.noise import Noise

_TOKENS_PER_SECOND = 12.0  # longer texts are loops
_STAMP_SECONDS = 0.02  # of a timestamp token
_VERSION = 1  # of what is kept


@dataclass(frozen=True)
class Clip:
    """A validation clip: its window, and its reference after the normaliser."""

    window: Window
    reference: str
    normalise: Callable[[str], str]
    unit: str = "word"


@dataclass(frozen=True)
class Transcript:
    """What a model makes of a clip.

    Attributes:
        text: after the normaliser.
        is_bad: it loops, or outran its audio.
        is_short: not padded.
        language: detected; None where the model knows one only.
        times: seconds at which words begin and end, in order.
        segments: seconds at which segments begin and end, as the model writes them when it is
            asked for timestamps; None if it was not.
    """

    text: str
    is_bad: bool
    is_short: bool
    language: str | None
    times: tuple[float, ...]
    segments: tuple[float, ...] | None = None


class Kept:
    """Transcripts of a model by way and clip, in memory and on disk: a run that is stopped goes on,
    and one with more margins does not decode the others again.

    Args:
        folder: of the file, which is named by the key.
        key: of everything that transcripts depend on, besides the margin.
    """

    def __init__(self, folder: Path, key: str):
        self.path = folder / f"{key}.jsonl"
        self._found: dict[tuple[float | None, str], Transcript] = {}
        for line in begin(self.path, key):
            self._take(line)

    def get(self, margin: float | None, clip: str) -> Transcript | None:
        """None: it is not known yet."""
        return self._found.get((margin, clip))

    def add(self, margin: float | None, found: dict[str, Transcript]) -> None:
        """Keep the transcripts of some clips, by their ids."""
        line = {"margin": margin, "silence": None if margin is None else [VERSION, EVERY],
                "found": {clip: asdict(each) for clip, each in found.items()}}
        append(self.path, line)
        self._take(line)

    def _take(self, line: dict) -> None:
        if line["margin"] is not None and line.get("silence") != [VERSION, EVERY]:
            return  # behind another silence
        for clip, each in line["found"].items():
            segments = each["segments"]
            self._found[line["margin"], clip] = Transcript(**each | {
                "times": tuple(each["times"]),
                "segments": None if segments is None else tuple(segments)})


class Transcriber:
    """A model with its decoders.

    Args:
        model, processor: Whisper.
        with_segments: decode all clips once more, with timestamps.
        noise: under the clips; None: none.
        kept: transcripts that are known are taken from it, and the others are added.
    """

    def __init__(self, model, processor, batch_size: int, with_segments: bool,
                 noise: Noise | None, kept: Kept):
        self.model, self.processor = model, processor
        self.batch_size, self.noise, self.kept = batch_size, noise, kept
        several = bool(SpecialTokens(processor.tokenizer, model.generation_config).languages)
        set_margin(model, 0.0)  # decoders share silence if their model may have short clips
        self.decoder = WhisperDecoder(model, processor.tokenizer, AUTO if several else None,
                                      detect_language=several)
        self.stamping = None if not with_segments else WhisperDecoder(
            model, processor.tokenizer, AUTO if several else None, timestamps=True,
            share_weights_with=self.decoder)

    @torch.no_grad()
    def transcribe(self, clips: Sequence[Clip], margin: float | None) -> list[Transcript]:
        """Transcripts of clips, in their order.

        Args:
            margin: seconds of silence encoded behind each clip; None pads to 30 s.

        Raises:
            AudioError: a clip cannot be read.
        """
        set_margin(self.model, margin)
        by_id = {clip.window.id: clip for clip in clips}
        batches = [batch for batch in by_length([c.window for c in clips], self.batch_size)
                   if any(self.kept.get(margin, window.id) is None for window in batch)]
        name = "padded" if margin is None else f"margin {margin:g} s"
        for batch in progress(batches, len(batches), name, "batches", bool(batches)):
            found = self._transcribe([by_id[window.id] for window in batch], margin)
            self.kept.add(margin, dict(zip((w.id for w in batch), found, strict=True)))
        return [self.kept.get(margin, clip.window.id) for clip in clips]

    def _transcribe(self, clips: Sequence[Clip], margin: float | None) -> list[Transcript]:
        windows, tokenizer = [clip.window for clip in clips], self.processor.tokenizer
        features = audio_features(self.processor, [self._audio(w) for w in windows], margin)
        states = encode_features(self.model.get_encoder(), features)
        limits = [token_limit(w.duration, _TOKENS_PER_SECOND) for w in windows]
        known = [window.language for window in windows]
        hypotheses = self.decoder(states, limits, languages=known)
        spoken = [language or each.language
                  for language, each in zip(known, hypotheses, strict=True)]
        words = word_times(self.model, tokenizer, states, [[each.tokens] for each in hypotheses],
                           [window.duration for window in windows], spoken)
        stamps = self._stamps(states, limits, spoken)
        return [
            Transcript(clip.normalise(to_text(tokenizer, each.tokens)), outran(each),
                       place in features.short, each.language,
                       tuple(at for word in parts[0] for at in (word.start, word.end)), stamped)
            for place, (clip, each, parts, stamped)
            in enumerate(zip(clips, hypotheses, words, stamps, strict=True))]

    def _audio(self, window: Window) -> np.ndarray:
        audio = load_patiently(window)
        return audio if self.noise is None else self.noise.under(audio, window.id)

    def _stamps(self, states: Tensor, limits: Sequence[int],
                languages: Sequence[str | None]) -> Sequence[tuple[float, ...] | None]:
        """Times of segments of each clip."""
        if self.stamping is None:
            return [None] * len(limits)
        first = self.stamping.special.timestamp_begin
        found = self.stamping(states, limits, languages=languages)
        return [tuple(round(_STAMP_SECONDS * (token - first), 2)
                      for token in each.tokens if token >= first) for each in found]


def key_of(model, clips: Sequence[Clip], batch_size: int, with_segments: bool,
           noise: Noise | None) -> str:
    """Of everything that transcripts depend on, besides the margin."""
    windows = [clip.window for clip in clips]
    files = [piece.audio_filepath for window in windows for piece in window.pieces]
    return hash_of([
        _VERSION, LEVEL, _hash_of_weights(model), batch_size, with_segments,
        None if noise is None else asdict(noise), fingerprints(files),
        [[w.id, w.language, [[p.audio_filepath, p.offset, p.duration] for p in w.pieces]]
         for w in windows]])


def _hash_of_weights(model) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in model.parameters():
        digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
