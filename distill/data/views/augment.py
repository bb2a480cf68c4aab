"""Augmentation as a part of a view: drawn without looking at the audio, written down, applied.

    augmentation = draw_augmentation(seed=0, key="train-0-000017", epoch=3, config)
    audio = augment_audio(audio, augmentation)
    features = mask_features(log_mel(audio), augmentation)

Gain and noise on the waveform, SpecAugment (arXiv:1904.08779) on the features. Teacher and student
get the same result, on any machine: an `Augmentation` holds every number that matters, and noise is
made of the raw bits of Philox (Salmon et al., SC 2011), which no numpy release may change, rather
than of `numpy.random.Generator`'s methods, which it may. Noise that is made of recordings
(`distill.data.noise.training`) depends on them, too: their hash is a part of what was drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill.data.audio import SAMPLE_RATE
from distill.data.noise.mixing import mix

NOISES = {"white": 0.0, "pink": 1.0, "brown": 2.0}  # power falls with frequency to the power of
RECORDED = ("babble", "recordings")  # noises that are made of recordings
LOWEST_HZ = 20.0  # below, coloured noise has no power: half of it would be inaudible
DECIMALS = 4  # of drawn decibels


@dataclass
class AugmentConfig:
    """How views are augmented; the `views.augment` section of recipes."""

    probability: float = 0.0  # share of views that are augmented at all; 0: none
    gain_db: list[float] = field(default_factory=lambda: [-6.0, 6.0])  # range of the gain in dB,
    # uniform
    noise: list[str] = field(default_factory=lambda: ["white", "pink", "brown"])  # kinds of noise,
    # of which one is drawn; []: no noise. white | pink | brown: Gaussian | babble: six
    # training clips at a time | recordings: some of `recordings`, one after the other
    recordings: list[str] = field(default_factory=list)  # of noise: manifests, or folders of audio,
    # relative to the recipe's folder. What the robustness test mixes is refused
    noise_probability: float = 0.5  # share of augmented views that get noise
    snr_db: list[float] = field(default_factory=lambda: [5.0, 30.0])  # range of the signal-to-noise
    # ratio in dB, uniform; of speech without its pauses
    num_time_masks: int = 0  # masks over time, each of up to time_mask_frames
    time_mask_frames: int = 50  # longest mask over time, in frames of 10 ms
    num_frequency_masks: int = 0  # masks over frequency, each of up to frequency_mask_bands
    frequency_mask_bands: int = 12  # widest mask over frequency, in mel bands


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for one view.

    Attributes:
        gain_db: of the speech.
        noise: a key of NOISES, one of RECORDED, or None.
        snr_db: power of the speech, after its gain and without its pauses, over that of the noise
            (`distill.data.noise.mixing`); None without noise.
        noise_key: 64-bit key of the Philox stream that the noise is made of; 0 without noise.
        time_masks: (first frame, frames) of each; may be empty or overlap.
        frequency_masks: (first band, bands) of each.
        recordings: hash of those that the noise is made of; "" of other noises.
    """

    gain_db: float
    noise: str | None
    snr_db: float | None
    noise_key: int
    time_masks: tuple[tuple[int, int], ...]
    frequency_masks: tuple[tuple[int, int], ...]
    recordings: str = ""


def check_augment(config: AugmentConfig) -> None:
    """Raise a ValueError that names the key for values nothing can be drawn from."""

    def check(condition: bool, key: str, expected: str) -> None:
        if not condition:
            got = getattr(config, key)
            raise ValueError(f"views.augment.{key} must be {expected}, got {got!r}")

    for key in ("probability", "noise_probability"):
        check(0 <= getattr(config, key) <= 1, key, "in [0, 1]")
    for key in ("gain_db", "snr_db"):
        ends = getattr(config, key)
        ok = len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] <= ends[1]
        check(ok, key, "two numbers, [lowest, highest]")
    known = (*NOISES, *RECORDED)
    check(set(config.noise) <= set(known), "noise", f"a list of {', '.join(known)}, or []")
    asked = "recordings" in config.noise
    what = "manifests or folders" if asked else "[] unless views.augment.noise has recordings"
    check(bool(config.recordings) == asked, "recordings", what)
    for key in ("num_time_masks", "num_frequency_masks"):
        check(getattr(config, key) >= 0, key, ">= 0")
    for key in ("time_mask_frames", "frequency_mask_bands"):
        check(getattr(config, key) > 0, key, "> 0")


# Drawing


def philox(seed: int, key: str, counter: int) -> np.random.Philox:
    """Random bits that depend on (seed, key, counter) alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    words = np.array([seed, int.from_bytes(digest, "little")], dtype=np.uint64)
    # The stream advances the low words of the counter; ours lives in the highest one.
    start = np.array([0, 0, 0, counter], dtype=np.uint64)
    return np.random.Philox(key=words, counter=start)


def uniforms(bits: np.random.Philox, size: int) -> np.ndarray:
    """`size` float64 numbers, uniform in [0, 1), of 53 bits each."""
    return (bits.random_raw(size) >> np.uint64(11)) * 2.0**-53


def draw_augmentation(
    seed: int,
    key: str,
    epoch: int,
    config: AugmentConfig,
    num_frames: int = 3000,
    num_bands: int = 80,
) -> Augmentation | None:
    """The augmentation of a window in an epoch, or None for a view that has none.

    Each kind of thing has a stream, and each thing in it a fixed place, so that changing one
    setting leaves everything else as it was drawn. A mask more leaves the others, too.

    Args:
        num_frames: of 10 ms, where time masks may lie. Also short windows are drawn for with all
            3,000: a second of sound is masked as often in them as in full ones, and the draws do
            not depend on how the teacher hears the window.
        num_bands: of the features, where frequency masks may lie.
    """
    stream = philox(seed, f"{key}/augment", epoch)
    whether, gain, with_noise, which, snr = uniforms(stream, 5).tolist()
    noise_key = int(stream.random_raw())
    if whether >= config.probability:
        return None
    has_noise = bool(config.noise) and with_noise < config.noise_probability
    return Augmentation(
        gain_db=_between(config.gain_db, gain),
        noise=config.noise[int(which * len(config.noise))] if has_noise else None,
        snr_db=_between(config.snr_db, snr) if has_noise else None,
        noise_key=noise_key if has_noise else 0,
        # Not one draw for both kinds: masks of time and of frequency would lie on a diagonal.
        time_masks=draw_masks(
            philox(seed, f"{key}/augment/time", epoch),
            config.num_time_masks,
            config.time_mask_frames,
            num_frames,
        ),
        frequency_masks=draw_masks(
            philox(seed, f"{key}/augment/frequency", epoch),
            config.num_frequency_masks,
            config.frequency_mask_bands,
            num_bands,
        ),
    )


def _between(ends: Sequence[float], share: float) -> float:
    """Rounded before it is used, so that what is written down is short and still exact."""
    low, high = ends
    return round(low + share * (high - low), DECIMALS)


def draw_masks(
    bits: np.random.Philox, count: int, longest: int, size: int
) -> tuple[tuple[int, int], ...]:
    """SpecAugment sec. 2: a width in 0..longest, then a start that keeps it in 0..size."""
    masks = []
    for width, start in uniforms(bits, 2 * count).reshape(-1, 2).tolist():
        length = int(width * (min(longest, size) + 1))
        masks.append((int(start * (size - length + 1)), length))
    return tuple(masks)


# Applying


def augment_audio(
    audio: np.ndarray,
    augmentation: Augmentation,
    make: Callable[[str, int, int], np.ndarray] | None = None,
) -> np.ndarray:
    """Gain, then noise.

    Nothing is clipped: samples may leave [-1, 1]. Features are computed of floats, which need no
    clipping, and it would be a distortion that nobody drew, and make gain and SNR untrue.

    Args:
        audio: float32 (samples,) at 16 kHz; the speech alone, without padding. Left as it is.
        make: (kind, key, samples) -> noise (samples,), as `make_noise`, which it is by default and
            which knows none of RECORDED.

    Returns:
        float32 (samples,); empty or silent audio stays so.
    """
    gained = audio.astype(np.float32) * np.float32(10 ** (augmentation.gain_db / 20))
    if augmentation.noise is None or augmentation.snr_db is None or not gained.size:
        return gained
    noise = (make or make_noise)(augmentation.noise, augmentation.noise_key, gained.size)
    return mix(gained, noise, augmentation.snr_db)


def make_noise(kind: str, key: int, num_samples: int) -> np.ndarray:
    """Gaussian noise, float64 (num_samples,): white of variance 1, or shaped from that.

    Box-Muller rather than `Generator.normal`, for the sake of the bits (see the module). The other
    steps are libraries' logarithms and Fourier transforms: alike to rounding, not to the last bit.
    """
    bits = np.random.Philox(key=key)
    first, second = uniforms(bits, 2 * ((num_samples + 1) // 2)).reshape(-1, 2).T
    radius = np.sqrt(-2 * np.log1p(-first))  # 1 - first is in (0, 1]: its logarithm is finite
    angle = 2 * np.pi * second
    white = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
    white = white[:num_samples]
    if NOISES[kind] == 0:
        return white
    frequencies = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
    audible = frequencies >= LOWEST_HZ
    shape = np.zeros_like(frequencies)
    shape[audible] = (frequencies[audible] / LOWEST_HZ) ** (-NOISES[kind] / 2)
    return np.fft.irfft(np.fft.rfft(white) * shape, num_samples)


def mask_features(features: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """A copy of log-mel features whose masked cells hold the features' mean.

    The mean over the clip, as SpecAugment has it (its features are normalised to mean 0). Whisper's
    are not: 0 would be loud in a quiet clip, and their floor would say that there is silence where
    there are words. A value of the clip itself depends neither on the batch nor on its scale.

    Args:
        features: float (bands, frames of 10 ms).
    """
    masked = features.copy()
    if not augmentation.time_masks and not augmentation.frequency_masks:
        return masked
    mean = features.mean(dtype=np.float64)
    for first, frames in augmentation.time_masks:
        masked[:, first : first + frames] = mean
    for first, bands in augmentation.frequency_masks:
        masked[first : first + bands] = mean
    return masked
