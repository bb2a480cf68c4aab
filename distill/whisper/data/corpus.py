"""From manifests to what Whisper reads: windows to label or train on, utterances to evaluate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill.data.audio import WINDOW_SECONDS, AudioError, load_audio
from distill.data.formats.source import fetch_ahead
from distill.data.manifest import Row, counts_text, load_rows
from distill.data.speech.windows import (
    Piece,
    Recording,
    Window,
    is_long,
    pack,
    pack_recordings,
    split_long,
)
from distill.data.unreadable import Unreadable
from distill.whisper.data.recordings import find_speech
from distill.whisper.recipe import PseudoLabelConfig, WhisperRecipe

_AHEAD = 256  # clips behind URLs that are fetched together
LONG = "long"  # ids of windows of long recordings begin with it

ALONE = 999  # number of the packing of `pseudo_label.clips_alone`


def load_clips(manifests: Sequence[str]) -> tuple[list[Row], Counter]:
    """Rows of manifests in languages that Whisper knows, and drops by reason.

    Raises:
        ValueError: see `load_rows`; also no row at all.
    """
    rows, drops = load_rows(manifests, spoken=True)
    if not rows:
        left_out = f" (left out: {counts_text(drops)})" if drops else ""
        raise ValueError(f"data: no clip in {', '.join(manifests) or 'an empty list of manifests'}"
                         + left_out)
    return rows, drops


def split_clips(
    rows: Sequence[Row], config: PseudoLabelConfig, folder: Path, rank: int = 0, world: int = 1
) -> tuple[list[Row], list[Recording], dict[str, AudioError]]:
    """Clips that fit a window, and what becomes of longer ones (`pseudo_label.long_audio`).

    Args:
        folder: labels folder, where the speech of long recordings is kept once it is found.

    Returns:
        clips that fit, or parts of clips that do; long recordings with their speech; and why there
        is nothing of other long clips, by their ids.
    """
    limit = config.window_seconds
    if config.long_audio == "speech":
        long = [row for row in rows if is_long(row, limit)]
        recordings, unused = find_speech(long, folder, limit, rank, world)
        return [row for row in rows if not is_long(row, limit)], recordings, unused
    if config.long_audio == "sequential":  # cut while they are labelled
        return [row for row in rows if not is_long(row, limit)], [], {}
    clips: list[Row] = []
    unused = {}
    for row in rows:
        try:
            clips += split_long(row, limit)
        except AudioError as error:
            unused[row.id] = AudioError(error.reason, error.detail)
    return clips, [], unused


def training_windows(
    clips: Sequence[Row], recordings: Sequence[Recording], config: PseudoLabelConfig, seed: int
) -> list[Window]:
    """Windows of all packings, ids unique."""
    return [window for index in packings_of(config)
            for window in packing_windows(clips, recordings, config, seed, index)]


def packings_of(config: PseudoLabelConfig) -> list[int]:
    """Numbers of the packings; ALONE is the one in which every clip is by itself."""
    return [*range(config.num_packings), *[ALONE] * config.clips_alone]


def packing_windows(
    clips: Sequence[Row], recordings: Sequence[Recording], config: PseudoLabelConfig, seed: int,
    index: int,
) -> list[Window]:
    """Windows of one packing."""
    order, limit, drawn = config.packing, config.window_seconds, seed * 1000 + index
    if index == ALONE:  # recordings have windows of their own in every packing
        return pack(clips, f"train-{index}", "none", window_seconds=limit)
    windows = pack(clips, f"train-{index}", order, drawn, limit)
    drawn = drawn if index else None  # the first packing is full
    return windows + pack_recordings(recordings, f"{LONG}-{index}", order, drawn, limit)


def whole_recordings(rows: Sequence[Row]) -> list[Window]:
    """A window for each recording, longer than a model's window: `pseudo_label.long_audio`
    and `evaluation.long_audio` sequential."""
    return [
        Window(f"{LONG}-0-{index:06d}",
               (Piece(row.id, row.audio_filepath, row.offset, row.duration, 0.0, None),),
               row.speaker, row.language)
        for index, row in enumerate(rows)
    ]


def is_recording(window: Window) -> bool:
    """Whether it is one of `whole_recordings`."""
    return is_long(window.pieces[0])  # packed clips may add up to a microsecond more than a window


def piece_rows(window: Window) -> list[dict]:
    """`pieces` of a pseudo-label row; `rebuild_window` reads them again."""
    return [{"id": p.id, "offset": round(p.offset, 6), "duration": p.duration, "start": p.start}
            for p in window.pieces]


def rebuild_window(label: dict, clips: dict[str, Row]) -> Window:
    """The window of a pseudo-label row; audio paths come from the manifest.

    Raises:
        ValueError: a clip is no longer in the manifest.
    """
    pieces = []
    for piece in label["pieces"]:
        if piece["id"] not in clips:
            raise ValueError(f"label {label['id']}: clip {piece['id']} is not in data.train; "
                             "`make NAME.label` takes over another list of clips")
        audio = clips[piece["id"]].audio_filepath
        pieces.append(Piece(**piece, audio_filepath=audio, text=None))
    return Window(label["id"], tuple(pieces), label["speaker"], label["language"])


@dataclass(frozen=True)
class EvaluationUtterance:
    """What is scored as one: a window, or all parts of a clip that is longer than a window."""

    id: str
    reference: str
    windows: tuple[Window, ...]
    seconds: float | None = None  # of the recording, where its windows leave something out

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        if self.seconds is not None:
            return self.seconds
        return sum(window.duration for window in self.windows)


def windows_of(utterances: Sequence[EvaluationUtterance]) -> list[Window]:
    """Windows of all utterances, in order."""
    return [window for utterance in utterances for window in utterance.windows]


def evaluation_utterances(
    rows: Sequence[Row], prefix: str, packed: bool, window_seconds: float = WINDOW_SECONDS,
    long_audio: str = "quiet", folder: Path | None = None, faults: Unreadable | None = None,
) -> tuple[list[EvaluationUtterance], Counter]:
    """What a model is measured on. Deterministic: the same rows give the same utterances.

    Args:
        packed: join clips of a speaker to windows of up to 30 s, in manifest order; False measures
            clip by clip.
        long_audio: see `evaluation.long_audio`.
        folder: where the speech of long clips is kept once it is found.
        faults: counts long clips that cannot be read.

    Returns:
        utterances, and counts of rows left out (`no_reference`, unreadable long clips).

    Raises:
        UnreadableError: too many, or some that may be readable again.
    """
    faults = faults or Unreadable(len(rows), 1.0, "evaluation")
    drops: Counter = Counter()
    spoken = [row for row in rows if (row.text or "").strip()]
    drops["no_reference"] = len(rows) - len(spoken)
    short = [row for row in spoken if row.duration <= window_seconds]
    long = [row for row in spoken if row.duration > window_seconds]
    speech: dict[str, Recording] = {}
    if long_audio == "speech" and long:
        speech = {found.row.id: found for found in find_speech(long, folder, window_seconds)[0]}
    utterances: list[EvaluationUtterance] = []
    for row in long:
        try:
            windows = _windows_of_long(row, f"{prefix}-{row.id}", window_seconds, long_audio,
                                       speech.get(row.id))
        except AudioError as error:
            drops[error.reason] += 1
            faults.add(row.id, error)
            continue
        utterances.append(EvaluationUtterance(row.id, row.text, tuple(windows), row.duration))
    if packed:
        windows = pack(short, prefix, "sequential", window_seconds=window_seconds)
    else:
        windows = [replace(pack([row], prefix, "sequential")[0], id=row.id) for row in short]
    utterances += [EvaluationUtterance(window.id, window.text, (window,)) for window in windows]
    faults.check()
    faults.begin("the manifest")
    return utterances, +drops


def _windows_of_long(row: Row, prefix: str, window_seconds: float, long_audio: str,
                     speech: Recording | None) -> list[Window]:
    if long_audio == "sequential":
        return [replace(whole_recordings([row])[0], id=prefix)]
    if speech is not None:
        return pack_recordings([speech], prefix, "sequential", window_seconds=window_seconds)
    # also where no speech was found in a clip that has a text: a model may know better
    return [window for index, part in enumerate(split_long(row, window_seconds))
            for window in pack([part], f"{prefix}-{index}", "sequential")]


def test_utterances(
    recipe: WhisperRecipe, whole: bool = False
) -> tuple[list[EvaluationUtterance], dict[str, int]]:
    """Utterances of the test split whose audio can be read; the rest is counted.

    Args:
        whole: leave long recordings whole where `evaluation.long_audio` is sequential; otherwise
            they are then cut as for `speech`.

    Raises:
        ValueError: the recipe has no test split, or nothing of it can be used.
        UnreadableError: too many clips cannot be read, or some cannot be opened now.
    """
    if not recipe.data.test:
        raise ValueError("data.test is empty: there is nothing to evaluate on")
    rows, drops = load_clips(recipe.data.test)
    faults = Unreadable(len(rows), recipe.data.max_unreadable, "evaluation")
    readable = readable_rows(rows, faults, "data.test")
    drops += Counter(faults.counts)
    way = recipe.evaluation.long_audio
    utterances, more = evaluation_utterances(
        readable, "test", recipe.evaluation.pack, folder=Path(recipe.labels_dir),
        long_audio="speech" if way == "sequential" and not whole else way, faults=faults)
    if not utterances:
        raise ValueError(f"no clip of {', '.join(recipe.data.test)} can be used: {drops + more}")
    return utterances, dict(sorted((drops + more).items()))


def readable_rows(rows: Sequence[Row], faults: Unreadable, where: str) -> list[Row]:
    """Clips whose audio can be read, all of it; the others are printed and counted.

    Args:
        where: key of the manifests.

    Raises:
        UnreadableError: too many cannot be, or some cannot be opened now.
    """
    faults.stat((row.id, row.audio_filepath) for row in rows)
    readable = []
    for number, row in enumerate(rows):
        if number % _AHEAD == 0:
            fetch_ahead(each.audio_filepath for each in rows[number : number + _AHEAD])
        try:
            load_audio(row.audio_filepath, row.offset, row.duration)
        except AudioError as error:
            faults.add(row.id, error)
        else:
            readable.append(row)
    faults.check()
    faults.begin(where)
    return readable
