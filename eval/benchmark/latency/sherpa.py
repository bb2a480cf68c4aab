"""sherpa-onnx, which knows nothing of kept silence, by exports that do and exports that pad.

    ways = sherpa_ways(models, "int8")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SHERPA_PADDED, SHERPA_SHORT = "sherpa-onnx, padded", "sherpa-onnx, short"
SHERPA_STUDENT = "sherpa-onnx, student, short"


def sherpa_ways(models, dtype: str) -> dict[str, Callable[[Sequence[np.ndarray]], list[str]]]:
    """Of the teacher, and of a student that is trained. Clips of a batch one after the other, as
    sherpa-onnx decodes.

    Args:
        models: `eval.benchmark.latency.ways.Models`.
    """
    asked = [(SHERPA_PADDED, models.teacher, None), (SHERPA_SHORT, models.teacher, models.margin)]
    if models.is_trained:
        asked.append((SHERPA_STUDENT, models.student, models.margin))
    return {name: _way(models, model, margin, dtype) for name, model, margin in asked}


def _way(models, model, margin: float | None, dtype: str):
    from distill.whisper.encoder.lengths import set_margin
    from distill.whisper.export import runtimes, sherpa

    folder = TemporaryDirectory(prefix="latency-")  # gone with the way
    written = Path(folder.name)
    for name in ("float32", "int8"):
        (written / name).mkdir()
    set_margin(model, margin)
    sherpa.write_sherpa(model, models.processor.tokenizer, written / "float32",
                        model.generation_config.alignment_heads)
    if dtype == "int8":
        sherpa.quantise(written / "float32", written / "int8")
    runtime = runtimes.sherpa_onnx(written / dtype, dtype, "transcribe", threads=1)

    def way(audios: Sequence[np.ndarray], kept=folder) -> list[str]:
        return [runtime.transcribe(audio, models.language or "en") for audio in audios]

    return way
