"""What is done to a clip in an epoch: drawn by counters, written down in 19 bytes, applied.

    view = draw_view(config, seed, key="dog-17", epoch=3, index=17, num_clips=500, num_samples=n)
    wave = augment(load(17), view, load)             # of members with a front end of their own
    features = mask(log_mel(wave), view)             # CED-like members and the student see it
    packed = pack([view], view_type(config))         # unpack is the inverse

A draw is a function of seed, clip and epoch (Philox, see `distill.data.views.draws`). What is drawn
are small whole numbers, in the units below, so that what is written down is exact. CED draws one
number for both masks and cannot draw mixup again (arXiv:2308.11957 and its code); here each thing
has draws of its own, and another clip that is mixed in is a part of the view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distill.ced.recipe_sections import ViewConfig
from distill.data.audio import SAMPLE_RATE
from distill.data.views.augment import (
    LOWEST_HZ,
    NOISES,
    draw_masks,
    mask_features,
    philox,
    uniforms,
)

HOP, NUM_BANDS = 160, 64  # samples, mel bands of a frame
SHIFT_STEPS = 1 << 16  # of a clip's length
PARTNER_STEPS = 256  # ... of the sound that is mixed in
WEIGHT_STEPS = 256
GAIN_STEP_DB = 0.25
_SNR_OFFSET = 16  # dB: what is kept starts at -16
_KINDS = tuple(NOISES)
_FFT_MULTIPLE = 4096  # samples: a Fourier transform of a prime number of them would be slow
_MAX_MATCH = 10.0  # a whisper is made louder to be mixed in, silence is not made noise


@dataclass(frozen=True)
class TagView:
    """Everything that was drawn for a clip.

    Attributes:
        shift: circular, to later times; in 1/65536 of the clip.
        gain: in quarters of a decibel.
        noise: 0, or the kind's number from 1 on times 64, plus the SNR in dB plus 16.
        noise_key: 32-bit key of the noise's Philox stream.
        time_masks: (first frame, frames) of each.
        frequency_masks: (first band, bands) of each.
        partner: index of the clip that is mixed in.
        weight: of the partner in the mixture, in 1/256; 0: there is none.
        partner_shift: where it begins, in 1/256 of the longer of both.
    """

    shift: int = 0
    gain: int = 0
    noise: int = 0
    noise_key: int = 0
    time_masks: tuple[tuple[int, int], ...] = ()
    frequency_masks: tuple[tuple[int, int], ...] = ()
    partner: int = 0
    weight: int = 0
    partner_shift: int = 0

    @property
    def partner_weight(self) -> float:
        """Share of the partner in the mixture, 0 to 1."""
        return self.weight / WEIGHT_STEPS


def num_frames(num_samples: int) -> int:
    return 1 + num_samples // HOP


# Drawing


def draw_view(
    config: ViewConfig, seed: int, key: str, epoch: int, index: int, num_clips: int,
    num_samples: int,
) -> TagView:
    """The view of a clip in an epoch.

    Each thing has a stream of its own and each number in it a fixed place: changing one setting
    leaves everything else as it was drawn.

    Args:
        key: of the clip; unique.
        index: of the clip among the `num_clips` that may be mixed in.
    """
    shift = _draw_shift(config, philox(seed, f"{key}/shift", epoch))
    gain, noise, noise_key = _draw_level(config, philox(seed, f"{key}/level", epoch))
    frames = num_frames(num_samples)
    longest = min(config.time_mask_frames, frames // 2)
    partner = _draw_partner(config, philox(seed, f"{key}/mixup", epoch), index, num_clips)
    return TagView(
        shift, gain, noise, noise_key,
        draw_masks(philox(seed, f"{key}/time", epoch), config.time_masks, longest, frames),
        draw_masks(philox(seed, f"{key}/frequency", epoch), config.frequency_masks,
                   config.frequency_mask_bands, NUM_BANDS),
        *partner,
    )


def _draw_shift(config: ViewConfig, bits: np.random.Philox) -> int:
    whether, share = uniforms(bits, 2).tolist()
    if whether >= config.shift_probability:
        return 0
    return round((2 * share - 1) * config.shift * SHIFT_STEPS) % SHIFT_STEPS


def _draw_level(config: ViewConfig, bits: np.random.Philox) -> tuple[int, int, int]:
    """Gain, noise and the key of the noise."""
    level, whether, which, snr = uniforms(bits, 4).tolist()
    noise_key = int(bits.random_raw()) & 0xFFFFFFFF
    gain = round(_between(config.gain_db, level) / GAIN_STEP_DB)
    if not config.noise or whether >= config.noise_probability:
        return gain, 0, 0
    kind = 1 + _KINDS.index(config.noise[int(which * len(config.noise))])
    return gain, (kind << 6) + round(_between(config.snr_db, snr)) + _SNR_OFFSET, noise_key


def _draw_partner(
    config: ViewConfig, bits: np.random.Philox, index: int, num_clips: int
) -> tuple[int, int, int]:
    """Another clip, its weight, and where it begins."""
    whether, which, weight, shift = uniforms(bits, 4).tolist()
    if num_clips < 2 or whether >= config.mixup_probability:
        return 0, 0, 0
    partner = int(which * (num_clips - 1))
    weight = round(_between(config.mixup_weight, weight) * WEIGHT_STEPS)
    return partner + (partner >= index), weight, int(shift * PARTNER_STEPS)


def _between(ends: Sequence[float], share: float) -> float:
    low, high = ends
    return low + share * (high - low)


# Applying


def augment(
    sound: np.ndarray, view: TagView, load: Callable[[int], np.ndarray]
) -> np.ndarray:
    """The sound of a view: mixed, shifted, louder or softer, with noise.

    Args:
        sound: float32 (samples,) of the clip; left as it is.
        load: index of a clip -> its sound.

    Returns:
        float32 (samples,); may leave [-1, 1]: nothing is clipped.
    """
    if view.weight:
        sound = _mix(sound, load(view.partner), view)
    if view.shift:
        sound = np.roll(sound, view.shift * len(sound) // SHIFT_STEPS)
    if view.gain:
        sound = sound * np.float32(10 ** (view.gain * GAIN_STEP_DB / 20))
    return _add_noise(sound, view) if view.noise else sound


def _mix(sound: np.ndarray, partner: np.ndarray, view: TagView) -> np.ndarray:
    """As long as `sound`; a shorter partner comes once, of a longer one a part."""
    level, partner_level = _rms(sound), _rms(partner)
    match = min(level / partner_level, _MAX_MATCH) if level and partner_level else 1.0
    if len(partner) < len(sound):
        partner = np.pad(partner, (0, len(sound) - len(partner)))
    partner = np.roll(partner, view.partner_shift * len(partner) // PARTNER_STEPS)
    weight = view.partner_weight
    mixed = np.float32(1 - weight) * sound
    mixed += np.float32(weight * match) * partner[: len(sound)]
    return mixed


def _rms(sound: np.ndarray) -> float:
    return math.sqrt(np.mean(np.square(sound, dtype=np.float64)))


def _add_noise(sound: np.ndarray, view: TagView) -> np.ndarray:
    kind, snr = _KINDS[(view.noise >> 6) - 1], (view.noise & 63) - _SNR_OFFSET
    noise = make_noise(kind, view.noise_key, len(sound))
    return sound + np.float32(_rms(sound) / _rms(noise) / 10 ** (snr / 20)) * noise


def make_noise(kind: str, key: int, num_samples: int) -> np.ndarray:
    """Gaussian noise of any level, float32 (num_samples,): a spectrum of random bits, shaped.

    Several times faster than `distill.data.views.augment.make_noise`, which makes white noise
    first: replaying views may not hold a small student up.
    """
    size = -(-num_samples // _FFT_MULTIPLE) * _FFT_MULTIPLE
    bits = np.random.Philox(key=key).random_raw(size // 2 + 1)
    spectrum = bits.view(np.int32).astype(np.float32).view(np.complex64) * _shape(kind, size)
    return np.fft.irfft(spectrum, size)[:num_samples].astype(np.float32, copy=False)


@lru_cache(maxsize=64)
def _shape(kind: str, size: int) -> np.ndarray:
    """float32 (bins,): amplitudes of a kind of noise; coloured ones have none below 20 Hz."""
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    power = NOISES[kind]
    audible = frequencies >= LOWEST_HZ if power else frequencies > 0
    shape = np.zeros(len(frequencies), np.float32)
    shape[audible] = frequencies[audible] ** (-power / 2)
    return shape


def mask(features: np.ndarray, view: TagView) -> np.ndarray:
    """Features (bands, frames) whose masked cells hold the clip's mean; a copy."""
    return mask_features(features, view)


# Packing


def view_type(config: ViewConfig) -> np.dtype:
    """How a view is written down: only what these settings can draw takes room. Little-endian."""
    fields: list[tuple] = []
    if config.shift and config.shift_probability:
        fields += [("shift", "<u2")]
    if any(config.gain_db):
        fields += [("gain", "i1")]
    if config.noise_probability:
        fields += [("noise", "u1"), ("noise_key", "<u4")]
    if config.time_masks:
        fields += [("time_masks", [("first", "<u2"), ("size", "u1")], (config.time_masks,))]
    if config.frequency_masks:
        masks = [("first", "u1"), ("size", "u1")]
        fields += [("frequency_masks", masks, (config.frequency_masks,))]
    if config.mixup_probability:
        fields += [("partner", "<u4"), ("weight", "u1"), ("partner_shift", "u1")]
    return np.dtype(fields)


def pack(views: Sequence[TagView], dtype: np.dtype) -> np.ndarray:
    """uint8 (views, bytes)."""
    rows = np.zeros(len(views), dtype)
    for row, view in zip(rows, views, strict=True):
        for name in dtype.names or ():
            value = getattr(view, name)
            row[name] = list(value) if isinstance(value, tuple) else value
    return np.frombuffer(rows.tobytes(), np.uint8).reshape(len(views), dtype.itemsize)


def unpack(packed: np.ndarray, dtype: np.dtype) -> list[TagView]:
    """The views that were packed."""
    names = dtype.names or ()
    if not names:
        return [TagView() for _ in packed]
    rows = np.frombuffer(np.ascontiguousarray(packed).tobytes(), dtype)
    return [
        TagView(**{name: tuple(value) if isinstance(value, list) else value
                   for name, value in zip(names, _plain(row), strict=True)})
        for row in rows
    ]


def _plain(row: np.void) -> list:
    """Numbers, and lists of (first, size)."""
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in row.item()]
