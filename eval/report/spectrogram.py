"""A clip as a picture: its log-mel spectrogram with what a tagger says every 160 ms under it."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

from distill.html.charts import svg

_LEFT, _WIDTH, _PICTURE, _ROW = 122, 232, 96, 17  # SVG units
_SHADES = np.array([  # dark to light, so that loud is light on any background
    (12, 8, 38), (63, 15, 114), (134, 38, 107), (204, 71, 77), (247, 137, 48), (252, 245, 170),
], dtype=np.float64)  # fmt: skip


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 (height, width, 3)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body)
            + chunk(b"IEND", b""))


def shade(features: np.ndarray, range_db: float = 70.0) -> np.ndarray:
    """Features (bands, frames) in dB -> uint8 (bands, frames, 3), high bands on top."""
    level = np.clip((features - features.max()) / range_db + 1, 0, 1)[::-1]
    place = level * (len(_SHADES) - 1)
    low = np.minimum(place.astype(int), len(_SHADES) - 2)
    share = (place - low)[..., None]
    return np.round(_SHADES[low] * (1 - share) + _SHADES[low + 1] * share).astype(np.uint8)


def tagged_spectrogram(
    title: str, features: np.ndarray, frames: np.ndarray, classes: Sequence[str],
    true: Sequence[str], seconds_per_frame: float = 0.16,
) -> str:
    """SVG of a spectrogram and a strip per class, stronger where it is more likely.

    Args:
        features: (bands, frames of 10 ms), dB.
        frames: (steps, classes) probabilities.
        classes: which of them are shown, by name, in order; as many as columns of `frames`.
        true: those the clip really has.
    """
    seconds = features.shape[1] / 100
    picture = base64.b64encode(png(shade(features))).decode("ascii")
    parts = [f'<image x="{_LEFT}" y="0" width="{_WIDTH}" height="{_PICTURE}" '
             f'preserveAspectRatio="none" href="data:image/png;base64,{picture}"/>']
    step = _WIDTH * seconds_per_frame / seconds
    for row, name in enumerate(classes):
        y = _PICTURE + 8 + row * _ROW
        mark, style = ("● ", " strong") if name in true else ("", "")
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 12}" class="end{style}">'
                     f'{mark}{escape(name)}</text>')
        parts.append(f'<rect class="axis" fill="none" x="{_LEFT}" y="{y}" width="{_WIDTH}" '
                     'height="14"/>')
        for number, probability in enumerate(frames[:, row]):
            if probability < 0.02:
                continue
            x = _LEFT + number * step
            width = min(step, _LEFT + _WIDTH - x)
            if width > 0:
                parts.append(f'<rect class="bar bar-student" x="{x:.1f}" y="{y}" height="14" '
                             f'width="{width:.1f}" opacity="{probability:.2f}"/>')
    bottom = _PICTURE + 8 + _ROW * len(classes)
    for tick in range(int(seconds) + 1):
        x = _LEFT + _WIDTH * tick / seconds
        style = "start" if tick == 0 else "end" if x > _LEFT + _WIDTH - 8 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" class="{style}">{tick} s</text>')
    description = "; ".join(f"{name}: at most {frames[:, n].max():.0%}"
                            for n, name in enumerate(classes))
    return svg("".join(parts), title, description, height=bottom + 22)
