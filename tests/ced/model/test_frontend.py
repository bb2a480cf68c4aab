"""Features: as published, the same bits in any company."""

import numpy as np
import pytest
import torch

from distill.ced.model.extractor import CedFeatureExtractor
from distill.ced.model.frontend import log_mel, mel_filters, num_frames
from tests.ced.conftest import wave


def reference(samples: np.ndarray) -> torch.Tensor:
    """What torchaudio's MelSpectrogram and AmplitudeToDB(top_db=120) make of one clip."""
    from transformers.audio_utils import mel_filter_bank

    filters = torch.from_numpy(mel_filter_bank(257, 64, 0, 8000, 16_000, None, "htk")).float()
    spectrum = torch.stft(torch.from_numpy(samples), 512, 160, 512, torch.hann_window(512),
                          center=True, pad_mode="reflect", return_complex=True)
    power = filters.T @ spectrum.abs() ** 2
    decibels = 10 * torch.log10(power.clamp(min=1e-10))
    return torch.maximum(decibels, decibels.max() - 120)


@pytest.mark.parametrize("seconds", [0.15, 0.1501, 1.0, 10.0])
def test_features_are_the_published_ones(seconds):
    samples = wave(seconds)
    features = log_mel(torch.from_numpy(samples))
    assert features.shape == (64, 1 + len(samples) // 160) == (64, num_frames(len(samples)))
    # float32 sums in another order; quiet cells beside loud ones move most
    assert torch.allclose(features, reference(samples), atol=2e-3)
    assert features.dtype == torch.float32


def test_filters_are_htk_triangles():
    filters = mel_filters()
    assert filters.shape == (64, 257) and (filters.sum(1) > 0).all()
    assert ((filters > 0).sum(0) <= 2).all()


def test_top_db_is_of_the_clip_not_of_the_batch():
    """One cutoff for a batch moves a quiet clip beside a loud one by up to 20 dB."""
    quiet, loud = wave(1.0, gain=1e-6), np.sin(np.arange(16_000) / 3).astype(np.float32)
    loud = 30 * loud  # as after a gain: 120 dB below is well above the floor of -100 dB
    alone = CedFeatureExtractor()(quiet)["input_values"][0]
    together = CedFeatureExtractor()([quiet, loud])["input_values"]
    assert np.array_equal(together[0], alone)
    assert alone.min() < together[1].max() - 130  # the batch's cutoff would have been felt
    assert together[1].min() == together[1].max() - np.float32(120)


def test_same_bits_with_any_number_of_threads_and_in_a_thread_of_its_own():
    from concurrent.futures import ThreadPoolExecutor

    clip = torch.from_numpy(wave(7.3))
    before, expected = torch.get_num_threads(), log_mel(clip)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(log_mel(clip), expected)
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(log_mel, clip).result(), expected)


def test_same_bits_wherever_the_clip_lies_in_memory():
    clip = wave(1.3)
    room = np.zeros(len(clip) + 16, np.float32)
    expected = log_mel(torch.from_numpy(clip))
    for start in range(16):  # 64 bytes, the alignment of every kernel there is
        room[start : start + len(clip)] = clip
        assert torch.equal(log_mel(torch.from_numpy(room[start : start + len(clip)])), expected)


def test_long_clips_go_in_blocks_of_frames():
    long = wave(50)  # 5001 frames; a block has 4096
    features, part = log_mel(torch.from_numpy(long)), log_mel(torch.from_numpy(long[160 * 4000 :]))
    assert torch.equal(features[:, 4010:], part[:, 10:])


def test_short_audio_is_padded_not_refused():
    for count in (1, 100, 2399):
        assert log_mel(torch.from_numpy(wave(1.0)[:count])).shape == (64, 16)


def test_audio_that_cannot_be_used_is_named():
    with pytest.raises(ValueError, match="one channel"):
        log_mel(torch.zeros(2, 16_000))
    with pytest.raises(ValueError, match="no samples"):
        log_mel(torch.zeros(0))
    with pytest.raises(ValueError, match="NaN"):
        log_mel(torch.full((4000,), float("nan")))


def test_extractor_resamples_any_rate():
    extractor = CedFeatureExtractor()
    time = np.arange(44_100) / 44_100
    high = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    low = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    a = extractor(high, sampling_rate=44_100)["input_values"][0, :, 10:90]
    b = extractor(low, sampling_rate=16_000)["input_values"][0, :, 10:90]
    assert np.abs(a.max(0) - b.max(0)).max() < 0.1 and (a.argmax(0) == b.argmax(0)).all()


def test_extractor_pads_with_a_mask():
    batch = CedFeatureExtractor()([wave(1.0), wave(0.5)], return_tensors="pt")
    assert batch["input_values"].shape == (2, 64, 101)
    assert batch["attention_mask"].sum(1).tolist() == [101, 51]


def test_stereo_is_not_a_batch_of_two():
    with pytest.raises(ValueError, match="average the channels"):
        CedFeatureExtractor()(np.zeros((2, 16_000), np.float32))


def test_whole_numbers_and_foreign_front_ends_are_refused():
    with pytest.raises(ValueError, match="int16.*32768"):
        CedFeatureExtractor()(np.zeros(16_000, np.int16))
    with pytest.raises(ValueError, match="hop_size must be 160, got 320"):
        CedFeatureExtractor(hop_size=320)


def test_lists_of_numbers_are_a_clip_too():
    numbers = wave(0.2).tolist()
    assert CedFeatureExtractor()(numbers)["input_values"].shape == (1, 64, 21)


def test_no_clips_are_refused():
    for nothing in ([], (), np.zeros(0, np.float32)):
        with pytest.raises(ValueError, match="none|sample"):
            CedFeatureExtractor()(nothing)
