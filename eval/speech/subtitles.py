"""Transcripts of recordings as plain text, SubRip, WebVTT and JSON.

Subtitles are short cues, cut as broadcasters do (`eval.speech.cues`); text and JSON have the
segments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from distill.whisper.recognition.sequential import Segment
from eval.speech.cues import Cue, cues
from eval.speech.sounds import Sound, sound_cues


def plain(segments: Sequence[Segment]) -> str:
    """A line for each segment."""
    return "".join(f"{segment.text}\n" for segment in segments)


@dataclass(frozen=True)
class Heard:
    """Sounds of a recording, for its cues.

    Attributes:
        only_gaps: none beside text.
    """

    sounds: Sequence[Sound]
    only_gaps: bool = True


def all_cues(segments: Sequence[Segment], seconds: float | None, heard: Heard | None) -> list[Cue]:
    """Of text and of sounds, by their beginning."""
    spoken = cues(segments, seconds)
    if heard is None:
        return spoken
    others = sound_cues(heard.sounds, spoken, heard.only_gaps)
    return sorted([*spoken, *others], key=lambda cue: cue.start)


def srt(segments: Sequence[Segment], seconds: float | None = None,
        heard: Heard | None = None) -> str:
    """SubRip: numbered, hours always, a comma before the milliseconds."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_text(cue)}\n"
        for number, cue in enumerate(all_cues(segments, seconds, heard), 1))


def vtt(segments: Sequence[Segment], seconds: float | None = None,
        heard: Heard | None = None) -> str:
    """WebVTT (w3.org/TR/webvtt1)."""
    found = (f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escaped(_text(cue))}\n"
             for cue in all_cues(segments, seconds, heard))
    return "\n".join(["WEBVTT\n", *found])


def as_json(segments: Sequence[Segment], about: dict, heard: Heard | None = None) -> str:
    """Everything that is known; times in seconds, log probabilities in nats."""
    rows = [_rounded(asdict(segment)) for segment in segments]
    for row in rows:
        if not row["words"]:
            del row["words"]
    text = " ".join(segment.text for segment in segments)
    found = {**about, "text": text, "segments": rows}
    if heard is not None:
        found["sounds"] = [_rounded(asdict(sound)) for sound in heard.sounds]
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def _rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _text(cue: Cue) -> str:
    """Lines; an arrow in them would begin another cue."""
    return "\n".join(line.replace("-->", "->") for line in cue.lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, rest = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{rest:03d}"


def write(
    kind: str, segments: Sequence[Segment], about: dict, heard: Heard | None = None
) -> str:
    """A transcript as `txt`, `srt`, `vtt` or `json`.

    Args:
        about: for the json; its `duration` (seconds) is also where the last subtitle ends.
        heard: sounds besides the speech, for all but the plain text.
    """
    match kind:
        case "txt":
            return plain(segments)
        case "srt":
            return srt(segments, about.get("duration"), heard)
        case "vtt":
            return vtt(segments, about.get("duration"), heard)
        case "json":
            return as_json(segments, about, heard)
    raise ValueError(f"no such format: {kind!r}")
