"""Scores of tags as they are kept: the top k of a view, in two bytes or three for each.

    columns = encode_scores(probabilities, disagreement, k=20, values="uint8")
    probabilities = decode_scores(columns, num_classes=527, fill="tail_mean")

`uint8` values are steps of 0.07 of the logit: a probability is off by 0.009 at most, which costs a
student 2e-4 nats of cross-entropy at most. What is left outside the top k is kept as its mean.
"""

from __future__ import annotations

import numpy as np

STEP = 0.07  # of the logit
MAX_DISAGREEMENT = 0.5  # of probabilities, as a standard deviation: 254
UNREADABLE = 255  # instead of a disagreement: audio that cannot be read; no student learns from it
READABLE = "readable_by_now"  # of UNREADABLE views that a passing fault made so
_MIDDLE = 127.5  # codes 1 to 254 are logits from -8.9 to 8.9; 0 and 255 are 0 and 1
_DECODED = 1 / (1 + np.exp(-STEP * (np.arange(256) - _MIDDLE)))
_DECODED[[0, 255]] = 0.0, 1.0
_DECODED = _DECODED.astype(np.float32)

Columns = dict[str, np.ndarray]


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """uint8 codes of probabilities."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        logit = np.log(p) - np.log1p(-p)
    return np.clip(np.rint(logit / STEP + _MIDDLE), 0, 255).astype(np.uint8)


def encode_scores(
    probabilities: np.ndarray, disagreement: np.ndarray, k: int, values: str,
    frames: np.ndarray | None = None,
) -> Columns:
    """Columns of a store, a row per view.

    Args:
        probabilities: (views, classes).
        disagreement: (views, classes), standard deviation of the members' probabilities.
        k: classes kept; with fewer classes, all of them.
        frames: (views, steps, classes) probabilities; kept for the same classes.

    Raises:
        ValueError: what is no probability: logits, or numbers that are not finite.
    """
    p = np.asarray(probabilities, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"teachers must give probabilities in [0, 1], got {np.nanmin(p):g} to {np.nanmax(p):g}"
            + ("" if np.isfinite(p).all() else " and values that are not finite")
            + "; say `activation: sigmoid` for a member that gives logits"
        )
    num_classes = p.shape[1]
    order = _by_probability(p)
    top, rest = order[:, :k], order[:, k:]
    kept = np.take_along_axis(p, top, axis=1)
    tail = np.take_along_axis(p, rest, axis=1)
    spread = mean_of_top(disagreement, p, k)
    columns = {} if frames is None else {
        "frames": quantise(np.take_along_axis(frames, top[:, None], axis=2))}
    return columns | {
        "indices": top.astype(np.uint8 if num_classes <= 256 else np.uint16),
        "values": quantise(kept) if values == "uint8" else kept.astype(np.float16),
        "tail_mean": (tail.sum(axis=1) / max(tail.shape[1], 1)).astype(np.float16),
        "disagreement": np.rint(spread / MAX_DISAGREEMENT * 254).astype(np.uint8),
    }


def _by_probability(probabilities: np.ndarray) -> np.ndarray:
    """(views, classes) classes, the likeliest first; of equal ones the first."""
    return np.argsort(-probabilities, axis=1, kind="stable")


def mean_of_top(values: np.ndarray, probabilities: np.ndarray, k: int) -> np.ndarray:
    """(views,) mean of some values (views, classes) over the k likeliest classes."""
    return np.take_along_axis(values, _by_probability(probabilities)[:, :k], axis=1).mean(axis=1)


def decode_scores(columns: Columns, num_classes: int, fill: str) -> np.ndarray:
    """float32 (views, classes); classes outside the top k as `loss.fill` says."""
    values = columns["values"]
    kept = _DECODED[values] if values.dtype == np.uint8 else values.astype(np.float32)
    result = np.zeros((len(values), num_classes), np.float32)
    if fill == "tail_mean":
        result += columns["tail_mean"].astype(np.float32)[:, None]
    np.put_along_axis(result, columns["indices"].astype(np.int64), kept, axis=1)
    return result


def decode_frames(columns: Columns, num_classes: int) -> np.ndarray:
    """float32 (views, steps, classes); 0 for classes outside the top k."""
    kept = _DECODED[columns["frames"]]
    result = np.zeros((*kept.shape[:2], num_classes), np.float32)
    np.put_along_axis(result, columns["indices"].astype(np.int64)[:, None], kept, axis=2)
    return result


def confidence(columns: Columns) -> np.ndarray:
    """float32 (views,): 1 where all members say the same, 0 where half say yes and half no."""
    return 1 - np.minimum(columns["disagreement"], 254).astype(np.float32) / 254
