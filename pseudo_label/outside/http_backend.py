"""Labels from a server (`pseudo_label.backend: http`), several windows at a time."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from distill.data.audio import SAMPLE_RATE, AudioError
from distill.data.files import hash_of
from distill.data.speech.windows import Window
from distill.whisper.outside import label_keys
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.labelled import Labelled
from distill.whisper.teacher import Teacher
from pseudo_label.outside.answers import Answers
from pseudo_label.outside.server import Server, is_number
from pseudo_label.outside.writing import Segment, Writer


class HttpBackend:
    """See `distill.whisper.recognition.backends.Backend`; a window that the server does not take is
    an `AudioError` in the place of its label."""

    margin = None

    def __init__(self, recipe: WhisperRecipe, teacher: Teacher):
        self.recipe, self.folder = recipe, Path(recipe.labels_dir)
        self.server = Server(recipe.pseudo_label.http)
        self.write = Writer(recipe, teacher)
        self.group_size = recipe.pseudo_label.shard_size  # a shard at a time
        self.asked = label_keys(recipe.pseudo_label)["http"]
        self.num_asked = self.num_known = 0
        self._lock = threading.Lock()

    def inputs(self, audios: Sequence[np.ndarray]) -> list[bytes]:
        """A FLAC file of 16 bits for each window: half the bytes of a WAV file, and no loss."""
        return [flac_of(audio) for audio in audios]

    def label(
        self, windows: Sequence[Window], bodies: Sequence[bytes]
    ) -> tuple[list[Labelled | AudioError], None]:
        """Labels of windows; no encoder states.

        Raises:
            ValueError: the server does not answer, or refuses everything.
        """
        answers = Answers(self.folder, windows[0].id)
        with ThreadPoolExecutor(self.recipe.pseudo_label.http.parallel) as pool:
            futures = [pool.submit(self._ask, answers, window, body)
                       for window, body in zip(windows, bodies, strict=True)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                found = [future.result() for future in futures if future.done()]
            except BaseException:
                self.server.ended.set()  # requests that wait for their turn
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        refused = [each for each in found if isinstance(each, AudioError)]
        if len(refused) == len(windows) and not self.server.has_answered:
            raise ValueError(f"{self.server.place} takes none of {len(refused)} windows: "
                             f"{refused[0].detail} (see pseudo_label.http)")
        return [answer if isinstance(answer, AudioError) else self._labelled(window, answer)
                for window, answer in zip(windows, found, strict=True)], None

    def describe(self) -> str:
        """How many windows were asked for, and what was tried again."""
        parts = [f"{self.num_asked} windows asked for, {self.num_known} answered before",
                 self.server.describe()]
        return f"{self.server.place}: {'; '.join(filter(None, parts))}"

    def _ask(self, answers: Answers, window: Window, body: bytes) -> dict | AudioError:
        language = window.language or self.recipe.language
        key = hash_of([self.asked, language, hashlib.blake2b(body).hexdigest()])
        if (known := answers.find(key)) is not None:
            with self._lock:
                self.num_known += 1
            return known
        try:
            answer = self.server.transcribe(
                body, language, lambda: answers.add(key, window.id, window.duration, None))
        except AudioError as error:
            return error
        answers.add(key, window.id, window.duration, answer)
        with self._lock:
            self.num_asked += 1
        return answer

    def _labelled(self, window: Window, answer: dict) -> Labelled:
        segments = segments_of(answer, window.duration)
        silence = [each.get("no_speech_prob") for each in answer.get("segments") or []]
        no_speech = silence[0] if silence and is_number(silence[0]) else None
        return Labelled(self.write(window, segments, no_speech))


def segments_of(answer: dict, seconds: float) -> list[Segment]:
    """Parts of an answer in order of time; one for all of it where it has none."""
    parts = sorted(answer.get("segments") or [], key=lambda part: part["start"])
    if not any(part["text"].strip() for part in parts):
        return [Segment(answer["text"], 0.0, seconds)]
    return [Segment(part["text"], part["start"], min(part["end"], seconds),
                    part["avg_logprob"] if is_number(part.get("avg_logprob")) else None)
            for part in parts]


def flac_of(audio: np.ndarray) -> bytes:
    """Float32 (samples,) at 16 kHz as a FLAC file of 16 bits."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(audio, -1, 1), SAMPLE_RATE, "PCM_16", format="FLAC")
    return file.getvalue()
