"""What is in an MP3 file, frame header by frame header, where its own word is not enough.

A decoder knows the length of an MP3 only from a Xing, Info or VBRI frame at the beginning, or
guesses it from the first bitrate: it ends too early in a file of variable bitrate without such a
frame and in joined files, and promises too much in one that was cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from distill.data.formats.source import Source

# kbit/s by index; 0: "free", which nobody uses
_MPEG1 = {1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
          2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
          3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}
_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG2 = {1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256), 2: _LOW, 3: _LOW}
_SEARCH = 1 << 16  # bytes in which a frame must begin
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Frame:
    """A header: bytes, samples, and what may not change within a stream."""

    size: int
    samples: int
    kind: tuple[int, int, int, bool]  # version, layer, rate, whether it is mono

    @property
    def side(self) -> int:
        """Bytes between header and data, behind which an info frame says what it is."""
        version, _, _, is_mono = self.kind
        return (17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)


@dataclass
class Run:
    """Frames of one kind that follow each other, from `start` to `end` in bytes.

    Attributes:
        info: the bytes of the info frame before them.
        promised: frames by that.
    """

    first: bytes
    frame: Frame
    start: int
    end: int
    count: int = 0
    info: bytes = b""
    promised: int | None = None

    @property
    def samples(self) -> int:
        return self.count * self.frame.samples

    def header(self) -> bytes:
        """An info frame that is true, to be put before the run."""
        place = 4 + self.frame.side
        info = bytearray(self.info)
        if not info:
            info = bytearray(self.first[:4].ljust(self.frame.size, b"\0"))
            info[1] |= 1  # no checksum
            info[place : place + 8] = b"Xing" + struct.pack(">I", 3)
        flags = struct.unpack_from(">I", info, place + 4)[0]
        struct.pack_into(">I", info, place + 8, self.count)
        if flags & 2:
            struct.pack_into(">I", info, place + 12, len(info) + self.end - self.start)
        return bytes(info)


def parse_frame(header: bytes) -> Frame | None:
    """A frame by its first 4 bytes."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # version: 0 2.5, 2 2, 3 1
    index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3 or header[3] & 3 == 2:
        return None
    rate = (44_100, 48_000, 32_000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * (_MPEG1 if version == 3 else _MPEG2)[layer][index]
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    size = samples // 8 * bits // rate + padding
    if layer == 1:
        size = (12 * bits // rate + padding) * 4
    return Frame(size, samples, (version, layer, rate, header[3] >> 6 == 3))


def mp3_runs(source: Source) -> list[Run] | None:
    """Runs of frames in an MP3 file; None where it is none, or where its own word is right."""
    view = _View(source)
    end = _end_of_sound(view)
    first = _behind_tags(view, 0)
    start = _find(view, first, end)
    if start is None:
        return None
    frame = parse_frame(view.at(start, 4))
    assert frame is not None  # where one was found
    _, size, _ = _info(view.at(start, frame.size), frame) or (0, None, 0)
    if size is not None and abs(start + size - end) <= 2 * frame.size and start == first:
        return None
    runs: list[Run] = []
    for place, frame, is_next in _frames(view, start, end):
        data = view.at(place, frame.size)
        info = _info(data, frame)
        if info is not None:
            runs.append(Run(data, frame, place + frame.size, place + frame.size,
                            info=data if info[2] and info[0] else b"", promised=info[0]))
            continue
        if not runs or not is_next or runs[-1].frame.kind != frame.kind:
            runs.append(Run(data, frame, place, place))
        runs[-1].count += 1
        runs[-1].end = place + frame.size
    runs = [run for run in runs if run.count]
    is_right = len(runs) == 1 and runs[0].promised is not None and start == first and (
        abs(runs[0].promised - runs[0].count) <= 1)
    return None if is_right else runs


def _frames(view: _View, place: int, end: int) -> Iterator[tuple[int, Frame, bool]]:
    """(place, frame, whether it follows the one before without a gap)."""
    is_next = True
    while place < end:
        frame = parse_frame(view.at(place, 4))
        if frame is None:
            found = _find(view, _behind_tags(view, place), end, far=True)
            if found is None:
                return
            place, is_next = found, False
            continue
        if place + frame.size > end:  # cut off
            return
        yield place, frame, is_next
        place, is_next = place + frame.size, True


def _find(view: _View, place: int, end: int, far: bool = False) -> int | None:
    """Where the next frame begins, that is followed by another of its kind or by the end."""
    limit = end if far else min(end, place + _SEARCH)
    while place < limit:
        data = view.at(place, 4096)
        at = data.find(b"\xff")
        if at < 0:
            place += max(1, len(data))
            continue
        place += at
        frame = parse_frame(view.at(place, 4))
        if frame is not None:
            behind = parse_frame(view.at(place + frame.size, 4))
            if place + frame.size == end or (behind and behind.kind == frame.kind):
                return place
        place += 1
    return None


def _info(data: bytes, frame: Frame) -> tuple[int | None, int | None, bool] | None:
    """(frames, bytes, whether it is Xing or Info) as an info frame says; None: it is none."""
    at = 4 + frame.side
    if frame.kind[1] == 3 and data[at : at + 4] in (b"Xing", b"Info") and len(data) >= at + 16:
        flags, one, two = struct.unpack_from(">III", data, at + 4)
        values = iter((one, two))
        count = next(values) if flags & 1 else None
        return count, next(values) if flags & 2 else None, True
    if data[36:40] == b"VBRI" and len(data) >= 54:
        size, count = struct.unpack_from(">II", data, 46)
        return count, size, False
    return None


def _behind_tags(view: _View, place: int) -> int:
    """Behind ID3v2 tags, of which pictures make megabytes."""
    while (head := view.at(place, 10))[:3] == b"ID3" and len(head) == 10:
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte & 0x7F
        place += 10 + size + (10 if head[5] & 0x10 else 0)
    return place


def _end_of_sound(view: _View) -> int:
    """Where tags at the end begin: ID3v1, APE, or neither."""
    end = view.source.size
    if view.at(end - 128, 3) == b"TAG":
        end -= 128
    foot = view.at(end - 32, 32) if end >= 32 else b""
    if foot[:8] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", foot, 12)
        end -= size + (32 if flags >> 31 else 0)
    return max(end, 0)


class _View:
    """Bytes of a source from a buffer: a header is 4 of them."""

    def __init__(self, source: Source):
        self.source, self._start, self._data = source, 0, b""

    def at(self, place: int, count: int) -> bytes:
        if place < 0:
            return b""
        offset = place - self._start
        if offset < 0 or offset + count > len(self._data):
            size = min(_BLOCK, max(count, 4096, 4 * len(self._data)))  # short files stay cheap
            self._start, self._data, offset = place, self.source.read_at(place, size), 0
        return self._data[offset : offset + count]
