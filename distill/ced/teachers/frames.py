"""When teachers hear a sound: probabilities for every 0.4 s of a view.

A clip's score says that a drum is in it; a small student with few clips learns faster where it is
told which part. Teachers of ours say it every 160 ms (CED) or 0.4 s (Whisper-AT); in a store it is
steps of 0.4 s. A head beside the student's own learns them from the means of its tokens, and is
thrown away with the training (a clip's logit of the mean is not a mean of steps' logits, so the
student's own head could not satisfy both).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from distill.data.audio import SAMPLE_RATE

STEP_SECONDS = 0.4
_STEP_SAMPLES = round(STEP_SECONDS * SAMPLE_RATE)


def num_steps(num_samples: int) -> int:
    """Steps of a clip: a last half one counts, less does not, as with Whisper-AT."""
    return max(1, (num_samples + _STEP_SAMPLES // 2) // _STEP_SAMPLES)


@lru_cache(maxsize=64)
def overlaps(count: int, seconds: float, steps: int) -> np.ndarray:
    """float32 (steps, count): which share of each step is in each of `count` frames."""
    edges = np.arange(count + 1) * seconds / STEP_SECONDS
    first, last = edges[:-1], edges[1:]
    begin = np.arange(steps)[:, None]
    shares = np.minimum(last, begin + 1) - np.maximum(first, begin)
    return np.maximum(shares, 0.0).astype(np.float32)


def to_steps(frames: np.ndarray, seconds: float, steps: int) -> np.ndarray:
    """Frames (frames, classes) of `seconds` each -> their means over each step (steps, classes).

    A step behind the last frame, of a model that leaves out more of a clip's end, is as that one.
    """
    weights = overlaps(len(frames), seconds, steps)
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights @ frames / np.where(total > 0, total, 1.0), frames[-1])


def pad_steps(clips: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(steps, classes) of each clip -> (clips, size, classes), zeros after the last step."""
    result = np.zeros((len(clips), size, clips[0].shape[1]), clips[0].dtype)
    for row, each in zip(result, clips, strict=True):
        row[: len(each)] = each
    return result
