"""Recordings labelled a window after the other (`pseudo_label.long_audio: sequential`).

A recording is one piece of work, as a shard is, and becomes as many rows as it has windows: where
one ends is known only after it was decoded (`distill.whisper.recognition.sequential`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distill.data.audio import AudioError
from distill.data.speech.windows import Window
from distill.whisper.recipe import WhisperRecipe
from distill.whisper.recognition.backends import Labelled, TransformersBackend
from distill.whisper.recognition.sequential import LongAudio, recording_of
from pseudo_label.labelling.shards import drop_row


def label_recordings(
    backend: TransformersBackend, recipe: WhisperRecipe, recordings: Sequence[Window]
) -> tuple[list[tuple[Window, Labelled]], list[dict]]:
    """Windows of recordings, in order, with their labels; and the recordings that cannot be read,
    as rows of a drops file."""
    by_id = {recording.id: recording for recording in recordings}
    found: dict[str, list[tuple[Window, Labelled]]] = {name: [] for name in by_id}
    drops: list[dict] = []
    in_order = recipe.pseudo_label.packing == "sequential"

    def on_window(audio: LongAudio, start: float, seconds: float, labelled: Labelled) -> None:
        whole, before = by_id[audio.name], found[audio.name]
        piece = whole.pieces[0]
        piece = replace(piece, offset=round(piece.offset + start, 6), duration=round(seconds, 6))
        window = Window(f"{whole.id}.{len(before):05d}", (piece,), whole.speaker, whole.language,
                        before[-1][0].id if before and in_order else None)
        before.append((window, labelled))

    def on_finished(audio: LongAudio, _: list, error: AudioError | None) -> None:
        if error is not None:
            found[audio.name] = []
            drops.append(drop_row(audio.name, by_id[audio.name].pieces[0].id, error))

    backend.label_recordings(list(map(recording_of, recordings)), on_window, on_finished)
    return [pair for pairs in found.values() for pair in pairs], drops
