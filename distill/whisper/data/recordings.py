"""Long recordings: where people speak in them. Found once, then read from `<labels_dir>/speech`.

A recording is a file there, whole or absent, named by everything that decides what is in it. So a
run that is killed loses the recording it was at, and ranks cannot harm each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from distill.data.audio import AudioError
from distill.data.files import hash_of, read_json, write_json
from distill.data.formats.places import stat_of
from distill.data.manifest import Row
from distill.data.speech.voice_activity import SpeechSettings, speech_parts
from distill.data.speech.windows import Recording
from distill.data.unreadable import file_fault
from distill.progress import clock, progress

SETTINGS = SpeechSettings()


def known_speech(row: Row, folder: Path, window_seconds: float) -> Recording | None:
    """What an earlier run has found; None where none has, or the file is another one now.

    Raises:
        AudioError: `missing_file` or `cannot_open`.
    """
    path = _path(row, folder, window_seconds)
    if not path.is_file():
        return None
    return Recording(row, tuple((start, end) for start, end in read_json(path)["parts"]))


def _path(row: Row, folder: Path, window_seconds: float) -> Path:
    if (fault := file_fault(row.audio_filepath)) is not None:
        raise fault
    key = [row.audio_filepath, *stat_of(row.audio_filepath), row.offset, row.duration,
           window_seconds, asdict(SETTINGS)]
    return folder / "speech" / f"{hash_of(key)}.json"


def find_speech(
    rows: Sequence[Row], folder: Path, window_seconds: float, rank: int = 0, world: int = 1
) -> tuple[list[Recording], dict[str, AudioError]]:
    """Recordings with speech, in the order of `rows`; listens to those nobody has listened to.

    Ranks start at different recordings and skip what others have found meanwhile: they share the
    work without waiting for each other.

    Returns:
        recordings; and why there is nothing of the others, by their ids: `no_speech` among the
        reasons. The next run tries those again that could not be opened.
    """
    def known(row: Row) -> Recording | AudioError | None:
        try:
            return known_speech(row, folder, window_seconds)
        except AudioError as error:
            return error

    found = {row.id: known(row) for row in rows}
    missing = [row for row in rows if found[row.id] is None]
    first = rank * len(missing) // world

    def minutes() -> Iterator[None]:
        for row in missing[first:] + missing[:first]:
            found[row.id] = known(row) or _listen(row, folder, window_seconds)
            yield from [None] * _minutes(row)

    total = sum(map(_minutes, missing))
    for _ in progress(minutes(), total, "finding speech", "minutes of audio", total > 0):
        pass
    recordings, unused = [], {}
    for name, recording in found.items():
        if isinstance(recording, AudioError):
            unused[name] = recording
        elif recording.parts:
            recordings.append(recording)
        else:
            path = recording.row.audio_filepath
            unused[name] = AudioError("no_speech", f"{path}: nobody speaks")
    return recordings, unused


def _minutes(row: Row) -> int:
    return max(1, round(row.duration / 60))


def _listen(row: Row, folder: Path, window_seconds: float) -> Recording | AudioError:
    try:
        path = _path(row, folder, window_seconds)  # before reading: it may change meanwhile
        parts = speech_parts(row.audio_filepath, row.offset, row.duration, window_seconds, SETTINGS)
    except AudioError as error:
        return AudioError(error.reason, error.detail)  # without a traceback, which holds audio
    write_json(path, {"audio_filepath": row.audio_filepath, "offset": row.offset,
                      "duration": row.duration, "parts": parts})
    return Recording(row, tuple(parts))


def describe(recordings: Sequence[tuple[float, float]]) -> str:
    """One sentence for the user about recordings: seconds, and seconds of speech of each."""
    seconds, speech = (sum(each) for each in zip(*recordings, strict=True))
    return f"Speech in {len(recordings)} long recording(s): {clock(speech)} of {clock(seconds)}"
