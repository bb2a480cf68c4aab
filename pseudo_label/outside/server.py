"""A server with the transcription call of OpenAI: `POST <url>/audio/transcriptions`.

    with Server(recipe.pseudo_label.http) as server:
        answer = server.transcribe(flac, "en")

Safe to use from several threads. Faults of the moment (no connection, no answer in time, 408, 425,
429, 5xx, an answer that is cut or is no JSON) are tried again after more and more seconds, or after
as many as the server says (Retry-After); then all threads of the process wait.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import Counter
from email.utils import parsedate_to_datetime

import httpx2

from distill.data.audio import AudioError
from distill.whisper.recipe_sections import HttpConfig

FIRST_WAIT_SECONDS = 1.0  # before the second try; twice as many before each further one
_LONGEST_WAIT_SECONDS = 60.0
_MOST_PATIENCE_SECONDS = 3600.0  # that a server may ask for
_AGAIN = frozenset({408, 425, 429})  # and all from 500 on
_REFUSED = frozenset({400, 413, 415, 422})  # of this audio; another may be taken
_SHOWN = 200  # characters of what a server says


class UnusableError(Exception):
    """An answer that was given, and paid for, and is none."""


class Server:
    """Asks for transcriptions.

    Attributes:
        tried_again: how often, by what was wrong.
        has_answered: whether any request of this process was answered.

    Raises:
        ValueError: the environment lacks the key, or the address is none.
    """

    def __init__(self, config: HttpConfig):
        self.config = config
        self.place = f"{config.url.rstrip('/')}/audio/transcriptions"
        if not _has_host(self.place):
            raise ValueError(f"pseudo_label.http.url: no address of a server: {config.url}")
        self.tried_again: Counter[str] = Counter()
        self.pace = Pace(config.requests_per_minute)
        self.ended = threading.Event()
        limits = httpx2.Limits(max_connections=config.parallel)
        self.client = httpx2.Client(headers=_key(config), timeout=config.timeout_seconds,
                                    limits=limits)
        self._lock, self.has_answered = threading.Lock(), False

    def transcribe(self, audio: bytes, language: str | None, on_unusable=lambda: None) -> dict:
        """The answer to a FLAC file: a dict with at least `text`.

        Args:
            on_unusable: called for every answer that was given and cannot be used.

        Raises:
            AudioError: `refused`: it does not take this audio.
            ValueError: it does not answer, or refuses whatever is asked.
        """
        fault = ""
        for attempt in range(self.config.max_retries + 1):
            self.pace.wait(self.ended)
            if self.ended.is_set():
                raise ValueError("stopped")
            seconds = min(FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
            try:
                response = self._post(audio, language)
                if response.status_code == 200:
                    answer = usable(response)
                    self.has_answered = True
                    return answer
                fault = self._fault(response)
                seconds = max(seconds, self._asked_to_wait(response))
            except httpx2.RequestError as error:
                fault = f"{type(error).__name__}: {error}"
            except UnusableError as error:
                on_unusable()
                fault = str(error)
            with self._lock:
                self.tried_again[fault.split(":")[0]] += 1
            if attempt < self.config.max_retries:
                self.ended.wait(seconds * random.uniform(0.75, 1.25))
        raise ValueError(f"{self.place} does not answer: {fault} (tried "
                         f"{self.config.max_retries + 1} times). What was answered is kept, and "
                         "the same command goes on")

    def _post(self, audio: bytes, language: str | None) -> httpx2.Response:
        config = self.config
        fields = {"model": config.model, "response_format": config.response_format, **config.form}
        if language:
            fields["language"] = language
        return self.client.post(self.place, data=fields,
                                files={"file": ("window.flac", audio, "audio/flac")})

    def _fault(self, response: httpx2.Response) -> str:
        """What is wrong, if it may be right the next time."""
        status = response.status_code
        said = f"{status}: {' '.join(response.text.split())[:_SHOWN]}"
        if status in _AGAIN or status >= 500:
            return said
        if status in _REFUSED:
            raise AudioError("refused", f"the server says {said}")
        keys = {401: "key_variable", 403: "key_variable", 404: "url or model"}
        key = keys.get(status, "url, model or form")
        raise ValueError(f"{self.place} refuses: {said} (see pseudo_label.http.{key})")

    def _asked_to_wait(self, response: httpx2.Response) -> float:
        """Seconds; everybody waits with us."""
        seconds = retry_after(response.headers.get("retry-after"), time.time())
        if seconds > _MOST_PATIENCE_SECONDS:
            raise ValueError(f"{self.place} asks to come back in {seconds / 3600:.1f} h. What was "
                             "answered is kept, and the same command goes on then")
        self.pace.pause(seconds)
        return seconds

    def describe(self) -> str:
        """`tried again: 2 x 429, 1 x ReadError`; empty if nothing was."""
        each = [f"{count} x {fault}" for fault, count in sorted(self.tried_again.items())]
        return f"tried again: {', '.join(each)}" if each else ""


class Pace:
    """When the next request may begin; shared by all threads."""

    def __init__(self, per_minute: float | None):
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._next = self._paused = -math.inf
        self._lock = threading.Lock()

    def wait(self, ended: threading.Event) -> None:
        """Return when it is one's turn, or `ended` is set."""
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + self.gap
        # also for those whose turn was given before somebody was told to wait
        while (left := max(turn, self._paused) - time.monotonic()) > 0 and not ended.wait(left):
            pass

    def pause(self, seconds: float) -> None:
        """Nobody begins for so long."""
        with self._lock:
            self._paused = max(self._paused, time.monotonic() + seconds)


def usable(response: httpx2.Response) -> dict:
    """The answer, if it is one.

    Raises:
        UnusableError: says what it is.
    """
    try:
        answer = response.json()
    except ValueError:
        raise UnusableError(f"no JSON: {response.text[:_SHOWN]!r}") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
        raise UnusableError(f"no text in the answer: {str(answer)[:_SHOWN]}")
    segments = answer.get("segments") or []
    if not isinstance(segments, list) or not all(map(_is_segment, segments)):
        raise UnusableError(f"segments without text, start and end: {str(segments)[:_SHOWN]}")
    return answer


def _is_segment(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("text"), str) and all(
        is_number(value.get(key)) for key in ("start", "end"))


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def retry_after(value: str | None, now: float) -> float:
    """Seconds of a Retry-After header, which has seconds or a date; 0 if there is none."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _has_host(url: str) -> bool:
    try:
        return bool(httpx2.URL(url).host)
    except httpx2.InvalidURL:
        return False


def _key(config: HttpConfig) -> dict[str, str]:
    if config.key_variable is None:
        return {}
    key = os.environ.get(config.key_variable)
    if not key:
        raise ValueError("pseudo_label.http.key_variable: the environment has no "
                         f"{config.key_variable}")
    return {"Authorization": f"Bearer {key}"}
