"""Long recordings, window after window: the next one begins where the last whole sentence ends.

    decoder = WhisperDecoder(model, tokenizer, "en", timestamps=True, on_loop="keep")
    texts = transcribe_long(decoder, processor, [audio_file("hour.mp3")], batch_size=8)

OpenAI's sequential algorithm (arXiv:2212.04356 sec. 3.8, 4.5; their `transcribe`): the model's own
timestamps tell where the next window begins, the text so far is its prompt, bad texts are sampled
again at higher temperatures, and silence is skipped. Recordings are independent of each other, so a
batch holds the next window of many of them. A single recording is decoded at batch 1, where drafts
gain the most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from distill.data.audio import WINDOW_SECONDS, AudioError, audio_info, load_audio
from distill.data.speech.voice_activity import speech_in
from distill.data.speech.windows import Window
from distill.data.unreadable import read_patiently
from distill.progress import progress
from distill.whisper.decoding.phrases.trie import PhraseList
from distill.whisper.decoding.sequences import Hypothesis
from distill.whisper.decoding.whisper_decoder import AUTO, WhisperDecoder
from distill.whisper.encoder.audio import AudioFeatures, all_padded, audio_features
from distill.whisper.encoder.layer_means import LayerMeans
from distill.whisper.encoder.lengths import margin_of
from distill.whisper.encoder.prompt_reader import encode_about
from distill.whisper.recognition.fallback import Fallback, decode_with_fallback, seed_of
from distill.whisper.recognition.guard import decode_guarded, outran
from distill.whisper.recognition.transcribe import to_text
from distill.whisper.recognition.words import Word, word_times

_TICK = 0.02  # seconds between two timestamp tokens
_SPOKEN = 0.1  # least seconds of speech in a window or a segment
_BEFORE_SPEECH = 0.5  # seconds of a window before the first word, after silence
_EARLY = 0.5  # seconds by which timestamps may miss their words
_TOO_HOT = 0.5  # texts sampled above are not used as prompts: mistakes would be repeated


@dataclass
class Segment:
    """A stretch of text between two timestamps, about a sentence.

    Attributes:
        start, end: seconds from the beginning of the recording.
        text, tokens: without timestamps.
        language: detected, or the one that was given.
        avg_logprob, no_speech_prob, temperature: of its window.
        words: with their times, if asked for.
    """

    start: float
    end: float
    text: str
    tokens: list[int]
    language: str | None
    avg_logprob: float
    no_speech_prob: float
    temperature: float
    words: list[Word] = field(default_factory=list)


@dataclass
class LongAudio:
    """A recording.

    Attributes:
        name: seeds the sampling.
        seconds: its length.
        window: `window(start, length)` reads float32 samples at 16 kHz, both in seconds.
        language: None is the decoder's.
        speech: returns where somebody speaks, (start, end) in seconds; called once, before the
            first window. Windows without speech are not decoded, and text where nobody speaks is
            left out, because models make up words in silence. None: all of it is decoded.
        phrases: names and terms to prefer in it; None is the decoder's.
        prompt: tokens read before all its windows, in front of the text so far.
        text: (tokens, text width) that a `prompt_reader` reads with all its windows.
    """

    name: str
    seconds: float
    window: Callable[[float, float], np.ndarray]
    language: str | None = None
    speech: Callable[[], list[tuple[float, float]]] | None = None
    phrases: PhraseList | None = None
    prompt: list[int] = field(default_factory=list)
    text: Tensor | None = None


def audio_file(path: str | Path, language: str | None = None) -> LongAudio:
    """A file of any length; only the windows that are decoded are in memory.

    Raises:
        AudioError: it is missing, empty, or no audio.
    """
    seconds, _ = audio_info(path)
    return LongAudio(Path(path).name, seconds, lambda start, length: load_audio(
        path, start, length), language)


def recording_of(window: Window) -> LongAudio:
    """The audio of a window of one piece, which may be of any length."""
    piece = window.pieces[0]
    return LongAudio(window.id, piece.duration, lambda start, length: read_patiently(
        lambda: load_audio(piece.audio_filepath, piece.offset + start, length)), window.language)


def speech_of(audio: LongAudio) -> list[tuple[float, float]]:
    """Where somebody speaks in a `LongAudio`, read a minute at a time.

    Raises:
        AudioError: it cannot be read.
    """
    starts = range(0, math.ceil(audio.seconds), 60)
    return speech_in(audio.window(start, min(60.0, audio.seconds - start)) for start in starts)


@dataclass
class _State:
    """A recording and how far it has been transcribed."""

    audio: LongAudio
    language: str | None
    start: float = 0.0  # seconds, of the next window
    speech: list[tuple[float, float]] | None = None  # found when its turn comes
    prompt: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    error: AudioError | None = None

    @property
    def length(self) -> float:
        """Seconds of the next window."""
        return min(WINDOW_SECONDS, self.audio.seconds - self.start)

    def previous(self, context: int) -> list[int]:
        room = context // 2 - 1 - len(self.audio.prompt)  # the text so far is cut, what was asked
        return [*self.audio.prompt, *(self.prompt[-room:] if room > 0 else [])]  # for is not

    @property
    def is_done(self) -> bool:
        return self.error is not None or self.length < _TICK

    def spoken(self, start: float, end: float) -> float:
        """Seconds of speech between two times; all of them if nothing is known of speech."""
        if self.speech is None:
            return max(0.0, end - start)
        return sum(max(0.0, min(end, b) - max(start, a)) for a, b in self.speech)

    def skip_silence(self) -> None:
        """Go on to the next window in which somebody speaks.

        Raises:
            AudioError: it cannot be read.
        """
        if self.audio.speech is None or self.is_done:
            return
        if self.speech is None:
            self.speech = self.audio.speech()
        if self.spoken(self.start, self.start + self.length) < _SPOKEN:
            later = (a for a, b in self.speech if b - max(a, self.start) >= _SPOKEN)
            following = next(later, self.audio.seconds)
            self.start = max(self.start, following - _BEFORE_SPEECH)
            if following >= self.audio.seconds:
                self.start = self.audio.seconds


def transcribe_long(
    decoder: WhisperDecoder,
    processor,
    recordings: Sequence[LongAudio],
    batch_size: int,
    fallback: Fallback | None = None,
    previous_text: bool = True,
    words: bool = False,
    features: Callable[[Sequence[LongAudio], Sequence[float]], Tensor] | None = None,
    on_window: Callable[[LongAudio, float, float, Hypothesis], None] | None = None,
    on_finished: Callable[[LongAudio, list[Segment], AudioError | None], None] | None = None,
    on_heard: Callable[[LongAudio, float, float, Tensor], None] | None = None,
    description: str | None = None,
) -> list[list[Segment]]:
    """Segments of each recording.

    Args:
        decoder: with timestamps.
        fallback: when a window is sampled, and when it counts as silence; None: OpenAI's defaults.
        previous_text: give the text so far as a prompt.
        words: align each word with the audio (`distill.whisper.recognition.words`); segments then
            begin and end with their words.
        features: `features(recordings, starts)`: log-mel (rows, bands, 3000) of the windows that
            begin there (seconds); default: each window by itself, as students are trained.
        on_window: called after every window: its recording, where it begins, how long it is up to
            the next window (seconds), and its text with timestamps; no tokens without speech.
        on_finished: called after every recording: the recording, its segments, and the error if it
            cannot be read; the others go on.
        on_heard: called with every window: its recording, its begin and length (seconds), and what
            the encoder's layers gave (layers, steps of 0.4 s, width).
        description: shown with a progress bar; None shows none.

    Raises:
        ValueError: the decoder writes no timestamps, or the batch size is below 1.
        AudioError: a recording cannot be read, and there is no `on_finished`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    if not decoder.timestamps:
        raise ValueError("long recordings need a decoder with timestamps=True: they tell where the "
                         "next window begins")
    states = [_State(audio, audio.language or decoder.language) for audio in recordings]
    run = _Run(decoder, processor, fallback or Fallback(), previous_text, words, features,
               on_window, on_heard)
    total = math.ceil(sum(audio.seconds for audio in recordings))
    seconds = _seconds(run, states, batch_size, on_finished)
    for _ in progress(seconds, total, description or "", "s of audio", description is not None):
        pass
    return [state.segments for state in states]


def _seconds(run: _Run, states: list[_State], batch_size: int,
             on_finished: Callable | None) -> Iterator[None]:
    """Transcribe all recordings; yields once for every second that is done."""
    shown, left = 0, list(states)
    while left:
        run.step(left[:batch_size])
        for state in [state for state in left if state.is_done]:
            if on_finished is not None:
                on_finished(state.audio, state.segments, state.error)
            elif state.error is not None:
                raise state.error
        left = [state for state in left if not state.is_done]
        done = math.ceil(sum(s.audio.seconds if s.is_done else s.start for s in states))
        yield from [None] * (done - shown)
        shown = max(done, shown)


@dataclass
class _Run:
    """Settings of one call of `transcribe_long`, which all recordings share."""

    decoder: WhisperDecoder
    processor: object
    fallback: Fallback
    previous_text: bool
    words: bool
    features: Callable | None
    on_window: Callable | None
    on_heard: Callable | None

    def _features(self, batch: list[_State]) -> tuple[list[_State], AudioFeatures]:
        """The recordings that can be read, and log-mel features of their next windows."""
        if self.features is not None:
            given = self.features([s.audio for s in batch], [s.start for s in batch])
            return batch, all_padded(given)
        audios = []
        for state in batch:
            try:
                state.skip_silence()
                if state.is_done:
                    continue
                audios.append(state.audio.window(state.start, state.length))
            except AudioError as error:
                state.error = error
        batch = [state for state in batch if not state.is_done]
        margin = margin_of(self.decoder.model)
        return batch, audio_features(self.processor, audios, margin)

    def step(self, batch: list[_State]) -> None:
        """Decode the next window of each recording."""
        decoder, tokenizer = self.decoder, self.processor.tokenizer
        batch, features = self._features([state for state in batch if not state.is_done])
        if not batch:
            return
        texts = [state.audio.text for state in batch]
        heard = None if self.on_heard is None else LayerMeans()
        states = encode_about(decoder.model, features, texts, heard)
        for row, state in enumerate(batch if heard else ()):
            self.on_heard(state.audio, state.start, state.length, heard[row])
        limit = decoder.model.config.max_target_positions // 2

        def decode(states: Tensor, rows: list[int]) -> list[Hypothesis]:
            some = [batch[row] for row in rows]
            return decode_with_fallback(
                decoder, tokenizer, self.fallback, states, [limit] * len(some),
                [seed_of(f"{s.audio.name}/{round(s.start, 2)}") for s in some],
                [s.previous(decoder.target.context) for s in some], [s.language for s in some],
                phrases=[s.audio.phrases or decoder.phrases for s in some])

        found = decode_guarded(
            decode, states, features.short,
            lambda rows: encode_about(decoder.model, features.padded(rows),
                                      [texts[row] for row in rows]), decoder.report,
            lambda h: outran(h) or h.temperature > self.fallback.temperatures[0])
        spoken: list[tuple[int, list[Segment], float]] = []
        for row, (state, hypothesis) in enumerate(zip(batch, found, strict=True)):
            start, segments = state.start, self._add_window(state, hypothesis)
            if segments:
                spoken.append((row, segments, start))
        if self.words and spoken:
            self._align(batch, spoken, states)

    def _add_window(self, state: _State, hypothesis: Hypothesis) -> list[Segment]:
        """Add a window's segments to its recording, and go on to where they end."""
        segments, tokens, seconds = [], [], state.length
        if not self.fallback.is_silent(hypothesis):
            if state.language == AUTO:  # the first language detected is the recording's
                state.language = hypothesis.language
            segments, tokens, seconds = self._segments(state, hypothesis)
            too_hot = hypothesis.temperature > _TOO_HOT
            state.prompt = state.prompt + tokens if self.previous_text and not too_hot else []
        if self.on_window is not None:
            self.on_window(state.audio, state.start, seconds, replace(hypothesis, tokens=tokens))
        state.segments += segments
        state.start += seconds
        return segments

    def _segments(
        self, state: _State, hypothesis: Hypothesis
    ) -> tuple[list[Segment], list[int], float]:
        """Segments of a window, their tokens, and the seconds up to the next window."""
        begin = self.decoder.special.timestamp_begin
        parts, seconds = split(hypothesis.tokens, begin, state.length)
        segments, kept = [], []
        for start, end, tokens in parts:
            words = [t for t in tokens if t < begin]
            text = to_text(self.processor.tokenizer, words)
            if not text or start == end or not self._is_spoken(state, segments, start, end):
                continue
            kept += tokens
            segments.append(Segment(
                state.start + start, state.start + end, text, words, state.language,
                hypothesis.avg_logprob, hypothesis.no_speech_prob, hypothesis.temperature))
        return segments, kept, seconds

    @staticmethod
    def _is_spoken(state: _State, before: list[Segment], start: float, end: float) -> bool:
        """Whether somebody speaks at these seconds of the window.

        The segment before does not count: timestamps are rounded, and those of made-up text reach
        into the speech beside it.
        """
        earliest = before[-1].end if before else 0.0
        start = max(state.start + start - _EARLY, earliest)
        return state.spoken(start, max(start, state.start + end) + _EARLY) >= _SPOKEN

    def _align(self, batch: list[_State], spoken: list, states: Tensor) -> None:
        """Give the segments of each window their words."""
        rows = [row for row, _, _ in spoken]
        lengths = [min(WINDOW_SECONDS, batch[row].audio.seconds - start)
                   for row, _, start in spoken]
        texts = [[segment.tokens for segment in segments] for _, segments, _ in spoken]
        languages = [batch[row].language for row in rows]
        found = word_times(self.decoder.model, self.processor.tokenizer, states[rows], texts,
                           lengths, languages, self.decoder.task)
        for (_, segments, start), aligned in zip(spoken, found, strict=True):
            for segment, words in zip(segments, aligned, strict=True):
                segment.words = [replace(word, start=start + word.start, end=start + word.end)
                                 for word in words]
                if words:  # the model's own timestamps are rounded, often to a second
                    segment.start, segment.end = segment.words[0].start, segment.words[-1].end


def split(
    tokens: Sequence[int], begin: int, seconds: float
) -> tuple[list[tuple[float, float, list[int]]], float]:
    """Segments of a window's tokens, and where the next window begins.

    A segment ends where two timestamps follow each other. After the last such pair there may be
    the beginning of a sentence: the next window begins before it and has all of it. A window that
    ends with a single timestamp, or has no pair, counts to its end.

    Args:
        tokens: with timestamps, without prompt and end of text.
        begin: id of `<|0.00|>`.
        seconds: length of the window; no time is after its end.

    Returns:
        (start, end, tokens with timestamps) in seconds of the window; seconds up to the next
        window, > 0.
    """
    is_time = [token >= begin for token in tokens]
    ends = [at for at in range(1, len(tokens)) if is_time[at] and is_time[at - 1]]
    single = len(tokens) > 1 and is_time[-1] and not is_time[-2]
    if not ends:
        times = [token - begin for token in tokens if token >= begin]
        end = times[-1] * _TICK if times and times[-1] > 0 else seconds
        return [(0.0, min(end, seconds), list(tokens))], seconds
    parts, last = [], 0
    for end in [*ends, *[len(tokens)] * single]:
        part = list(tokens[last:end])
        times = [min(round((part[at] - begin) * _TICK, 2), seconds) for at in (0, -1)]
        parts.append((*times, part))
        last = end
    done = seconds if single else parts[-1][1]
    return parts, done if 0 < done <= seconds else seconds
