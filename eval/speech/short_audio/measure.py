"""Every margin beside the padded model, on the same clips, and the one that is chosen."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from distill.data.speech.windows import is_long
from distill.metrics.error_rates import error_counts, total
from distill.metrics.normalize import error_unit, normalizer
from distill.whisper.data.corpus import evaluation_utterances, load_clips
from distill.whisper.recognition.loading import load
from eval.machine import this_machine
from eval.speech.short_audio.compare import compare
from eval.speech.short_audio.noise import Noise
from eval.speech.short_audio.transcripts import Clip, Kept, Transcriber, key_of


def measure(
    name: str, manifest: str, language: str | None, margins: tuple[float, ...],
    batch_size: int = 8, *, with_segments: bool = False, noise: Noise | None = None, kept: Path,
) -> dict:
    """All rows of the table, and the margin that is chosen.

    Args:
        with_segments: times of segments are compared, too, which are decoded once more.
        noise: mixed under all clips.
        kept: folder of transcripts that earlier calls made, and of those of this one.

    Returns:
        `padded` and `margins` (see `eval.speech.short_audio.compare`), `chosen` (seconds or None),
        `num_clips`, `num_words`, `left_out` (counts by reason), `model`, `manifest`, `noise` and
        `machine`.

    Raises:
        ValueError: no such model or manifest, or no clip of it can be used.
        AudioError: a clip cannot be read.
    """
    if noise is not None:
        noise.check()
    clips, left_out = clips_of(manifest, language)
    model, processor = load(name)
    known = Kept(kept, key_of(model, clips, batch_size, with_segments, noise))
    ways = Transcriber(model, processor, batch_size, with_segments, noise, known)
    padded = ways.transcribe(clips, None)
    rows = [compare(clips, padded, ways.transcribe(clips, margin), margin) for margin in margins]
    chosen = next((row["margin_seconds"] for row in rows if not row["reasons"]), None)
    words = total(error_counts(clip.reference, "", clip.unit) for clip in clips).num_reference
    return {"model": name, "manifest": manifest, "num_clips": len(clips), "num_words": words,
            "left_out": left_out, "noise": None if noise is None else asdict(noise),
            "machine": this_machine(), "chosen": chosen,
            "padded": compare(clips, padded, padded, None), "margins": rows}


def clips_of(manifest: str, language: str | None) -> tuple[list, dict[str, int]]:
    """Clips of up to 30 s that have a text; and how many were left out, by reason.

    Args:
        language: of all clips; None takes the manifest's.

    Raises:
        ValueError: no such manifest, or nothing in it can be used.
    """
    rows, drops = load_clips([manifest])
    short = [row if language is None else replace(row, language=language)
             for row in rows if not is_long(row)]
    drops["longer_than_30_s"] = len(rows) - len(short)
    utterances, more = evaluation_utterances(short, "clip", packed=False)
    clips = []
    for each in utterances:
        (window,) = each.windows
        unit = error_unit(window.language, each.reference)
        clean = normalizer("auto", window.language, unit)
        clips.append(Clip(window, clean(each.reference), clean, unit))
    drops["no_words"] = sum(not clip.reference for clip in clips)
    clips = [clip for clip in clips if clip.reference]
    if not clips:
        raise ValueError(f"{manifest}: no clip of at most 30 s has a text")
    return clips, dict(+(drops + more))
