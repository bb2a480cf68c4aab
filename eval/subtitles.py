"""Transcripts of recordings as plain text, SubRip, WebVTT and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from distill.whisper.sequential import Segment


def plain(segments: Sequence[Segment]) -> str:
    """A line for each segment."""
    return "".join(f"{segment.text}\n" for segment in segments)


def srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered, hours always, a comma before the milliseconds."""
    return "\n".join(
        f"{number}\n{_clock(s.start, ',')} --> {_clock(s.end, ',')}\n{_cue(s.text)}\n"
        for number, s in enumerate(segments, 1))


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT (w3.org/TR/webvtt1)."""
    cues = (f"{_clock(s.start, '.')} --> {_clock(s.end, '.')}\n{_escaped(_cue(s.text))}\n"
            for s in segments)
    return "\n".join(["WEBVTT\n", *cues])


def as_json(segments: Sequence[Segment], about: dict) -> str:
    """Everything that is known; times in seconds, log probabilities in nats."""
    rows = [_rounded(asdict(segment)) for segment in segments]
    for row in rows:
        if not row["words"]:
            del row["words"]
    text = " ".join(segment.text for segment in segments)
    found = {**about, "text": text, "segments": rows}
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _cue(text: str) -> str:
    """An empty line would end the cue, an arrow begin another."""
    return " ".join(text.split()).replace("-->", "->")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, rest = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{rest:03d}"


def write(kind: str, segments: Sequence[Segment], about: dict) -> str:
    """A transcript as `txt`, `srt`, `vtt` or `json`; `about` stands in the json alone."""
    match kind:
        case "txt":
            return plain(segments)
        case "srt":
            return srt(segments)
        case "vtt":
            return vtt(segments)
        case "json":
            return as_json(segments, about)
    raise ValueError(f"no such format: {kind!r}")
