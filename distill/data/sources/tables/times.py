"""Which part of a file a row is, by its columns: offset and duration, or a beginning and an end."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.data.formats.errors import AudioError
from distill.data.sources.clips import Clip, column_of

OFFSETS = ("offset", "start", "start_time", "start_seconds", "start_sec", "begin", "begin_time",
           "begin_seconds", "start_ms", "offset_ms", "begin_ms", "start_time_ms")
_DURATIONS = ("duration", "duration_seconds", "duration_sec", "dur", "duration_ms", "duration[ms]")
_ENDS = ("end", "end_time", "end_seconds", "end_sec", "stop", "end_ms", "end_time_ms", "stop_ms")
_PAST_END = 0.05  # seconds that a row may end after its file does, as `load_audio` allows
_CLOCK = re.compile(r"\s*(\d+):([0-5]?\d):([0-5]?\d(?:[.,]\d+)?)\s*")


@dataclass(frozen=True)
class Times:
    """Columns that say which part of a file a row is.

    Attributes:
        end: where the part ends, in the place of `duration`; without `offset` it begins at 0.
    """

    offset: str | None = None
    duration: str | None = None
    end: str | None = None

    @classmethod
    def among(cls, names: Sequence[str], asked: str | None = None) -> Times:
        """
        Args:
            asked: the column of offsets, as `Columns.resolve` left it; "none": there is none.
        """
        if asked == "none":
            return cls()
        if asked is None and (onset := column_of(["onset"], names)) is not None:
            return cls(onset, None, column_of(["offset", *_ENDS], names))  # DCASE: offset is an end
        offset = asked or column_of(OFFSETS, names)
        duration = column_of(_DURATIONS, names)
        return cls(offset, duration, column_of(_ENDS, names) if duration is None else None)

    def of(self, row: dict[str, Any]) -> tuple[float, float | None]:
        """(offset, duration) in seconds.

        Raises:
            AudioError: `bad_offset` or `bad_duration`.
        """
        offset = _seconds(row, self.offset, "bad_offset") or 0.0
        if offset < 0:
            raise AudioError("bad_offset", f"{self.offset} must be >= 0, got {offset}")
        duration = _seconds(row, self.duration or self.end, "bad_duration")
        if duration is not None and self.duration is None:
            duration = round(duration - offset, 6)
        if duration is not None and duration <= 0:
            raise AudioError("bad_duration", f"a part must be longer than 0 s, got {duration}")
        return offset, duration


def with_part(clip: Clip, row: dict[str, Any], times: Times) -> Clip:
    """A clip whose bytes come with the row, and the part of them that the row names, if it does."""
    if times.offset is None or clip.problem:
        return clip
    try:
        offset, duration = times.of(row)
    except AudioError as error:
        detail = f"{clip.name or clip.id}: {error.detail}"
        return replace(clip, problem=(error.reason, detail))
    return replace(clip, offset=offset, duration=duration, may_be_cut=True)


def _seconds(row: dict[str, Any], column: str | None, reason: str) -> float | None:
    if column is None:
        return None
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value)):
        hours, minutes, seconds = (float(part.replace(",", ".")) for part in clock.groups())
        return hours * 3600 + minutes * 60 + seconds
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d+\s*", value):
        value = value.replace(",", ".")  # of a table whose delimiter is a semicolon
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise AudioError(reason, f"{column} must be a number of seconds, got {value!r}")
    is_ms = re.search(r"(_ms|\[ms\])$", column.strip().casefold())
    return seconds / 1000 if is_ms else seconds


def part_of(clip: Clip, seconds: float) -> tuple[float, float]:
    """(offset, duration) of a clip in a file of so many seconds.

    Raises:
        AudioError: `bad_offset`, `bad_duration`, or `beyond_end` of the file.
    """
    name, offset = clip.name or clip.id, clip.offset
    if clip.said_seconds is not None:
        return 0.0, _seconds_of_whole(name, clip.said_seconds, seconds)
    if clip.may_be_cut and _is_cut(clip, seconds):
        return 0.0, round(seconds, 4)
    if not (math.isfinite(offset) and offset >= 0):
        raise AudioError("bad_offset", f"{name}: {offset}")
    duration = seconds - offset if clip.duration is None else clip.duration
    if offset >= seconds or (clip.duration is not None and offset + duration > seconds + _PAST_END):
        raise AudioError("beyond_end", f"{name}: offset {offset:g} s, duration "
                         f"{clip.duration if clip.duration is None else f'{clip.duration:g} s'}, "
                         f"and the file has {seconds:.2f} s")
    if not (math.isfinite(duration) and duration > 0):
        raise AudioError("bad_duration", f"{name}: {duration}")
    return round(offset, 4), round(min(duration, seconds - offset), 4)


def _seconds_of_whole(name: str, stated: float, seconds: float) -> float:
    """Seconds of a file from its beginning, of which a source says a length that may be rounded, or
    in milliseconds; of a much longer file it is the part that is meant.

    Raises:
        AudioError: `beyond_end`: most of what is said about the file cannot be in it.
    """
    slack = max(0.5, 0.1 * stated)
    if stated < seconds - slack:
        return round(stated, 4)
    if stated > seconds + slack and not 0.9 < stated / (1000 * seconds) < 1.1:
        raise AudioError("beyond_end", f"{name}: duration {stated:g} s, and the file has "
                         f"{seconds:.2f} s")
    return round(seconds, 4)


def _is_cut(clip: Clip, seconds: float) -> bool:
    """Whether a file, of so many seconds, is itself the part of a longer recording that it is said
    to have: its length says so."""
    if clip.duration is None:
        return False
    slack = max(0.5, 0.05 * clip.duration)
    return (clip.offset + clip.duration > seconds + _PAST_END
            and abs(seconds - clip.duration) <= slack)
