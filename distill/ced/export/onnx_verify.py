"""Exported taggers, run by onnxruntime and sherpa-onnx, against the model itself.

    entries = verify(model, "my-tagger", waves, targets)

Both get the same waves at 16 kHz, one by one. sherpa-onnx makes its own features; it is run as it
is, and with 80 zeros before the sound, which is how it should be used
(`distill.ced.export.onnx_graph`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.ced.export.onnx_graph import FILES, LABELS_FILE
from distill.ced.model.frontend import HOP, SAMPLE_RATE, log_mel
from distill.ced.model.modeling import CedForAudioClassification
from distill.metrics.tagging import mean_average_precision
from distill.progress import progress

Run = Callable[[np.ndarray], np.ndarray]
HALF_HOP = HOP // 2


def onnxruntime_run(path: Path, threads: int = 1) -> Run:
    """wave (samples,) -> probabilities (classes,)"""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    if len(given.shape) == 2:
        return lambda wave: session.run(None, {given.name: wave[None]})[0][0]

    def run(wave: np.ndarray) -> np.ndarray:
        features = log_mel(torch.from_numpy(wave)).numpy()
        return session.run(None, {given.name: features[None]})[0][0]

    return run


def sherpa_run(path: Path, num_classes: int, zeros: int = 0, threads: int = 1) -> Run:
    """The same by sherpa-onnx, with its own features.

    Args:
        zeros: samples of silence before the sound.
    """
    import sherpa_onnx

    tagger = sherpa_onnx.AudioTagging(sherpa_onnx.AudioTaggingConfig(
        model=sherpa_onnx.AudioTaggingModelConfig(ced=str(path), num_threads=threads),
        labels=str(path.with_name(LABELS_FILE)), top_k=num_classes))

    def run(wave: np.ndarray) -> np.ndarray:
        stream = tagger.create_stream()
        stream.accept_waveform(SAMPLE_RATE, np.pad(wave, (zeros, 0)))
        found = np.zeros(num_classes, np.float32)
        for event in tagger.compute(stream):
            found[event.index] = event.prob
        return found

    return run


def runs_of(folder: Path, num_classes: int, threads: int) -> Iterator[tuple[str, str, Run]]:
    """(runtime, file, run) of every exported file in a folder."""
    for name in FILES:
        if (folder / name).is_file():
            yield "onnxruntime", name, onnxruntime_run(folder / name, threads)
            if name.startswith("model."):
                as_is = sherpa_run(folder / name, num_classes, 0, threads)
                yield "sherpa-onnx", name, as_is
                early = sherpa_run(folder / name, num_classes, HALF_HOP, threads)
                yield f"sherpa-onnx, {HALF_HOP} zeros before", name, early


@torch.no_grad()
def reference_scores(model: CedForAudioClassification, waves: Sequence[np.ndarray]) -> np.ndarray:
    """(clips, classes) by PyTorch, one by one."""
    is_softmax = model.config.problem_type == "single_label_classification"
    probabilities = []
    for wave in waves:
        logits = model.eval()(log_mel(torch.from_numpy(wave))[None]).logits[0]
        probabilities.append((logits.softmax(-1) if is_softmax else logits.sigmoid()).numpy())
    return np.stack(probabilities)


def verify(
    model: CedForAudioClassification, folder: str | Path, waves: Sequence[np.ndarray],
    targets: np.ndarray | None = None, pool: Run = np.asarray, threads: int = 1,
) -> list[dict[str, Any]]:
    """How far each exported file is from the model, in each runtime that it is for.

    Args:
        waves: float32 (samples,) at 16 kHz.
        targets: (recordings, classes), 0 or 1; None: there is no mAP then.
        pool: scores of clips -> scores of recordings; by default a clip is a recording.

    Returns:
        for each runtime and file: differences of probabilities (max, mean), share of clips with the
        same best class, mAP and what is lost of it, milliseconds a clip, bytes.
    """
    reference = reference_scores(model, waves)
    entries = []
    for runtime, name, run in runs_of(Path(folder), reference.shape[1], threads):
        run(waves[0])  # untimed: the first pays for kernels
        start, results = time.perf_counter(), []
        for wave in progress(waves, len(waves), f"{runtime}, {name}", "clips"):
            results.append(run(wave))
        took, scores = time.perf_counter() - start, np.stack(results)
        difference = np.abs(scores - reference)
        entry = {
            "runtime": runtime, "file": name, "bytes": (Path(folder) / name).stat().st_size,
            "num_clips": len(waves), "threads": threads, "ms_per_clip": 1000 * took / len(waves),
            "max_difference": float(difference.max()), "mean_difference": float(difference.mean()),
            "same_best_class": float((scores.argmax(1) == reference.argmax(1)).mean()),
        }
        if targets is not None:
            value, whole = (mean_average_precision(pool(each.astype(np.float64)), targets)[0]
                            for each in (scores, reference))
            entry |= {"mean_average_precision": value, "map_loss": whole - value}
        entries.append(entry)
    return entries
