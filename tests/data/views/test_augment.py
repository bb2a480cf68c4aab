"""Drawn from (seed, clip, epoch) alone; what is written down is exactly what is done."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from distill.data.noise.mixing import active_power
from distill.data.views.augment import (
    NOISES,
    Augmentation,
    AugmentConfig,
    augment_audio,
    check_augment,
    draw_augmentation,
    make_noise,
    mask_features,
)

KEYS = [f"train-0-{index:06d}" for index in range(2000)]
CONFIG = AugmentConfig(
    probability=1.0, noise_probability=1.0, num_time_masks=2, num_frequency_masks=2
)
PLAIN = Augmentation(0.0, None, None, 0, (), ())
NOISY = Augmentation(-3.5, "pink", 12.25, 1234567890123456789, (), ())


def speech(num_samples: int = 16_000) -> np.ndarray:
    """Float32, loud and quiet in turn."""
    time = np.arange(num_samples) / 16_000
    return (0.4 * np.sin(2 * np.pi * 220 * time) * (np.sin(5 * time) > 0)).astype(np.float32)


def decibels(wave: np.ndarray) -> float:
    return 10 * math.log10(np.mean(np.square(wave, dtype=np.float64)))


# Drawing


def test_draws_are_known_values():
    """They stand for runs: no library version may change them."""
    assert draw_augmentation(5, "train-0-000003", 2, CONFIG) == Augmentation(
        gain_db=-1.3336,
        noise="brown",
        snr_db=11.7946,
        noise_key=2758309379122831596,
        time_masks=((2710, 4), (1801, 0)),
        frequency_masks=((52, 0), (42, 0)),
    )


def test_draws_depend_on_seed_key_and_epoch():
    drawn = {
        draw_augmentation(seed, key, epoch, CONFIG)
        for seed in (0, 1) for key in KEYS[:20] for epoch in (0, 1)
    }
    assert len(drawn) == 2 * 20 * 2


def test_a_setting_leaves_the_other_draws():
    base = draw_augmentation(0, KEYS[0], 0, CONFIG)
    changes = {
        "gain_db": ([1.0, 2.0], {"gain_db"}),
        "noise": (["white"], {"noise"}),
        "noise_probability": (0.0, {"noise", "snr_db", "noise_key"}),
        "snr_db": ([50.0, 60.0], {"snr_db"}),
        "num_time_masks": (0, {"time_masks"}),
        "time_mask_frames": (3000, {"time_masks"}),
        "num_frequency_masks": (5, {"frequency_masks"}),
        "frequency_mask_bands": (80, {"frequency_masks"}),
    }
    for key, (value, expected) in changes.items():
        other = draw_augmentation(0, KEYS[0], 0, replace(CONFIG, **{key: value}))
        fields = Augmentation.__dataclass_fields__
        assert {f for f in fields if getattr(other, f) != getattr(base, f)} <= expected, key
    more = draw_augmentation(0, KEYS[0], 0, replace(CONFIG, num_frequency_masks=5))
    assert more.frequency_masks[:2] == base.frequency_masks


def test_probabilities():
    config = replace(CONFIG, probability=0.3, noise_probability=0.6)
    drawn = [draw_augmentation(0, key, 0, config) for key in KEYS]
    augmented = [a for a in drawn if a]
    # 4 standard deviations of binomials
    assert len(augmented) / len(KEYS) == pytest.approx(0.3, abs=0.041)
    noisy = [a for a in augmented if a.noise]
    assert len(noisy) / len(augmented) == pytest.approx(0.6, abs=0.08)
    for kind in NOISES:
        assert np.mean([a.noise == kind for a in noisy]) == pytest.approx(1 / 3, abs=0.1)
    # who is augmented with a smaller probability is so with a larger one
    fewer = [draw_augmentation(0, key, 0, replace(config, probability=0.1)) for key in KEYS]
    assert all(a == b for a, b in zip(fewer, drawn, strict=True) if a)


def test_ranges():
    drawn = [draw_augmentation(0, key, 0, CONFIG) for key in KEYS]
    for name, low, high in (("gain_db", -6, 6), ("snr_db", 5, 30)):
        values = np.array([getattr(a, name) for a in drawn])
        assert low <= values.min() < low + 0.2 and high - 0.2 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.7)
        assert np.array_equal(values, values.round(4))
    assert all(type(a.gain_db) is float and type(a.noise_key) is int for a in drawn)
    assert len({a.noise_key for a in drawn}) == len(drawn)
    assert max(a.noise_key for a in drawn) > 2**63  # all 64 bits


def test_never_and_no_noise():
    assert not any(draw_augmentation(0, key, 0, AugmentConfig()) for key in KEYS[:100])
    silent = draw_augmentation(0, KEYS[0], 0, replace(CONFIG, noise=[]))
    assert (silent.noise, silent.snr_db, silent.noise_key) == (None, None, 0)


@pytest.mark.parametrize(("num_frames", "num_bands"), [(3000, 80), (100, 128), (20, 5), (1, 1)])
def test_masks_lie_inside(num_frames, num_bands):
    drawn = [draw_augmentation(0, k, 0, CONFIG, num_frames, num_bands) for k in KEYS[:500]]
    for name, longest, size in (
        ("time_masks", CONFIG.time_mask_frames, num_frames),
        ("frequency_masks", CONFIG.frequency_mask_bands, num_bands),
    ):
        masks = np.array([mask for a in drawn for mask in getattr(a, name)])
        first, length = masks.T
        assert first.min() >= 0 and 0.98 * size <= (first + length).max() <= size
        assert set(length) == set(range(min(longest, size) + 1))


def test_masks_are_independent():
    """CED's public code places masks of time and of frequency by the same two numbers."""
    one = replace(CONFIG, num_time_masks=1, num_frequency_masks=1)
    drawn = [draw_augmentation(0, key, 0, one) for key in KEYS]
    rows = [[*a.time_masks[0], *a.frequency_masks[0], a.gain_db, a.snr_db] for a in drawn]
    correlations = np.corrcoef(np.array(rows).T) - np.eye(6)
    # within a mask they are not: a wide one has fewer places to start
    correlations[0, 1] = correlations[1, 0] = correlations[2, 3] = correlations[3, 2] = 0
    assert np.abs(correlations).max() < 4 / math.sqrt(len(KEYS))


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": 1.5}, "views.augment.probability must be in [0, 1], got 1.5"),
        ({"probability": math.nan}, "views.augment.probability must be"),
        ({"noise_probability": -0.1}, "views.augment.noise_probability must be in [0, 1]"),
        ({"gain_db": [3.0]}, "views.augment.gain_db must be two numbers, [lowest, highest]"),
        ({"snr_db": [30.0, 5.0]}, "views.augment.snr_db must be two numbers"),
        ({"snr_db": [0.0, math.inf]}, "views.augment.snr_db must be two numbers"),
        ({"noise": ["violet"]}, "views.augment.noise must be a list of white, pink, brown, babble"),
        ({"noise": ["recordings"]}, "recordings must be manifests or folders, got []"),
        ({"recordings": ["a"]}, "recordings must be [] unless views.augment.noise has recordings"),
        ({"num_time_masks": -1}, "views.augment.num_time_masks must be >= 0, got -1"),
        ({"frequency_mask_bands": 0}, "views.augment.frequency_mask_bands must be > 0, got 0"),
    ],
)
def test_settings_that_cannot_be_drawn_from(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_augment(replace(AugmentConfig(), **change))


def test_settings_from_yaml():
    check_augment(AugmentConfig())
    text = "{probability: 0.5, gain_db: [-3, 3], noise: [pink], num_time_masks: 2}"
    merged = OmegaConf.merge(OmegaConf.structured(AugmentConfig), OmegaConf.create(text))
    config = OmegaConf.to_object(merged)
    check_augment(config)
    assert config == AugmentConfig(0.5, [-3.0, 3.0], ["pink"], num_time_masks=2)


# Audio


@pytest.mark.parametrize("gain_db", [-6.0, -0.1234, 0.0, 6.0])
def test_gain(gain_db):
    audio = speech()
    louder = augment_audio(audio, replace(PLAIN, gain_db=gain_db))
    assert louder.dtype == np.float32
    np.testing.assert_allclose(louder, audio * 10 ** (gain_db / 20), rtol=1e-6)
    assert decibels(louder) - decibels(audio) == pytest.approx(gain_db, abs=1e-5)


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("snr_db", [-5.0, 5.0, 30.0])
def test_snr(kind, snr_db):
    audio = speech(16_001)
    before = audio.copy()
    augmentation = replace(NOISY, noise=kind, snr_db=snr_db)
    gained = augment_audio(audio, replace(PLAIN, gain_db=augmentation.gain_db))
    noisy = augment_audio(audio, augmentation)
    assert noisy.dtype == np.float32 and noisy.shape == audio.shape
    level = 10 * math.log10(active_power(gained))  # a third of speech() is silent
    assert level - decibels(noisy - gained) == pytest.approx(snr_db, abs=0.1)
    assert level - decibels(gained) == pytest.approx(1.94, abs=0.01)
    assert np.array_equal(audio, before)


def test_nothing_is_clipped():
    loud = augment_audio(np.ones(100, dtype=np.float32), replace(PLAIN, gain_db=6.0))
    assert loud.min() == loud.max() == pytest.approx(1.9953, abs=1e-4)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
@pytest.mark.parametrize("kind", NOISES)
def test_silence_stays_silent(kind, size):
    silence = np.zeros(size, dtype=np.float32)
    assert np.array_equal(augment_audio(silence, replace(NOISY, noise=kind)), silence)


@pytest.mark.parametrize("kind", NOISES)
def test_a_few_samples(kind):
    noisy = augment_audio(np.ones(3, dtype=np.float32), replace(NOISY, noise=kind))
    assert np.isfinite(noisy).all()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("white", [-0.9664487316, 2.3842232035, -0.366180984, -1.9118075801, -0.2391697891]),
        ("pink", [-0.0524467278, 0.1528332665, -0.0006531641, -0.1754007465, -0.0327085124]),
        ("brown", [-0.0016947558, 0.0104770373, 0.0006963148, 0.0035566115, -0.0015132744]),
    ],
)
def test_noise_is_known_values(kind, expected):
    """A teacher heard it: it must be the same years later."""
    noise = make_noise(kind, 2**63 + 12345, 1001)[[0, 1, 2, 500, 1000]]
    np.testing.assert_allclose(noise, expected, rtol=0, atol=1e-9)


def test_noise_is_gaussian():
    noise = make_noise("white", 7, 200_001)
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(noise) < 1) == pytest.approx(0.6827, abs=0.005)
    assert abs(np.corrcoef(noise[::2][:100_000], noise[1::2])[0, 1]) < 0.013  # a pair's halves


@pytest.mark.parametrize(
    ("kind", "per_octave"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)]
)
def test_colours(kind, per_octave):
    """Power density falls by so many decibels an octave; coloured noise has none below 20 Hz."""
    power = np.abs(np.fft.rfft(make_noise(kind, 7, 160_000))) ** 2  # bins of 0.1 Hz
    ends = 200 * 2 ** np.arange(9)  # 20 Hz, 40 Hz, ... 5120 Hz
    octaves = [10 * math.log10(power[a:b].mean()) for a, b in zip(ends, ends[1:], strict=False)]
    assert np.diff(octaves[1:]).mean() == pytest.approx(per_octave, abs=0.3)
    assert (power[:200].max() < 1e-9) == (kind != "white")


# Features


def test_masks_hold_the_mean():
    features = np.random.default_rng(0).normal(0.2, 0.5, (80, 3000)).astype(np.float32)
    before = features.copy()
    masks = replace(PLAIN, time_masks=((0, 3), (2990, 10)), frequency_masks=((5, 2), (70, 0)))
    masked = mask_features(features, masks)
    where = np.zeros((80, 3000), dtype=bool)
    where[:, :3] = where[:, 2990:] = where[5:7] = True
    assert masked.dtype == np.float32 and np.array_equal(features, before)
    assert np.array_equal(masked[~where], features[~where])
    np.testing.assert_allclose(masked[where], features.mean(), rtol=1e-5)


def test_no_masks():
    features = np.ones((80, 30), dtype=np.float32)
    masked = mask_features(features, PLAIN)
    assert np.array_equal(masked, features) and masked is not features
