"""Readers of audio: by libsndfile what it knows, by FFmpeg the rest. Used by `distill.data.audio`.

A reader has `rate` in Hz, `frames()`, `seek(frame)` and `read(frames)` -> (frames, channels). What
it gives of a part of a file is what it gives there of the whole.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.formats.errors import AudioError, pointer
from distill.data.formats.ffmpeg import decode_media
from distill.data.formats.forward import ForwardReader, open_forward
from distill.data.formats.parts import Part, find_parts
from distill.data.formats.source import Piece, Source, open_source

_SYSTEM = 2  # libsndfile's SF_ERR_SYSTEM: reading failed, not the format
_LEAD = 12 * 576  # samples that are decoded before those that are asked for
_STEP = 1 << 14  # samples read at a time to get past them
_known: dict[tuple[str, int, int, int, int], list[Part]] = {}  # by `Source.key`


class SoundFileReader:
    """An open `SoundFile`, which is read forwards if libsndfile cannot seek in its codec."""

    def __init__(self, file: Any, size: int, frames: int | None = None):
        self.file, self.rate, self._place = file, file.samplerate, 0
        self._frames = file.frames if frames is None else min(frames, file.frames)
        # In MP3 of few bits a frame borrows from more of those before it than libmpg123 goes back.
        is_low = file.format == "MP3" and self.rate <= 24_000 and size * 576 < 150 * self._frames
        self._lead = _LEAD if is_low else 0

    def frames(self) -> int:
        return self._frames

    def seek(self, frame: int) -> None:
        frame = min(frame, self._frames)
        if self.file.seekable():
            if frame < self._frames:  # behind the last there is nothing to find
                self.file.seek(frame)
            self._place = frame
            return
        while self._place < frame and len(self.read(min(_STEP, frame - self._place))):
            pass

    def read(self, frames: int | None) -> np.ndarray:
        left = self._frames - self._place
        count = left if frames is None else min(frames, left)
        lead = min(self._lead, self._place) if count else 0
        if lead:
            self.file.seek(self._place - lead)
        samples = self.file.read(lead + count, dtype="float32", always_2d=True)[lead:]
        self._place += len(samples)
        return samples


class JoinedReader:
    """Readers one after the other, mixed down to one channel, at the rate of the first."""

    def __init__(self, readers: Sequence[SoundFileReader]):
        self.readers, self.rate = readers, readers[0].rate
        self._resampled: dict[int, np.ndarray] = {}
        lengths = [self._length(number) for number in range(len(readers))]
        self.starts = np.cumsum([0, *lengths])
        self._place = 0

    def _length(self, number: int) -> int:
        reader = self.readers[number]
        if reader.rate == self.rate:
            return reader.frames()
        import soxr

        self._resampled[number] = soxr.resample(
            reader.read(None).mean(axis=1), reader.rate, self.rate)
        return len(self._resampled[number])

    def frames(self) -> int:
        return int(self.starts[-1])

    def seek(self, frame: int) -> None:
        self._place = min(frame, self.frames())

    def read(self, frames: int | None) -> np.ndarray:
        end = self.frames() if frames is None else min(self._place + frames, self.frames())
        found = [np.zeros(0, np.float32)]
        for number, reader in enumerate(self.readers):
            start, stop = self.starts[number], self.starts[number + 1]
            first, last = max(self._place, start) - start, min(end, stop) - start
            if first >= last:
                continue
            if number in self._resampled:
                found.append(self._resampled[number][first:last])
            else:
                reader.seek(int(first))
                found.append(reader.read(int(last - first)).mean(axis=1))
        self._place = end
        return np.concatenate(found)[:, None]


Reader = SoundFileReader | JoinedReader | ForwardReader


@contextmanager
def open_reader(path: str | Path | bytes) -> Iterator[Reader]:
    """The reader of a file.

    Raises:
        AudioError: `missing_file`, `cannot_open`, `empty`, `unreadable`, `needs_ffmpeg`; also of
            what goes wrong while it is read.
    """
    import soundfile  # here, so that --help and config errors stay fast

    with open_source(path) as source, ExitStack() as stack:
        try:
            try:
                reader = _by_libsndfile(source, stack)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                reader = _by_ffmpeg(source, stack, error)
            yield reader
        except (soundfile.LibsndfileError, RuntimeError) as error:
            if getattr(error, "code", None) == _SYSTEM:
                raise AudioError("cannot_open", f"{source.name}: {_text(error)}") from error
            raise AudioError("unreadable", f"{source.name}: {_text(error)}") from error
        finally:
            if source.error is not None:
                raise source.error


def _text(error: Exception) -> str:
    return getattr(error, "error_string", None) or str(error)


def _by_libsndfile(source: Source, stack: ExitStack) -> Reader:
    import soundfile

    def opened(file: Any, size: int) -> SoundFileReader:
        is_own = not isinstance(file, int)  # else the source closes it
        opened = stack.enter_context(soundfile.SoundFile(file, closefd=is_own))
        return SoundFileReader(opened, size)

    parts = _parts_of(source)
    if len(parts) == 1 and parts[0].is_guessed:
        try:
            plain = opened(source.rewound(), source.size)
            if abs(plain.file.frames - parts[0].frames) <= 0.05 * plain.rate:
                return SoundFileReader(plain.file, source.size, parts[0].frames)
        except soundfile.LibsndfileError:
            pass
    if not parts:
        plain = opened(source.rewound(), source.size)
        if plain.file.seekable():
            return plain
        return stack.enter_context(open_forward(source, _decode_forwards))
    readers = [opened(Piece(source, part.start, part.end, part.prefix), part.end - part.start)
               for part in parts]
    return readers[0] if len(readers) == 1 else JoinedReader(readers)


def _decode_forwards(source: Source) -> Generator[tuple[int, np.ndarray]]:
    """Codecs in which libsndfile cannot seek: GSM 6.10, G.721, ..."""
    import soundfile

    with soundfile.SoundFile(Piece(source)) as file:
        while len(samples := file.read(_STEP, dtype="float32", always_2d=True)):
            yield file.samplerate, samples.mean(axis=1)


def _parts_of(source: Source) -> list[Part]:
    """As `find_parts`; a file of hours is read window by window, and looked through once."""
    if source.key is None:
        return find_parts(source)
    parts = _known.get(source.key)
    if parts is None:
        if len(_known) >= 4096:
            _known.clear()
        parts = _known[source.key] = find_parts(source)
    return parts


def _by_ffmpeg(source: Source, stack: ExitStack, error: Exception) -> ForwardReader:
    head = source.read_at(0, 1024)
    if head[:7] == b"NIST_1A" and b"shorten" in head:
        raise AudioError("unreadable", f"{source.name}: a SPHERE file that shorten compressed; "
                         "`sph2pipe -f wav a.sph a.wav` (of the LDC) or sox unpack it")
    if told := pointer(head):
        raise AudioError("cannot_open", f"{source.name}: {told}")
    if not head.strip(b"\0") or _is_text(head):
        raise AudioError("unreadable", f"{source.name}: no audio, its bytes are "
                         f"{'text' if head.strip(bytes(1)) else 'zeros'}")
    if find_spec("av") is None:
        raise AudioError("needs_ffmpeg", f"{source.name}: libsndfile cannot read it "
                         f"({_text(error)}); `pip install 'audio-distill[media]'` for FFmpeg")
    try:
        return stack.enter_context(open_forward(source, decode_media))
    except AudioError as other:
        if "no sound" in other.detail or "NIST" in str(error):
            raise
        raise AudioError(other.reason, f"{source.name}: {_text(error)} (libsndfile); "
                         f"{other.detail} (FFmpeg)") from None


def _is_text(head: bytes) -> bool:
    try:
        text = head[:1000].decode("utf-8", errors="strict" if len(head) < 1000 else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n\f\ufeff" for letter in text)
