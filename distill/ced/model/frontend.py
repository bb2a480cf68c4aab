"""Log-mel features of audio taggers: 16 kHz, 64 HTK bands, 10 ms hop, dB.

    features = log_mel(torch.from_numpy(samples))        # (64, 1 + samples // 160)

Power of a 512-sample periodic Hann window every 160 samples, reflected at both ends; triangular
filters from 0 to 8 kHz; 10 log10 with a floor of 1e-10, and of 120 dB below the loudest cell of the
clip. These are CED's features (arXiv:2308.11957), one clip at a time, so that a clip's floor is its
own. There is no mean and variance here: the model's batch-norm has one pair for each band.

Made of operations that work element by element or row by row, so that a clip gives the same bits in
a worker, with any number of threads, and whatever else is computed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000  # Hz
NUM_BANDS = 64
WINDOW, HOP = 512, 160  # samples
PATCH = 16  # frames and bands of a patch of the model
MIN_SAMPLES = (PATCH - 1) * HOP  # 0.15 s: shorter audio is followed by silence
FLOOR, TOP_DB = 1e-10, 120.0  # power; dB
_BLOCK = 4096  # frames at once: an hour of windows would take 0.7 GB


def num_frames(num_samples: int) -> int:
    """Frames of `log_mel`."""
    return 1 + max(num_samples, MIN_SAMPLES) // HOP


def log_mel(audio: Tensor) -> Tensor:
    """Features of one clip of any length.

    Args:
        audio: (samples,) at 16 kHz, full scale is 1; on the CPU.

    Returns:
        float32 (64, frames) in dB.

    Raises:
        ValueError: not one channel, or no samples, or some that are not finite.
    """
    if audio.ndim != 1:
        raise ValueError(f"log_mel takes one channel of one clip, (samples,), got "
                         f"{tuple(audio.shape)}: average the channels, take clips one by one")
    if len(audio) == 0:
        raise ValueError("log_mel: no samples")
    samples = audio.detach().numpy().astype(np.float32, copy=False)
    samples = np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
    samples = np.pad(samples, WINDOW // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    features = np.empty((NUM_BANDS, len(windows)), np.float32)
    for start in range(0, len(windows), _BLOCK):
        features[:, start : start + _BLOCK] = _band_powers(windows[start : start + _BLOCK])
    if not np.isfinite(features).all():
        raise ValueError("log_mel: NaN or infinite samples")
    features = 10.0 * np.log10(np.maximum(features, np.float32(FLOOR)))
    return torch.from_numpy(np.maximum(features, features.max() - np.float32(TOP_DB)))


def _band_powers(windows: np.ndarray) -> np.ndarray:
    """(frames, 512) -> (64, frames), linear."""
    # torch's memory begins at a multiple of 64 bytes, numpy's does not: kernels may depend on it
    windowed = torch.empty(windows.shape)
    np.multiply(windows, hann_window(), out=windowed.numpy())
    # MKL: 11 times faster than numpy's, and each row the same bits in any company (tested)
    spectrum = torch.fft.rfft(windowed).numpy()
    power = np.ascontiguousarray((spectrum.real**2 + spectrum.imag**2).T)
    bins, weights, starts = _filters()
    # a matrix product would add in an order that depends on threads and shapes
    return np.add.reduceat(power[bins] * weights[:, None], starts, axis=0)


@cache
def hann_window() -> np.ndarray:
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # periodic


@cache
def mel_filters() -> np.ndarray:
    """float64 (64, 257): triangles of height 1 between equally spaced points of the HTK scale."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), NUM_BANDS + 2)
    points = 700 * (10 ** (mels / 2595) - 1)
    distance = points[:, None] - frequencies[None]  # (66, 257)
    width = np.diff(points)[:, None]
    rising, falling = -distance[:-2] / width[:-1], distance[2:] / width[1:]
    return np.maximum(0, np.minimum(rising, falling))


@cache
def _filters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cells of `mel_filters` that are not 0: bins, weights, where each band begins."""
    filters = mel_filters()
    cells = [np.flatnonzero(row) for row in filters]
    assert all(len(bins) for bins in cells)  # else reduceat would take the next band's
    weights = np.concatenate([row[bins] for row, bins in zip(filters, cells, strict=True)])
    starts = np.cumsum([0, *(len(bins) for bins in cells[:-1])])
    return np.concatenate(cells), weights.astype(np.float32), starts
